"""All rows of docs/performance.md: each job is a process of one benchmark, and leaves results/performance/DEVICE/JOB.json.

    python benchmarks/suite.py                          # on what JAX takes: an accelerator, or the CPU
    python benchmarks/suite.py --list
    python benchmarks/suite.py --only 'training_*' --budget 500
    python -m kdhash.reproduce tables                   # writes the page from the files

Run it from the repository's root with nothing beside, with the extra `oracle` (PyTorch). A job whose file is there is not run
again (`--again`: it is). What a job that fails or is cut off has measured is kept, with a word of how it ended, and it is run
again the next time. The dearest part is compilation: XLA and torch.compile try out kernels, half a minute to a minute a row.
"""

import argparse
import fnmatch
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS, LOGS = Path("results/performance"), Path("runs/benchmarks")
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
LEAST = 45  # seconds; in less a job has no row


class Job(NamedTuple):
    command: str
    limit: int  # seconds


# Losses that PyTorch's side has too, and those that it has not.
TWINS = "nt_xent relational_distillation brcd similarity_likelihood rkd_distance"
OTHERS = "info_nce crd dpsh hashnet similarity_preserving pkt kdcmh_teacher_loss kdcmh_student_loss ucch_loss"


def training(network: str) -> Job:
    options = "--dtypes bfloat16 --pictures 1024 --seconds .2 --trace {traces}"
    return Job(f"training.py --networks {network} {options}", 150)


# In the order of what is missed most, should the time not do.
JOBS: dict[str, dict[str, Job]] = {
    "accelerator": {
        "training_resnet18": training("resnet18"),
        "teachers": Job("teachers.py --dtype bfloat16 --batch 256 --attention xla cudnn", 120),
        "training_mobilenet_v2": training("mobilenet_v2"),
        "pipeline": Job("pipeline.py --depth 8 --pictures 128 1024 --steps 300 --dtype bfloat16", 90),
        "losses": Job(f"losses.py --items 8192 --rounds 3 --losses {TWINS}", 150),
        "training_resnet8": training("resnet8"),
        "engines": Job(
            "engines.py --engines exact accelerator --formulations popcount matmul --rounds 3", 90
        ),
        "training_resnet20": training("resnet20"),
        "losses_others": Job(f"losses.py --items 8192 --rounds 3 --losses {OTHERS}", 120),
    },
    "cpu": {
        "training": Job(
            "training.py --networks resnet8 resnet20 mobilenet_v2 resnet18 --modes eager --rounds 3 --seconds .1",
            900,
        ),
        "training_divided": Job(
            "training.py --host-devices 8 --networks resnet8 resnet20 mobilenet_v2 resnet18 --modes eager --rounds 7 "
            "--seconds .1",
            900,
        ),
        "order": Job("order.py", 600),
        "order_divided": Job("order.py --host-devices 8", 600),
        "order_divided_4": Job("order.py --host-devices 4 --networks resnet20", 120),
        "order_divided_16": Job("order.py --host-devices 16 --networks resnet20", 120),
        "teachers": Job("teachers.py --modes eager --batch 16 --rounds 3", 300),
        "pipeline": Job("pipeline.py --steps 20", 120),
        "decode": Job("decode.py --sizes 32 64 256 --threads-tried 0 8", 120),
        "pipeline_divided": Job("pipeline.py --host-devices 8 --steps 30", 120),
        "losses": Job(
            f"losses.py --items 8192 --modes eager --rounds 3 --seconds .1 --cubic-items 0 --losses {TWINS}",
            600,
        ),
    },
}


def device() -> tuple[str, str]:
    """The kind of jobs, and the folder of JAX's first device. In a process of its own, which gives the device back. Raises
    RuntimeError where PyTorch would be measured on another one."""
    asked = "import jax, torch; print(jax.default_backend(), torch.cuda.is_available(), jax.devices()[0].device_kind, sep='|')"
    told = subprocess.run(
        [sys.executable, "-c", asked], check=True, stdout=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    backend, cuda, name = told.stdout.strip().splitlines()[-1].split("|")
    if (backend == "gpu") != (cuda == "True"):
        raise RuntimeError(
            f"JAX uses a {backend}, and PyTorch's answer to whether it has CUDA is {cuda}: install both for the same device"
        )
    if backend == "cpu":
        return "cpu", "cpu"
    return "accelerator", re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def measured(path: Path) -> list[dict[str, Any]]:
    """The rows of a file that hold a time; none where there is no file."""
    rows = json.loads(path.read_text())["rows"] if path.is_file() else []
    return [row for row in rows if "failed" not in row]


def is_done(path: Path) -> bool:
    return bool(measured(path)) and "ended" not in json.loads(path.read_text())


def run(name: str, job: Job, seconds: float, path: Path, logs: Path) -> str:
    """Runs a job for at most so many seconds. Returns how it ended, nothing where it went well."""
    logs.mkdir(parents=True, exist_ok=True)
    fresh, log = logs / f"{name}.json", logs / f"{name}.log"
    fresh.unlink(missing_ok=True)
    program, *options = job.command.format(traces=logs / "traces").split()
    command = [sys.executable, str(ROOT / "benchmarks" / program), *options, "--json", str(fresh)]
    ended = "was stopped"
    with log.open("w") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True, env=ENVIRONMENT
        )
        try:
            code = process.wait(seconds)
            ended = f"ended with {code}" if code else ""
        except subprocess.TimeoutExpired:
            ended = f"was cut off after {seconds:.0f} s"
        finally:  # also where this program is stopped
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its compilers too
                process.wait()
            keep(fresh, path, ended)
    if not ended and not measured(fresh):
        ended = "measured nothing"
    return f"{ended}: {log}" if ended else ""


def keep(fresh: Path, path: Path, ended: str) -> None:
    """Puts what a job wrote in the place of what is there, unless it ended early and has fewer rows."""
    rows = measured(fresh)
    if not rows or (ended and len(rows) < len(measured(path))):
        return
    found = json.loads(fresh.read_text()) | ({"ended": ended} if ended else {})
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(found, indent=1) + "\n")
    partial.replace(path)


def stop(number: int, _: Any) -> None:
    """SIGTERM, as an outer `timeout` sends it, puts away what runs, as Ctrl-C does."""
    sys.exit(128 + number)


def main() -> int:
    """Returns 0, 1 where a job failed, was cut off or left out, and 2 where the machine lacks something."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="JOB", help="these alone; * stands for anything")
    parser.add_argument("--budget", type=float, default=1e9, metavar="SECONDS", help="of all jobs together")
    parser.add_argument("--again", action="store_true", help="also what is there already")
    parser.add_argument("--list", action="store_true", help="say which jobs there are, and which are done")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--logs", type=Path, default=LOGS, help="and traces")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, stop)
    start = time.monotonic()
    try:
        kind, folder = device()
    except (RuntimeError, subprocess.CalledProcessError) as error:
        print(f"suite.py: {error}", file=sys.stderr)
        return 2
    print(f"device: {folder}", flush=True)
    jobs = {
        name: job
        for name, job in JOBS[kind].items()
        if not args.only or any(fnmatch.fnmatchcase(name, pattern) for pattern in args.only)
    }
    if not jobs:
        parser.error(f"--only {' '.join(args.only)}: no such job; there are {', '.join(JOBS[kind])}")
    failed = False
    for name, job in jobs.items():
        path = args.results / folder / f"{name}.json"
        done = is_done(path) and not args.again
        if args.list or done:
            print("done   " if done else "not run", path, flush=True)
            continue
        left = args.budget - (time.monotonic() - start)
        began = time.monotonic()
        ended = (
            run(name, job, min(job.limit, left), path, args.logs)
            if left > LEAST
            else "left out, the time is used up"
        )
        failed |= bool(ended)
        print(f"{name}: {ended or path} ({time.monotonic() - began:.0f} s)", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())

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

RESULTS, LOGS = Path("results/performance"), Path("runs/benchmarks")
LEAST = 30  # seconds, for which no job is begun


class Job(NamedTuple):
    command: str
    limit: int  # seconds


PAIRS = "nt_xent relational_distillation brcd similarity_likelihood info_nce crd dpsh hashnet similarity_preserving pkt"
CROSS = "kdcmh_teacher_loss kdcmh_student_loss ucch_loss"
ON_ACCELERATOR = "--dtypes bfloat16 --pictures 1024 --seconds .2 --trace {traces}"
# In the order of what is missed most, should the time not do.
JOBS: dict[str, dict[str, Job]] = {
    "accelerator": {
        **{
            f"training_{network}": Job(f"training.py --networks {network} {ON_ACCELERATOR}", 150)
            for network in ("resnet18", "mobilenet_v2", "resnet8", "resnet20")
        },
        "teachers": Job("teachers.py --dtype bfloat16 --batch 256 --attention xla cudnn", 120),
        "pipeline": Job("pipeline.py --depth 8 --pictures 128 1024 --steps 300 --dtype bfloat16", 90),
        "losses": Job(f"losses.py --items 8192 --rounds 3 --losses {PAIRS} {CROSS} rkd_distance", 150),
        "engines": Job(
            "engines.py --engines exact accelerator --formulations popcount matmul --rounds 3", 90
        ),
    },
    "cpu": {
        "training": Job(
            "training.py --networks resnet8 resnet20 mobilenet_v2 resnet18 --modes eager --rounds 3 --seconds .1",
            900,
        ),
        "training_divided": Job(
            "training.py --host-devices 8 --networks resnet8 resnet20 --losses dmth --modes eager --rounds 3 "
            "--seconds .1",
            300,
        ),
        "teachers": Job("teachers.py --modes eager --batch 16 --rounds 3", 300),
        "pipeline": Job("pipeline.py --steps 20", 120),
        "pipeline_divided": Job("pipeline.py --host-devices 8 --steps 30", 120),
        "losses": Job(
            "losses.py --items 8192 --modes eager --rounds 3 --seconds .1 --cubic-items 0 --losses nt_xent "
            "relational_distillation brcd similarity_likelihood rkd_distance",
            600,
        ),
    },
}


def device() -> tuple[str, str]:
    """The kind of jobs, and the folder of JAX's first device. In a process of its own, which gives the device back."""
    asked = "import jax; print(jax.default_backend(), jax.devices()[0].device_kind, sep='|')"
    told = subprocess.run([sys.executable, "-c", asked], check=True, stdout=subprocess.PIPE, text=True)
    backend, _, name = told.stdout.strip().splitlines()[-1].partition("|")
    if backend == "cpu":
        return "cpu", "cpu"
    return "accelerator", re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def is_done(path: Path) -> bool:
    return path.is_file() and "ended" not in json.loads(path.read_text())


def run(name: str, job: Job, seconds: float, path: Path, logs: Path) -> str:
    """Runs a job for at most so many seconds; leaves its rows in `path`. Returns how it ended, nothing where it went well."""
    logs.mkdir(parents=True, exist_ok=True)
    fresh, log = logs / f"{name}.json", logs / f"{name}.log"
    fresh.unlink(missing_ok=True)
    program, *options = job.command.format(traces=logs / "traces").split()
    command = [sys.executable, str(Path(__file__).with_name(program)), *options, "--json", str(fresh)]
    with log.open("w") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)
        try:
            code = process.wait(seconds)
            ended = f"ended with {code}" if code else ""
        except subprocess.TimeoutExpired:
            ended = f"was cut off after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)  # its compilers too
                process.wait()
    if not fresh.is_file():
        return f"{ended or 'wrote no rows'}: {log}"
    found: dict[str, Any] = json.loads(fresh.read_text())
    if ended:
        found["ended"] = ended
    before = json.loads(path.read_text())["rows"] if path.is_file() else []
    if not ended or len(found["rows"]) >= len(before):
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(path.name + ".partial")
        partial.write_text(json.dumps(found, indent=1) + "\n")
        partial.replace(path)
    return f"{ended}: {log}" if ended else ""


def main() -> int:
    """Returns 0, or 1 where a job failed, was cut off or left out."""
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
    start = time.monotonic()
    kind, folder = device()
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

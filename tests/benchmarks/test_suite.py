"""The suite of benchmarks: what is kept of a job that ends well, fails, or is cut off, and what is run again."""

import importlib.util
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from kdhash.reproduce import performance

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
WRITES = """
import json, os, sys, time
good, bad, then = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
path = sys.argv[sys.argv.index("--json") + 1]
rows = [{"loss": "a"}] * good + [{"loss": "b", "failed": "no memory"}] * bad
if rows:
    with open(path + ".partial", "w") as file:
        json.dump({"benchmark": "losses", "machine": {}, "rows": rows}, file)
    os.replace(path + ".partial", path)
if then == "fails":
    sys.exit("no memory")
if then == "hangs":
    time.sleep(60)
"""


@pytest.fixture
def suite(monkeypatch, tmp_path):
    spec = importlib.util.spec_from_file_location("suite", FOLDER / "suite.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "suite", module)
    spec.loader.exec_module(module)
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "writes.py").write_text(WRITES)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    yield module
    signal.signal(signal.SIGTERM, before)


def test_jobs_name_programs_and_make_the_tables_of_the_page(suite):
    for jobs in suite.JOBS.values():
        programs = {job.command.split()[0] for job in jobs.values()}
        assert all((FOLDER / program).is_file() for program in programs)
        assert {program.removesuffix(".py") for program in programs} <= performance.COLUMNS.keys()


def test_jobs_are_commands_that_their_programs_understand(suite):
    shared = (FOLDER / "measure.py").read_text()
    for job in {job for jobs in suite.JOBS.values() for job in jobs.values()}:
        program, *options = job.command.format(traces="traces").split()
        known = (FOLDER / program).read_text() + shared
        assert all(f'"{option}"' in known for option in options if option.startswith("--")), job
        # what is no choice of an option ends the program before it comes to the help
        command = [sys.executable, str(FOLDER / program), *options, "--help"]
        told = subprocess.run(command, capture_output=True, text=True, check=False)
        assert told.returncode == 0, told.stderr


@pytest.fixture
def job(suite, tmp_path):
    """run(what it does, seconds) -> what is said of it; kept() -> how many rows there are, and how they ended."""
    path, logs = tmp_path / "results" / "gpu" / "losses.json", tmp_path / "logs"

    def run(does, seconds=30.0):
        return suite.run("losses", suite.Job(f"writes.py {does}", 60), seconds, path, logs)

    def kept():
        if not path.exists():
            return None
        assert [each.name for each in path.parent.iterdir()] == ["losses.json"]
        found = json.loads(path.read_text())
        assert suite.is_done(path) is ("ended" not in found)
        return len(found["rows"]), found.get("ended")

    return run, kept, logs / "losses.log"


def test_a_job_leaves_its_rows_and_how_it_ended(job):
    run, kept, log = job
    assert run("0 0 fails") == f"ended with 1: {log}"
    assert kept() is None
    assert "no memory" in log.read_text()
    assert run("2 0 hangs", 2.0) == f"was cut off after 2 s: {log}"
    assert kept() == (2, "was cut off after 2 s")
    assert run("1 5 fails") == f"ended with 1: {log}"
    assert kept() == (2, "was cut off after 2 s")  # one row is less
    assert run("1 1 ends") == ""
    assert kept() == (2, None)


def test_rows_that_failed_are_none(job):
    run, kept, log = job
    assert run("0 3 ends") == f"measured nothing: {log}"
    assert kept() is None
    assert run("1 0 ends") == ""
    assert run("0 3 ends") == f"measured nothing: {log}"
    assert kept() == (1, None)


def test_what_a_job_has_measured_outlives_a_stop(suite, job, monkeypatch, tmp_path):
    run, kept, _ = job
    processes = []

    class Interrupted(subprocess.Popen):
        def wait(self, timeout=None):
            if timeout is None:
                return super().wait()
            processes.append(self)
            while not (tmp_path / "logs" / "losses.json").exists():
                time.sleep(0.05)
            raise KeyboardInterrupt

    monkeypatch.setattr(suite.subprocess, "Popen", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        run("2 0 hangs")
    assert processes[0].returncode == -signal.SIGKILL
    assert kept() == (2, "was stopped")


def test_only_what_is_missing_is_run_and_only_while_there_is_time(suite, tmp_path, monkeypatch, capsys):
    jobs = {"good": suite.Job("writes.py 1 0 ends", 60), "bad": suite.Job("writes.py 0 0 fails", 60)}
    monkeypatch.setattr(suite, "JOBS", {"accelerator": jobs})
    monkeypatch.setattr(suite, "device", lambda: ("accelerator", "a-gpu"))

    def main(*options):
        places = ["--results", str(tmp_path / "results"), "--logs", str(tmp_path / "logs")]
        monkeypatch.setattr(sys, "argv", ["suite.py", *places, *options])
        code = suite.main()
        return code, capsys.readouterr().out

    assert main("--budget", "10") == (
        1,
        "device: a-gpu\ngood: left out, the time is used up (0 s)\nbad: left out, the time is used up (0 s)\n",
    )
    assert main("--only", "g*")[0] == 0
    assert (tmp_path / "results" / "a-gpu" / "good.json").is_file()
    code, told = main()
    assert code == 1
    assert "\ndone    " in told
    assert "bad: ended with 1" in told
    assert main("--list") == (
        0,
        f"device: a-gpu\ndone    {tmp_path}/results/a-gpu/good.json\nnot run {tmp_path}/results/a-gpu/bad.json\n",
    )
    with pytest.raises(SystemExit):
        main("--only", "nothing")
    assert "no such job; there are good, bad" in capsys.readouterr().err


def test_the_device_is_told_by_another_process(suite, monkeypatch, capsys):
    answer = "cpu|False|cpu"

    def told(*_, **__):
        return subprocess.CompletedProcess((), 0, f"a warning\n{answer}\n")

    monkeypatch.setattr(suite.subprocess, "run", told)
    assert suite.device() == ("cpu", "cpu")
    answer = "gpu|True|NVIDIA H100 80GB HBM3"
    assert suite.device() == ("accelerator", "nvidia-h100-80gb-hbm3")
    answer = "gpu|False|NVIDIA H200"
    monkeypatch.setattr(sys, "argv", ["suite.py"])
    assert suite.main() == 2
    assert "JAX uses a gpu, and PyTorch's answer to whether it has CUDA is False" in capsys.readouterr().err


def test_commands_are_told_as_they_are_typed(suite, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    from measure import command

    argv = [
        "/home/somebody/benchmarks/losses.py",
        "--items",
        "8",
        "--json",
        "/tmp/a.json",
        "--trace",
        "/tmp/t",
    ]
    assert command(argv) == "python benchmarks/losses.py --items 8"


def test_rows_outlive_what_comes_after_them(monkeypatch, tmp_path, capsys):
    monkeypatch.syspath_prepend(FOLDER)
    from measure import Record

    record = Record(tmp_path / "a" / "rows.json", bits=64)
    record.add(loss="dpsh", ms=1.5)
    record.amend(kernels=[])
    found = json.loads((tmp_path / "a" / "rows.json").read_text())
    assert found["rows"] == [{"loss": "dpsh", "ms": 1.5, "kernels": []}]
    assert found["bits"] == 64
    assert "loss dpsh  ms 1.5" in capsys.readouterr().out


def test_a_trace_is_told_by_kinds_of_kernels(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(FOLDER)
    from kernels import Event, covered, kind_of, kinds, longest

    assert kind_of("sm90_xmma_wgrad_implicit_gemm") == "weight gradients of convolutions"
    assert kind_of("loop_convert_fusion") == "element by element"
    assert kind_of("input_reduce_fusion_3") == "reductions"
    assert covered([Event("a", 0, 4), Event("b", 1, 2), Event("c", 6, 7)]) == 5
    with pytest.raises(FileNotFoundError, match="no trace"):
        kinds(tmp_path, 1)
    x = jnp.ones((64, 64))
    product = jax.jit(lambda x: jnp.tanh(x @ x).sum())
    product(x).block_until_ready()
    with jax.profiler.trace(str(tmp_path)):
        for _ in range(2):
            product(x).block_until_ready()
    found = kinds(tmp_path, 2)
    assert sum(row["share"] for row in found) == pytest.approx(1)
    assert all(row["ms"] > 0 and row["number"] > 0 for row in found)
    assert len(longest(tmp_path, 2, 1)) == 1

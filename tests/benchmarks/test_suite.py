"""The suite of benchmarks: what is kept of a job that ends well, fails, or is cut off, and what is run again."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from kdhash.reproduce import performance

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"
WRITES = """
import json, sys, time
rows, then = int(sys.argv[1]), sys.argv[2]
path = sys.argv[sys.argv.index("--json") + 1]
if rows:
    open(path, "w").write(json.dumps({"benchmark": "losses", "machine": {}, "rows": [{"loss": "a"}] * rows}))
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
    (tmp_path / "writes.py").write_text(WRITES)
    monkeypatch.setattr(module, "__file__", str(tmp_path / "suite.py"))
    return module


def test_jobs_name_programs_and_make_the_tables_of_the_page(suite):
    for jobs in suite.JOBS.values():
        programs = {job.command.split()[0] for job in jobs.values()}
        assert all((FOLDER / program).is_file() for program in programs)
        assert {program.removesuffix(".py") for program in programs} <= performance.COLUMNS.keys()


def test_a_job_leaves_its_rows_and_how_it_ended(suite, tmp_path):
    path, logs = tmp_path / "results" / "gpu" / "losses.json", tmp_path / "logs"

    def run(rows, then, seconds=30.0):
        return suite.run("losses", suite.Job(f"writes.py {rows} {then}", 60), seconds, path, logs)

    def kept():
        found = json.loads(path.read_text())
        return len(found["rows"]), found.get("ended")

    assert "ended with 1" in run(0, "fails")
    assert not path.exists()
    assert "no memory" in (logs / "losses.log").read_text()
    assert "cut off after 2 s" in run(2, "hangs", 2.0)
    assert kept() == (2, "was cut off after 2 s")
    assert not suite.is_done(path)
    assert "ended with 1" in run(1, "fails")
    assert kept() == (2, "was cut off after 2 s")  # one row is less
    assert run(1, "is done") == ""
    assert kept() == (1, None)
    assert suite.is_done(path)
    assert [each.name for each in path.parent.iterdir()] == ["losses.json"]


def test_only_what_is_missing_is_run_and_only_while_there_is_time(suite, tmp_path, monkeypatch, capsys):
    jobs = {"good": suite.Job("writes.py 1 ends", 60), "bad": suite.Job("writes.py 0 fails", 60)}
    monkeypatch.setattr(suite, "JOBS", {"accelerator": jobs})
    monkeypatch.setattr(suite, "device", lambda: ("accelerator", "a-gpu"))

    def main(*options):
        places = ["--results", str(tmp_path / "results"), "--logs", str(tmp_path / "logs")]
        monkeypatch.setattr(sys, "argv", ["suite.py", *places, *options])
        code = suite.main()
        return code, capsys.readouterr().out

    assert main("--budget", "10") == (
        1,
        "good: left out, the time is used up (0 s)\nbad: left out, the time is used up (0 s)\n",
    )
    assert main("--only", "g*")[0] == 0
    assert (tmp_path / "results" / "a-gpu" / "good.json").is_file()
    code, told = main()
    assert code == 1
    assert told.startswith("done    ")
    assert "bad: ended with 1" in told
    assert main("--list") == (
        0,
        f"done    {tmp_path}/results/a-gpu/good.json\nnot run {tmp_path}/results/a-gpu/bad.json\n",
    )
    with pytest.raises(SystemExit):
        main("--only", "nothing")
    assert "no such job; there are good, bad" in capsys.readouterr().err


def test_the_device_is_told_by_another_process(suite):
    assert suite.device() == ("cpu", "cpu")

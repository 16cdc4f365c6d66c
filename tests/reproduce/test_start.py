"""Runs of a table as processes: what is started, kept and told. The main job is played by a few lines of Python."""

import json
import os
import signal
import textwrap
import threading
import time
from pathlib import Path

import pytest

from kdhash.reproduce import start
from kdhash.reproduce.__main__ import main
from kdhash.reproduce.plan import Places, planned
from tests.reproduce import made_up

STAND_IN = """
import json, os, pathlib, sys, time
workdir = pathlib.Path(sys.argv[sys.argv.index("--workdir") + 1])
seed = int(next(x for x in sys.argv if x.startswith("--config.seed=")).split("=")[1])
(workdir / "report").mkdir(parents=True, exist_ok=True)
with open(workdir.parent / "order", "a") as stream:
    print(seed, "starts", os.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "-"), file=stream)
if seed == 1 and not (workdir / "again").exists():
    (workdir / "again").touch()
    sys.exit("kdhash: out of luck")
if seed == 0:  # features first: another run that began now would compute them too
    time.sleep(1.2)
    with open(workdir.parent / "order", "a") as stream:
        print("0 has features", file=stream)
(workdir / "teacher" / "one").mkdir(parents=True, exist_ok=True)
(workdir / "teacher" / "one" / "started.json").touch()
time.sleep(0.2)
report = json.loads(pathlib.Path(os.environ["MADE_UP"]).read_text()) | {"seed": seed}
(workdir / "report" / "results.json").write_text(json.dumps(report))
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    (tmp_path / "kdhash").mkdir()
    (tmp_path / "kdhash" / "__init__.py").touch()
    (tmp_path / "kdhash" / "main.py").write_text(textwrap.dedent(STAND_IN))
    report = made_up.dmth_report()
    report["rows"][-1]["validation"] = None
    (tmp_path / "report.json").write_text(json.dumps(report))
    monkeypatch.setenv("MADE_UP", str(tmp_path / "report.json"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)  # before anything installed
    monkeypatch.setattr(start, "POLL", 0.05)
    return tmp_path


def test_runs_are_started_kept_and_skipped_and_a_failure_is_tried_again(stand_in, capsys):
    arguments = ["quickstart", "--seeds", "0", "1", "2", "--parallel", "3"]
    assert main(arguments) == 1
    told = capsys.readouterr()
    assert "failed: digits-seed1; the same command tries them again" in told.err
    assert "digits-seed1: exit code 1: kdhash: out of luck" in told.err
    folder = Path("results/quickstart")
    assert sorted(path.name for path in folder.iterdir()) == ["digits-seed0.json", "digits-seed2.json"]
    found = json.loads((folder / "digits-seed2.json").read_text())
    assert found["seeds"] == [2]
    assert found["machine"]["runs_beside"] == 2
    order = Path("runs/reproduce/quickstart/order").read_text().splitlines()
    assert order[0] == "0 starts false"
    assert order.index("0 has features") < order.index("2 starts false")
    assert main([*arguments, "--list"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "done    digits-seed0",
        "not run digits-seed1",
        "done    digits-seed2",
    ]
    before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert main(arguments[:5]) == 0  # one after the other, on the terminal
    told = capsys.readouterr().out
    assert "quickstart digits-seed0: done, results/quickstart/digits-seed0.json" in told
    assert "digits-seed1: starts\n" in told
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in before.items())
    assert "1 starts -" in Path("runs/reproduce/quickstart/order").read_text()


def test_a_signal_stops_the_runs_which_save(stand_in, capsys):
    (stand_in / "kdhash" / "main.py").write_text(
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (pathlib.Path('saved').touch(), sys.exit(0)))\n"
        "pathlib.Path('up').touch()\n"
        "time.sleep(60)\n"
    )

    def stop():
        while not Path("up").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop).start()
    assert main(["quickstart"]) == 130
    assert "stopped; the same command goes on" in capsys.readouterr().err
    assert Path("saved").exists()
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert not Path("results").exists()


def test_a_report_of_an_earlier_start_is_no_result(stand_in):
    run = planned("quickstart", [1])[0]
    report = stand_in / "runs" / run.name / "report" / "results.json"
    one = start.Started(run, type("Ended", (), {"returncode": 0})(), stand_in / "log", 2e9)
    places = Places(workdir=str(stand_in))
    report = stand_in / "quickstart" / run.name / "report" / "results.json"
    report.parent.mkdir(parents=True)
    report.write_text(json.dumps(made_up.dmth_report() | {"rows": []}))
    assert not start._keep("quickstart", one, places, stand_in / "results", 1)
    assert start._keep("quickstart", one._replace(since=0.0), places, stand_in / "results", 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("quickstart", "--only", "digit"), "--only digit: no such run; choose from digits-seed0"),
        (("robustness", "--list"), "robustness takes neither --list nor --only: it is no table of runs"),
        (
            ("robustness", "--seeds", "0"),
            "holds no finished run (files in results/ may tell of one made elsewhere): make it",
        ),
        (("quickstart", "--parallel", "0"), "--parallel 0: must be 1 or more"),
        (("quickstart", "--seeds", "1", "1"), "--seeds 1 1: each seed once"),
        (("tables", "--page", "page.md"), "No such file or directory: 'page.md'"),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(list(arguments)) == 2
    told = capsys.readouterr().err
    assert message in told
    assert len(told.splitlines()) == 1
    assert not list(tmp_path.iterdir())

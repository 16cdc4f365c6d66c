"""Starts the runs of a table, each a process of its own, and keeps what they found."""

import fnmatch
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import kdhash
from kdhash.reproduce import condense
from kdhash.reproduce.plan import Places, Planned, command

ROOT = Path(kdhash.__file__).resolve().parents[1]  # where configs/ lies
POLL = 0.5  # seconds


class Started(NamedTuple):
    run: Planned
    process: subprocess.Popen
    log: Path
    since: float  # time.time()


def reproduce(
    table: str, runs: Sequence[Planned], places: Places, results: Path, *, parallel: int = 1
) -> list[str]:
    """Runs what has no file in results/`table` yet, up to `parallel` at a time, and condenses each as it ends. Returns the names
    of the runs that failed; those after them are tried all the same.

    Runs that share teachers share their cached features: until the first run of a config has these, no other one of it starts.
    """
    failed: list[str] = []
    waiting = [run for run in runs if not _told(table, run, results)]
    running: list[Started] = []
    with _stoppable(running):
        while waiting or running:
            for run in list(waiting):
                if len(running) < parallel and _may_start(table, run, running, places):
                    waiting.remove(run)
                    running.append(_start(table, run, places, quiet=parallel > 1))
            for one in list(running):
                if one.process.poll() is not None:
                    running.remove(one)
                    if not _keep(table, one, places, results, parallel):
                        failed.append(one.run.name)
            if running:
                time.sleep(POLL)
    return failed


@contextmanager
def _stoppable(running: list[Started]) -> Iterator[None]:
    """On the way out what still runs gets SIGTERM: it keeps a checkpoint and goes. SIGTERM to this process, and a terminal that
    is closed, raise KeyboardInterrupt as Ctrl-C does."""
    kinds = [kind for kind in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(kind) == signal.SIG_DFL]
    for kind in kinds:
        signal.signal(kind, signal.default_int_handler)
    try:
        yield
    finally:
        for one in running:
            one.process.terminate()
        for one in running:
            one.process.wait()
        for kind in kinds:
            signal.signal(kind, signal.SIG_DFL)


def result_file(results: Path, table: str, run: Planned) -> Path:
    return results / table / f"{run.name}.json"


def is_done(table: str, run: Planned, results: Path) -> bool:
    """Whether the run's file is there, made by the same command; with which version, docs/results.md tells."""
    path = result_file(results, table, run)
    if not path.exists():
        return False
    return condense.read(path)["command"] == command(table, run)


def chosen(runs: Sequence[Planned], patterns: Sequence[str] | None) -> list[Planned]:
    """The runs whose name fits one of the patterns ('cifar10-2-*'). Raises ValueError for a pattern that fits none."""
    for pattern in patterns or ():
        if not any(fnmatch.fnmatch(run.name, pattern) for run in runs):
            raise ValueError(
                f"--only {pattern}: no such run; choose from {', '.join(run.name for run in runs)}"
            )
    return [run for run in runs if not patterns or any(fnmatch.fnmatch(run.name, one) for one in patterns)]


def _told(table: str, run: Planned, results: Path) -> bool:
    done = is_done(table, run, results)
    if done:
        print(f"{table} {run.name}: done, {result_file(results, table, run)}", flush=True)
    return done


def _may_start(table: str, run: Planned, running: list[Started], places: Places) -> bool:
    same = [one for one in running if one.run.config == run.config and _data(one.run) == _data(run)]
    return all(_has_features(Path(places.workdir) / table / one.run.name) for one in same)


def _data(run: Planned) -> object:
    return run.fields.get("dataset")


def _has_features(workdir: Path) -> bool:
    """Whether the first trained part of a run has begun: it reads all features before."""
    return any("pretrain" not in path.parts for path in _begun(workdir))


def _begun(workdir: Path) -> Iterator[Path]:
    return workdir.glob("*/*/started.json")


def _start(table: str, run: Planned, places: Places, *, quiet: bool) -> Started:
    log = Path(places.workdir) / table / f"{run.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    arguments = places.arguments(table, run)
    arguments[1] = str(ROOT / arguments[1])
    print(f"{table} {run.name}: starts" + (f", {log}" if quiet else ""), flush=True)
    # Runs that share an accelerator must not each take most of its memory.
    environment = os.environ | ({"XLA_PYTHON_CLIENT_PREALLOCATE": "false"} if quiet else {})
    command_line = [sys.executable, "-m", "kdhash.main", *arguments]
    since = time.time()
    # In a group of its own, Ctrl-C does not reach a run: it is told by SIGTERM, after which it saves.
    if not quiet:
        process = subprocess.Popen(command_line, env=environment, process_group=0)
        return Started(run, process, log, since)
    with log.open("a") as stream:
        process = subprocess.Popen(
            command_line, env=environment, stdout=stream, stderr=subprocess.STDOUT, process_group=0
        )
    return Started(run, process, log, since)


def _keep(table: str, one: Started, places: Places, results: Path, parallel: int) -> bool:
    seconds = time.time() - one.since
    report = Path(places.workdir) / table / one.run.name / "report" / "results.json"
    fresh = report.exists() and report.stat().st_mtime >= one.since
    if one.process.returncode or not fresh:  # a run that was stopped with SIGTERM exits with 0
        # Alone it wrote to the terminal, and the log, if there is one, is of another start.
        last = one.log.read_text().strip().splitlines()[-1:] if parallel > 1 else []
        print(
            f"{table} {one.run.name}: exit code {one.process.returncode}" + "".join(f": {x}" for x in last),
            file=sys.stderr,
            flush=True,
        )
        return False
    path = result_file(results, table, one.run)
    condense.write(path, condense.condense(condense.read(report), table, one.run, parallel))
    print(f"{table} {one.run.name}: {seconds:.0f} s, {path}", flush=True)
    return True

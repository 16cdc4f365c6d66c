"""Progress: lines where nobody looks at a terminal, and where they go."""

import pytest

from kdhash import progress
from kdhash.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def test_lines_tell_rate_and_time_left_on_standard_error(clock, capsys):
    with Progress("encoding", 10_000, "pictures", start=2_000) as watch:
        clock[0] += 2
        watch.update(3_000)  # sooner than every five seconds
        clock[0] += 4
        watch.update(5_000, note="3 left out")
        clock[0] += 4
        watch.update(10_000)
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.splitlines() == [
        "encoding: 5,000/10,000 pictures  500 pictures/s  10 s left  3 left out",
        "encoding: 10,000/10,000 pictures  800 pictures/s  0 s left",
    ]


def test_a_rate_may_count_other_units_than_the_work(clock, capsys):
    watch = Progress("student", 100, "steps")
    clock[0] += 10
    watch.update(40, "loss 0.5", scale=8, unit="examples")
    watch.close()
    assert capsys.readouterr().err == "student: 40/100 steps  32 examples/s  15 s left  loss 0.5\n"


def test_a_terminal_gets_a_bar(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress("encoding", 4, "pictures") as watch:
        watch.update(4, "done")
    told = capsys.readouterr()
    assert told.out == ""
    assert "4/4" in told.err
    assert "pictures/s done" in told.err


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (99, "99 s"), (200, "3 min 20 s"), (7_500, "2 h 05 min"), (360_000, "100 h 00 min")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text

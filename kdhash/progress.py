"""How far a long piece of work is: a bar on a terminal, plain lines elsewhere, all on standard error."""

import sys
import time
from typing import Any


class Progress:
    """Progress of `total` units of work, with their rate and the time left; as a context manager it closes itself.

    start: units done before, by an earlier run; they do not count for the rate.  every_seconds: between two lines.
    """

    def __init__(self, label: str, total: int, unit: str, start: int = 0, every_seconds: float = 5.0):
        self.label, self.total, self.unit, self.every = label, total, unit, every_seconds
        self._first, self._began, self._said = start, time.perf_counter(), 0.0
        self._bar: Any = None
        if sys.stderr.isatty():
            self._bar = _bar()
            self._bar.start()
            self._task = self._bar.add_task(label, total=total, completed=start, note="")

    def update(self, done: int, note: str = "", scale: float = 1.0, unit: str | None = None) -> None:
        """Says that `done` units are finished. `scale` units of the rate (such as images) go to one unit of work."""
        elapsed = time.perf_counter() - self._began
        speed = (done - self._first) / elapsed if elapsed > 0 else 0.0
        rate = f"{_number(speed * scale)} {unit or self.unit}/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=f"{rate} {note}")
        elif elapsed - self._said >= self.every or done >= self.total:
            self._said = elapsed
            left = f"{duration((self.total - done) / speed)} left" if speed else ""
            line = f"{self.label}: {done:,}/{self.total:,} {self.unit}  {rate}  {left}  {note}"
            print(line.rstrip(), file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def duration(seconds: float) -> str:
    """'42 s', '3 min 20 s', '2 h 05 min'."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600:,} h {whole % 3600 // 60:02} min"


def _number(rate: float) -> str:
    return f"{rate:,.0f}" if rate >= 10 or rate == 0 else f"{rate:.2g}"


def _bar() -> Any:
    from rich.console import Console  # here: most commands never draw one
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )

"""What a run writes while it trains: metrics.jsonl, TensorBoard, and lines or a bar for whoever watches."""

import json
import os
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from tensorboardX import SummaryWriter

FILE = "metrics.jsonl"


class MetricLog:
    """Appends {'step', name: value} lines. A resumed run first drops the lines after the step that it resumes from."""

    def __init__(self, folder: str | Path, resume_step: int):
        self.path = Path(folder) / FILE
        kept = [line for line in read_metrics(folder) if line["step"] <= resume_step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(temporary, self.path)
        self._file = self.path.open("a")
        self._board = SummaryWriter(str(Path(folder) / "tb"), purge_step=resume_step + 1, write_to_disk=True)

    def write(self, step: int, values: dict[str, float]) -> None:
        self._file.write(json.dumps({"step": step} | values) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        self._file.close()
        self._board.close()


def read_metrics(folder: str | Path) -> list[dict[str, float]]:
    """The lines of a run's metrics.jsonl; a last line cut off by a kill is left out."""
    path = Path(folder) / FILE
    if not path.exists():
        return []
    lines = []
    for line in path.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


class Watch:
    """Progress of `total` units of work: a bar with rate and time left on a terminal, plain lines elsewhere."""

    def __init__(self, label: str, total: int, unit: str, start: int = 0, every_seconds: float = 5.0):
        self.label, self.total, self.unit, self.every = label, total, unit, every_seconds
        self._first, self._began, self._said = start, time.perf_counter(), 0.0
        self._bar: Progress | None = None
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TextColumn("{task.fields[note]}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._bar.start()
            self._task = self._bar.add_task(label, total=total, completed=start, note="")

    def update(self, done: int, note: str = "", scale: float = 1.0, unit: str | None = None) -> None:
        """Says that `done` units are finished. `scale` units of the rate (such as images) go to one unit of work."""
        elapsed = time.perf_counter() - self._began
        speed = (done - self._first) / elapsed if elapsed > 0 else 0.0
        rate = f"{speed * scale:,.0f} {unit or self.unit}/s"
        if self._bar is not None:
            self._bar.update(self._task, completed=done, note=f"{rate} {note}")
        elif elapsed - self._said >= self.every or done >= self.total:
            self._said = elapsed
            left = (self.total - done) / speed if speed else float("nan")
            print(
                f"{self.label}: {done}/{self.total} {self.unit}  {rate}  {left:.0f} s left  {note}".rstrip(),
                flush=True,
            )

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()

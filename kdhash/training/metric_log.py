"""What a run writes while it trains: metrics.jsonl and TensorBoard."""

import json
import os
import sys
from pathlib import Path
from typing import Any

FILE = "metrics.jsonl"


class MetricLog:
    """Appends {'step', name: value} lines. A resumed run first drops the lines after the step that it resumes from.

    `writes` False makes one that does nothing: of several processes one writes.
    """

    def __init__(self, folder: str | Path, resume_step: int, writes: bool = True):
        self.path = Path(folder) / FILE
        self._writes = writes
        if not writes:
            return
        kept = [line for line in read_metrics(folder) if line["step"] <= resume_step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        os.replace(temporary, self.path)
        self._file = self.path.open("a")
        self._board = _summary_writer()(
            str(Path(folder) / "tb"), purge_step=resume_step + 1, write_to_disk=True
        )

    def write(self, step: int, values: dict[str, float]) -> None:
        if not self._writes:
            return
        self._file.write(json.dumps({"step": step} | values) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writes:
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


def _summary_writer() -> Any:
    """tensorboardX's. It imports PyTorch where that is installed, which takes seconds, and has no use for it here."""
    absent: dict[str, Any] = {} if "torch" in sys.modules else {"torch": None}
    sys.modules.update(absent)
    try:
        from tensorboardX import SummaryWriter
    finally:
        for name in absent:
            del sys.modules[name]
    return SummaryWriter

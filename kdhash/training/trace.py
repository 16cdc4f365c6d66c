"""A few steps of a training, traced: what the host and the devices did when."""

from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import jax

WARM_UP = 10  # steps before: they compile, and fill the prefetch


class Profile(NamedTuple):
    """How many steps to trace, 0 for none, and the folder that the trace is written into."""

    steps: int
    folder: Path


class Trace:
    """Traces `profile.steps` steps of those from `start` + 1 to `last`, after `WARM_UP` others; where so many are not left, after
    fewer, but always after the first. A context manager: leaving it ends a trace that is on."""

    def __init__(self, profile: Profile | None, start: int, last: int):
        steps = profile.steps if profile else 0
        self._folder = profile.folder if profile else None
        begin = start + max(1, min(WARM_UP, last - start - steps))
        self._from, self._to = (begin + 1, begin + steps) if steps else (-1, -1)
        self._on = False

    def before(self, step: int, last: object) -> bool:
        """To be called before a step is handed over; `last` is what the steps before it return. Whether it waited for that."""
        if step == self._from:
            jax.block_until_ready(last)
            jax.profiler.start_trace(str(self._folder), create_perfetto_trace=True)
            self._on = True
        return step == self._from

    def after(self, step: int, result: object) -> bool:
        """To be called after a step was handed over, with what it returns. Whether it waited for that."""
        ends = self._on and step == self._to
        if ends:
            self._end(result)
        return ends

    def __enter__(self) -> "Trace":
        return self

    def __exit__(
        self, _type: type | None, _error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if self._on:
            self._end(None)

    def _end(self, result: object) -> None:
        jax.block_until_ready(result)
        jax.profiler.stop_trace()
        self._on = False

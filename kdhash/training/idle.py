"""How long the devices wait for the host while a network trains."""

import contextlib
import queue
import sys
import threading
import time
from typing import Any

import jax

# Seconds after which a thread that computes in Python lets another one go on. With Python's own 5 ms the clock would note a
# result that late while the host is busy, which is just when the devices wait for it.
SWITCH = 2e-4


class DeviceClock:
    """Steps a second, and the share of the time in which the devices had none to work on.

    A thread waits for each step's result and notes when it came. A step that reached the devices later than the result of the
    step before it, or whose batch did, found them idle. Of several processes each sees its own devices.

    inline: a step may be worked on while it is handed over, as CPUs do; it then counts as there from the start of the call.
    """

    def __init__(self, inline: bool) -> None:
        self._inline = inline
        self._steps: queue.SimpleQueue[tuple[float, Any, Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._handed = self._done = 0
        self._switch = sys.getswitchinterval()
        sys.setswitchinterval(min(SWITCH, self._switch))
        self.restart()
        self._thread = threading.Thread(target=self._watch, name="clock", daemon=True)
        self._thread.start()

    def restart(self) -> None:
        """Forgets what was. To be called where the devices did something else, before they get the next step."""
        with self._lock:
            self._began = self._free = time.perf_counter()
            self._idle, self._before = 0.0, self._done

    def handed(self, called: float, result: Any, batch: Any = ()) -> None:
        """A step is on its way: `called` is time.perf_counter() before the call that returned `result`; `batch`, which the step
        waits for, may be on its way too."""
        self._handed += 1
        self._steps.put((called if self._inline else time.perf_counter(), batch, result))

    def read(self) -> dict[str, float]:
        """{'idle' in 0-1, 'steps_per_second'} since the last `read` or `restart`; waits for the steps that were handed over."""
        while self._done < self._handed:
            time.sleep(1e-4)
        with self._lock:
            seconds = max(time.perf_counter() - self._began, 1e-9)
            idle, count = min(self._idle / seconds, 1.0), self._done - self._before
        self.restart()
        return {"idle": idle, "steps_per_second": count / seconds}

    def close(self) -> None:
        self._steps.put(None)
        self._thread.join()
        sys.setswitchinterval(self._switch)

    def _watch(self) -> None:
        while (item := self._steps.get()) is not None:
            there, batch, result = item
            with contextlib.suppress(Exception):  # the loop meets it too, and says what it is
                if not _is_there(batch):
                    jax.block_until_ready(batch)
                    there = max(there, time.perf_counter())
                jax.block_until_ready(result)
            with self._lock:
                self._idle += max(0.0, there - self._free)
                self._free, self._done = time.perf_counter(), self._done + 1


def _is_there(batch: Any) -> bool:
    """Without waiting; arrays of the host always are."""
    return all(leaf.is_ready() for leaf in jax.tree.leaves(batch) if hasattr(leaf, "is_ready"))

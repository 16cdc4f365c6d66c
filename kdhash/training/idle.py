"""How long the devices wait for the host while a network trains."""

import contextlib
import queue
import threading
import time
from typing import Any

import jax


class DeviceClock:
    """Steps a second, and the share of the time in which the devices had none to work on.

    A thread waits for each step's result and notes when it came. A step that reached the devices later than the result of the
    step before it found them idle. Of several processes each sees its own devices.

    inline: a step may be worked on while it is handed over, as CPUs do; it then counts as there from the start of the call.
    """

    def __init__(self, inline: bool) -> None:
        self._inline = inline
        self._steps: queue.SimpleQueue[tuple[float, Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._handed = self._done = 0
        self.restart()
        self._thread = threading.Thread(target=self._watch, name="clock", daemon=True)
        self._thread.start()

    def restart(self) -> None:
        """Forgets what was. To be called where the devices did something else, before they get the next step."""
        with self._lock:
            self._began = self._free = time.perf_counter()
            self._idle, self._before = 0.0, self._done

    def handed(self, called: float, result: Any) -> None:
        """A step is on its way: `called` is time.perf_counter() before the call that returned `result`."""
        self._handed += 1
        self._steps.put((called if self._inline else time.perf_counter(), result))

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

    def _watch(self) -> None:
        while (item := self._steps.get()) is not None:
            handed, result = item
            with contextlib.suppress(Exception):  # the loop meets it too, and says what it is
                jax.block_until_ready(result)
            with self._lock:
                self._idle += max(0.0, handed - self._free)
                self._free, self._done = time.perf_counter(), self._done + 1

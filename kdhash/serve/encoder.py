"""Pictures and texts of concurrent requests to codes, in common batches, on one worker thread."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from kdhash.export.model import IMAGE_TEXT, PADDED

LARGEST = 8  # pictures or texts of a batch: on a CPU larger ones gain nothing, and whoever comes first waits for the others
WAIT_MS = 4.0


class Encoded(NamedTuple):
    """A code, and what it took."""

    code: UInt8[np.ndarray, " bytes"]
    decode_ms: float
    """reading the picture"""
    encode_ms: float
    """all until the code is there, reading and waiting for others included"""
    batch: int
    """how many requests were encoded together"""


class Encoder:
    """Encodes one batch after the other, each of all requests that are waiting, up to `largest`.

    A request that is alone is encoded at once. While others are still reading their pictures, a batch waits
    for them, at most `wait_ms` milliseconds.
    """

    def __init__(self, model: Any, readers: Executor, largest: int = LARGEST, wait_ms: float = WAIT_MS):
        self.model = model
        self.largest = largest
        self.wait_ms = wait_ms
        self._readers = readers
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="encode")
        self._reading = 0
        self._waiting: deque[tuple[str, Any, asyncio.Future]] = deque()
        self._batches: asyncio.Task | None = None

    def warm(self) -> None:
        """Encodes a batch of each size that a model pads to, so that no request has to wait for its compilation."""
        for size in {min(size, self.largest) for size in (*PADDED, self.largest)}:
            self._encode("picture", [np.zeros((self.model.size, self.model.size, 3), np.uint8)] * size)
            if self.model.kind == IMAGE_TEXT:
                self._encode("text", ["a"] * size)

    async def picture(self, read: Callable[[], np.ndarray]) -> Encoded:
        """The code of the picture that `read`, called in a thread, gives: uint8 [size, size, 3]. Raises what `read` does."""
        started = time.perf_counter()
        self._reading += 1
        try:
            pixels = await asyncio.get_running_loop().run_in_executor(self._readers, read)
        finally:
            self._reading -= 1
        return await self._submit("picture", pixels, started, decode_ms=milliseconds_since(started))

    async def text(self, text: str) -> Encoded:
        """The code of a text."""
        return await self._submit("text", text, time.perf_counter(), decode_ms=0.0)

    def close(self) -> None:
        """Ends the worker; what it is doing, it finishes."""
        self._worker.shutdown()

    async def _submit(self, kind: str, item: Any, started: float, decode_ms: float) -> Encoded:
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((kind, item, future))
        if self._batches is None:
            self._batches = asyncio.create_task(self._run())
        code, batch = await future
        return Encoded(code, decode_ms, milliseconds_since(started), batch)

    async def _run(self) -> None:
        while self._waiting:
            await self._let_others_come()
            batch = self._take()
            futures = [future for _, _, future in batch]
            try:
                codes = await asyncio.get_running_loop().run_in_executor(
                    self._worker, self._encode, batch[0][0], [item for _, item, _ in batch]
                )
            except Exception as error:  # whoever waits must hear of it
                for future in futures:
                    if not future.done():
                        future.set_exception(error)
                continue
            for future, code in zip(futures, codes, strict=True):
                if not future.done():
                    future.set_result((code, len(batch)))
        self._batches = None

    async def _let_others_come(self) -> None:
        patience = time.perf_counter() + self.wait_ms / 1000
        while self._reading and len(self._waiting) < self.largest and time.perf_counter() < patience:
            await asyncio.sleep(0.0005)

    def _take(self) -> list[tuple[str, Any, asyncio.Future]]:
        """The longest-waiting request and those of its kind behind it."""
        kind = self._waiting[0][0]
        batch = [entry for entry in self._waiting if entry[0] == kind][: self.largest]
        taken = {id(entry) for entry in batch}
        self._waiting = deque(entry for entry in self._waiting if id(entry) not in taken)
        return batch

    def _encode(self, kind: str, items: list[Any]) -> UInt8[np.ndarray, "items bytes"]:
        if kind == "text":
            return self.model.encode_texts(items)
        return self.model.encode_pictures(np.stack(items))


def milliseconds_since(started: float) -> float:
    """Since a reading of time.perf_counter."""
    return (time.perf_counter() - started) * 1000

"""What is served: an index that may change, a model that may be missing, and the threads that work for them."""

import io
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import Image

from kdhash.export.queries import check_may_search
from kdhash.retrieval.engines.index_ivf import StaleIvf
from kdhash.serve.answers import found_rows, item_rows
from kdhash.serve.encoder import Encoder, milliseconds_since
from kdhash.serve.pictures import read_picture
from kdhash.serve.questions import Options
from kdhash.serve.refusals import Limits

REFRESH_SECONDS = 1.0
MOST_READERS = 8  # each may hold a decoded picture
log = logging.getLogger("kdhash.serve")


class Served:
    """An index and a model, and how requests reach them. Everything but `encoder` may be called in any thread."""

    def __init__(self, index: Any, model: Any, engine: str, batch_size: int, limits: Limits, threads: int):
        if model is not None:
            check_may_search(model, index)
        self.model = model
        self.engine = engine
        self.limits = limits
        self.threads = ThreadPoolExecutor(threads, thread_name_prefix="serve")
        # searches do not wait for pictures
        self.readers = ThreadPoolExecutor(min(threads, MOST_READERS), thread_name_prefix="read")
        self.encoder = None if model is None else Encoder(model, self.readers, batch_size)
        self._index = index
        self._refresh = threading.Lock()
        self._next_refresh = time.monotonic() + REFRESH_SECONDS

    def index(self) -> Any:
        """The index as it is on disk, looked up at most once a second."""
        if time.monotonic() >= self._next_refresh and self._refresh.acquire(blocking=False):
            try:
                newer = self._index.refresh()
                if self.model is not None:
                    check_may_search(self.model, newer)
                self._index = newer
            except (OSError, ValueError) as error:  # the older one still answers
                log.error("the index cannot be opened again, the older one is served: %s", error)
            finally:
                self._next_refresh = time.monotonic() + REFRESH_SECONDS
                self._refresh.release()
        return self._index

    def search(
        self, index: Any, code: UInt8[np.ndarray, " bytes"], options: Options, itself: int | None = None
    ) -> tuple[list[dict[str, Any]], float]:
        """(results as JSON rows, milliseconds of the search); `itself`: the number of an item to leave out."""
        started = time.perf_counter()
        more = itself is not None
        limits = {"k": options.k + more, "radius": options.radius, "where": options.where}
        try:
            found = index.search(code[None], engine=self.engine, **limits)
        except (StaleIvf, FileNotFoundError):
            # until the approximate index is made anew, the exact engine answers
            found = index.search(code[None], **limits)
        numbers, distances = found.numbers[0, : found.counts[0]], found.distances[0, : found.counts[0]]
        kept = np.flatnonzero(numbers != (-1 if itself is None else itself))[: options.k]
        search_ms = milliseconds_since(started)
        return found_rows(index, distances[kept].tolist(), numbers[kept], options.columns), search_ms

    def sample(self, index: Any, count: int) -> list[dict[str, Any]]:
        """Up to `count` live items drawn at random."""
        return item_rows(index, sample_numbers(index, count, np.random.default_rng()))

    def warm(self) -> None:
        """Reads, encodes and searches once, so that no request waits for libraries, compilers, or the index's checksums."""
        if self.encoder is not None:
            blank = io.BytesIO()
            Image.new("RGB", (8, 8)).save(blank, "PNG")
            read_picture(blank.getvalue(), self.model, self.limits.pixels)
            self.encoder.warm()
        self._index.search(np.zeros((1, self._index.bits // 8), np.uint8), k=1, engine=self.engine)

    def close(self) -> None:
        """Ends all threads once their work is done."""
        if self.encoder is not None:
            self.encoder.close()
        self.readers.shutdown()
        self.threads.shutdown()


def sample_numbers(index: Any, count: int, rng: np.random.Generator) -> Int64[np.ndarray, " n"]:
    """Numbers of up to `count` live items, each at most once; reads no more rows than it needs."""
    sizes = np.array([segment.count for segment in index.segments], np.int64)
    total = int(sizes.sum())
    # deleted rows are drawn too, and passed over: so many more are drawn than asked for
    drawn = np.arange(total) if total <= 2**16 else np.unique(rng.integers(0, total, 50 * count))
    ends = np.cumsum(sizes)
    numbers: list[int] = []
    for row in rng.permutation(drawn):
        if len(numbers) == count:
            break
        place = int(np.searchsorted(ends, row, side="right"))
        segment, inside = index.segments[place], int(row - (ends[place] - sizes[place]))
        if segment.deleted is None or not segment.deleted[inside]:
            numbers.append(int(segment.numbers_at(np.array([inside]))[0]))
    return np.array(numbers, np.int64)

"""Batches of pictures read, decoded and resized by threads, ahead of the device and never far ahead."""

import os
import time
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from PIL import UnidentifiedImageError

from kdhash.data.pictures import FORMATS, fit_square, open_rgb
from kdhash.export.encode_sources import Fetched, Source, fetch
from kdhash.export.thumbnails import thumbnail

AHEAD = 3  # batches decoded beyond the one that the device works on
SHARE = 16  # pictures of a batch that one thread takes at a time


@dataclass
class Picture:
    """What is known of a picture (or text) once it was read. place: of a row with the same content (-1: it is to be encoded).

    reason: why it cannot be read, '' where it can.  length: of the file, in bytes.
    """

    length: int = 0
    mtime_ns: int | None = None
    sha256: str = ""
    width: int = 0
    height: int = 0
    thumb: bytes = b""
    place: int = -1
    reason: str = ""
    seconds: dict[str, float] = field(default_factory=dict)

    def fact(self, name: str) -> int | str | None:
        """The value of a column of `FACTS`."""
        facts = {"width": self.width, "height": self.height, "bytes": self.length}
        return {**facts, "mtime_ns": self.mtime_ns, "sha256": self.sha256}[name]


@dataclass(frozen=True, eq=False)
class Batch:
    """rows: of the source.  table: ids, and columns of records, a pyarrow.Table.  inputs: of the model, uint8 pictures
    [batch_size, size, size, 3], zeros where nothing is to be encoded and beyond the last; or texts."""

    rows: Int64[np.ndarray, " n"]
    table: Any
    pictures: list[Picture]
    inputs: Any


def default_workers() -> int:
    """Threads that decode: two more than processors, for those that wait for the disk."""
    return max(4, (os.cpu_count() or 1) + 2)


def batches_ahead(
    source: Source,
    rows: Int64[np.ndarray, " n"],
    *,
    size: int,
    batch_size: int,
    thumbnails: int,
    known: Callable[[str], int],
    workers: int,
) -> Generator[Batch, None, None]:
    """The pictures of `rows` in order, `batch_size` at a time.

    known: sha256 -> the place of a row with that content, which is then not decoded, or -1.  thumbnails: their longer side,
    0 for none. No more than `AHEAD` + 1 batches are in memory, and one decoded picture a thread.
    """
    with ThreadPoolExecutor(workers, thread_name_prefix="decode") as pool:
        waiting: deque[tuple[Batch, list[Future[None]]]] = deque()
        try:
            for start in range(0, len(rows), batch_size):
                some = rows[start : start + batch_size]
                places, table = source.read(some)
                pictures = [Picture() for _ in places]
                batch = Batch(some, table, pictures, np.zeros((batch_size, size, size, 3), np.uint8))

                def share(first: int, batch: Batch = batch, places: list[Path | Fetched] = places) -> None:
                    for at in range(first, min(first + SHARE, len(places))):
                        _prepare(places[at], batch.pictures[at], batch.inputs[at], thumbnails, known)

                waiting.append((batch, [pool.submit(share, first) for first in range(0, len(places), SHARE)]))
                if len(waiting) > AHEAD:
                    yield _finished(*waiting.popleft())
            while waiting:
                yield _finished(*waiting.popleft())
        finally:
            for _, futures in waiting:
                for future in futures:
                    future.cancel()


def text_batches(
    source: Source, rows: Int64[np.ndarray, " n"], batch_size: int, known: Callable[[str], int]
) -> Generator[Batch, None, None]:
    """The texts of `rows` in order, `batch_size` at a time; known: text -> the place of a row that has it, or -1."""
    import pyarrow as pa

    for start in range(0, len(rows), batch_size):
        some = rows[start : start + batch_size]
        table = source.listing.select(["id", "text"]).take(pa.array(some))
        texts = table["text"].to_pylist()
        yield Batch(some, table.select(["id"]), [Picture(place=known(text)) for text in texts], texts)


def spent(pictures: list[Picture]) -> dict[str, float]:
    """Seconds of all threads by what they did: read (waiting counts), decode, resize, thumbnail (processor time)."""
    total: dict[str, float] = {}
    for picture in pictures:
        for stage, seconds in picture.seconds.items():
            total[stage] = total.get(stage, 0.0) + seconds
    return total


def _finished(batch: Batch, futures: list[Future[None]]) -> Batch:
    for future in futures:
        future.result()
    return batch


def _prepare(
    place: Path | Fetched,
    picture: Picture,
    pixels: UInt8[np.ndarray, "size size 3"],
    side: int,
    known: Callable[[str], int],
) -> None:
    start = time.perf_counter()
    try:
        fetched = fetch(place)
        picture.length, picture.mtime_ns, picture.sha256 = len(fetched.data), fetched.mtime_ns, fetched.sha256
        picture.seconds["read"] = time.perf_counter() - start
        picture.place = known(picture.sha256)
        if picture.place >= 0:
            return
        clock = [time.thread_time()]  # processor time: these wait for nothing but a processor
        rgb = open_rgb(fetched.data)
        picture.width, picture.height = rgb.size
        clock.append(time.thread_time())
        pixels[:] = np.asarray(fit_square(rgb, len(pixels)))
        clock.append(time.thread_time())
        if side:
            picture.thumb = thumbnail(rgb, side)
        clock.append(time.thread_time())
        for stage, begun, ended in zip(("decode", "resize", "thumbnail"), clock, clock[1:], strict=False):
            picture.seconds[stage] = ended - begun
    except Exception as error:  # decoders raise anything on damaged input
        picture.reason = why_unreadable(error)


def why_unreadable(error: Exception) -> str:
    """Why a picture cannot be read, in one line, without the file's name."""
    if isinstance(error, UnidentifiedImageError):
        return f"no picture in a known format ({', '.join(FORMATS)})"
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    return " ".join(str(error).split()) or type(error).__name__

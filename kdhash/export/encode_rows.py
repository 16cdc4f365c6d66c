"""The loop that encodes: pictures ahead of the device, codes into blocks that a killed run leaves behind."""

import time
import warnings
from collections import defaultdict
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from PIL import Image

from kdhash.export.done_rows import CODE, REASON, THUMB, DoneRows, Workshop
from kdhash.export.encode_sources import Source
from kdhash.export.pictures_ahead import Batch, batches_ahead, default_workers, spent, text_batches
from kdhash.progress import Progress

BATCH_SIZE = 128
BLOCK_ROWS, BLOCK_SECONDS = 8192, 10.0  # a kill loses at most so many, or as much as was done in so long


@dataclass(frozen=True)
class Settings:
    """thumbnails: pixels of the longer side, 0 for none, None for those that are there, or else 128.  batch_size: pictures that
    the model sees at a time.  on_error: 'skip' or 'fail' at a picture that cannot be read.  checksum: compare all files by
    their content, not by size and time of change.  workers: threads that decode.  model_path: where the model lies.
    """

    thumbnails: int | None = None
    batch_size: int = BATCH_SIZE
    on_error: str = "skip"
    checksum: bool = False
    workers: int | None = None
    model_path: str = ""
    block_rows: int = BLOCK_ROWS

    def __post_init__(self) -> None:
        if self.thumbnails not in (None, 0) and not 16 <= self.thumbnails <= 1024:
            raise ValueError(f"--thumbnails is {self.thumbnails}; give 16 to 1024 pixels, or 0 for none")
        if self.batch_size < 1:
            raise ValueError(f"--batch-size is {self.batch_size}; give at least 1")
        if self.workers is not None and self.workers < 1:
            raise ValueError(f"--workers is {self.workers}; give at least 1")
        if self.on_error not in ("skip", "fail"):
            raise ValueError(f"--on-error is {self.on_error!r}; give skip or fail")


@dataclass
class Work:
    """places: of each row of the source in `DoneRows`.  The counts are those of `EncodeReport`."""

    places: Int64[np.ndarray, " rows"]
    left_out: Bool[np.ndarray, " rows"]
    encoded: int = 0
    recognized: int = 0
    resumed: int = 0
    unchanged: int = 0
    changed: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))


def encode_rows(
    model: Any,
    source: Source,
    done: DoneRows,
    workshop: Workshop,
    places: Int64[np.ndarray, " rows"],
    thumbnails: int,
    settings: Settings,
) -> Work:
    """Encodes the rows whose place is -1, and gives them places. Raises ValueError at the first picture that cannot be read where
    `settings.on_error` is 'fail'; what was done before lies in blocks, as it does after any other exception."""
    import pyarrow as pa

    work = Work(places.copy(), np.zeros(len(source), bool))
    work.unchanged = int(done.is_item(places).sum())
    rest = np.flatnonzero(places < 0)
    pending: list[tuple[np.ndarray, Any]] = []
    written = time.monotonic()

    def keep() -> None:
        nonlocal written
        if pending:
            start = time.perf_counter()
            stored = workshop.write_block(pa.concat_tables([table for _, table in pending]).combine_chunks())
            work.places[np.concatenate([rows for rows, _ in pending])] = done.append(stored)
            pending.clear()
            work.seconds["write"] += time.perf_counter() - start
        written = time.monotonic()

    known = done.content_lookup("text" if source.texts else "sha256", source.listing.take(pa.array(rest)))
    ahead: Generator[Batch, None, None]
    if source.texts:
        ahead = text_batches(source, rest, settings.batch_size, known)
    else:
        workers = settings.workers or default_workers()
        ahead = batches_ahead(
            source,
            rest,
            size=model.size,
            batch_size=settings.batch_size,
            thumbnails=thumbnails,
            known=known,
            workers=workers,
        )
    count = 0
    with warnings.catch_warnings(), closing(ahead), Progress("encoding", len(rest), source.unit) as progress:
        warnings.simplefilter(
            "ignore", Image.DecompressionBombWarning
        )  # refused by name where they are too large
        warnings.simplefilter("ignore", UserWarning)  # doubtful metadata is passed over
        try:
            for batch in ahead:
                _refuse_damaged(batch, settings.on_error)
                pending.append((batch.rows, _encode_batch(model, source, done, batch, work)))
                count += len(batch.rows)
                late = time.monotonic() - written >= BLOCK_SECONDS
                if late or sum(len(rows) for rows, _ in pending) >= settings.block_rows:
                    keep()
                progress.update(count, f"{len(work.skipped):,} left out" if work.skipped else "")
        finally:
            keep()
    earlier = done.column(work.places, REASON, pa.string())
    work.left_out = earlier.is_valid().to_numpy(zero_copy_only=False)
    bad = np.flatnonzero(work.left_out)
    names = source.listing["id"].take(pa.array(bad)).to_pylist()
    work.skipped = list(zip(names, earlier.take(pa.array(bad)).to_pylist(), strict=True))
    work.resumed = len(source) - len(rest) - work.unchanged
    sound = rest[~work.left_out[rest]]
    if source.paths is not None:
        times = done.column(work.places[sound], "mtime_ns", pa.int64()).to_pylist()
        work.changed = source.changed_since(sound, times)
    return work


def _encode_batch(model: Any, source: Source, done: DoneRows, batch: Batch, work: Work) -> Any:
    """A block's rows: ids, columns of records, facts, code, thumbnail, and why a picture is left out."""
    import pyarrow as pa

    pictures = batch.pictures
    known = np.array([picture.place for picture in pictures])
    sound = np.array([not picture.reason for picture in pictures])
    new = sound & (known < 0)
    codes = np.zeros((len(pictures), model.bits // 8), np.uint8)
    if new.any():
        start = time.perf_counter()
        encode = model.encode_texts if source.texts else model.encode_pictures
        codes[new] = np.asarray(encode(batch.inputs))[: len(pictures)][new]
        work.seconds["device"] += time.perf_counter() - start
    seen = np.flatnonzero(sound & (known >= 0))
    if len(seen):
        codes[seen] = done.codes(known[seen], model.bits // 8)
    if len(seen) and not source.texts:
        thumbs = done.thumbs(known[seen])
        widths, heights = (
            done.column(known[seen], name, pa.int32()).to_pylist() for name in ("width", "height")
        )
        for at, thumb, width, height in zip(seen, thumbs, widths, heights, strict=True):
            pictures[at].thumb, pictures[at].width, pictures[at].height = thumb, width, height
    work.encoded += int(new.sum())
    work.recognized += len(seen)
    names = batch.table["id"].to_pylist()
    work.skipped += [(name, one.reason) for name, one in zip(names, pictures, strict=True) if one.reason]
    for stage, seconds in spent(pictures).items():
        work.seconds[stage] += seconds

    table, kinds = batch.table, source.stored
    for name in source.compared:
        listed = source.listing[name].take(pa.array(batch.rows)).combine_chunks()
        if name in kinds:  # of what was read, where it was
            read = [
                picture.fact(name) if good else None for picture, good in zip(pictures, sound, strict=True)
            ]
            listed = pa.array(read, kinds[name]).fill_null(listed)
        table = table.append_column(name, listed)
    for name in kinds:
        if name not in table.column_names:
            table = table.append_column(
                name, pa.array([picture.fact(name) for picture in pictures], kinds[name])
            )
    size = model.bits // 8
    table = table.append_column(CODE, pa.array([code.tobytes() for code in codes], pa.binary(size)))
    table = table.append_column(THUMB, pa.array([picture.thumb for picture in pictures], pa.binary()))
    return table.append_column(
        REASON, pa.array([picture.reason or None for picture in pictures], pa.string())
    )


def _refuse_damaged(batch: Batch, on_error: str) -> None:
    for name, picture in zip(batch.table["id"].to_pylist(), batch.pictures, strict=True):
        if picture.reason and on_error == "fail":
            raise ValueError(f"{name}: {picture.reason}; remove it, or pass --on-error skip")

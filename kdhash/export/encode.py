"""Pictures or texts to packed codes, in a folder or straight into an index; only what is new or changed is encoded."""

import os
import re
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64

from kdhash.export.done_rows import DoneRows, Workshop
from kdhash.export.encode_rows import Settings, Work, encode_rows
from kdhash.export.encode_sources import Source
from kdhash.export.thumbnails import SIDE
from kdhash.progress import Progress
from kdhash.retrieval.index import open_index
from kdhash.retrieval.items import Items, ItemsWriter, open_items
from kdhash.retrieval.write_index import add_items, delete_items

CHUNK = 2**14  # rows written at a time
SKIPPED = "skipped.tsv"


@dataclass(frozen=True)
class EncodeReport:
    """What was done. folder: of codes, or the index.  count: items in it now.

    encoded: by the model, now.  resumed: by a run before that was killed.  recognized: content (sha256) known under another id
    or time.  unchanged: not even read.  removed: taken out, because the source has them no more.  gone: as well, but still in the
    index.  skipped: (id, reason), all of them also in `skipped_file`.  changed: files that changed after they were read.
    seconds: 'total', 'device', 'write', and of all threads together 'read', 'decode', 'resize', 'thumbnail'.
    """

    folder: Path
    count: int
    encoded: int
    resumed: int
    recognized: int
    unchanged: int
    removed: int
    gone: int
    skipped: tuple[tuple[str, str], ...]
    skipped_file: Path | None
    changed: int
    seconds: dict[str, float]


def encode(model: Any, source: Source, out: str | Path, settings: Settings) -> EncodeReport:
    """Writes the folder of codes `out` of all pictures of `source`, in its order; see `kdhash.retrieval.items`.

    Where `out` is there already, only pictures that are new or changed since are encoded. Killed, the same call goes on where
    it was, and ends in the same bytes; what it has done lies in `<out>.partial` meanwhile. Pictures that cannot be read are
    left out and listed in `out`/skipped.tsv. Raises FileExistsError where `out` is something else, and ValueError
    where it has codes of another model, where no picture can be read and, with on_error 'fail', where one cannot.
    """
    target, began = Path(out), time.perf_counter()
    workshop = Workshop(target)
    try:
        old = open_old(target, model)
        there = None if old is None else _thumbnails_of(old)
        thumbnails = _thumbnails(source, settings, there)
        workshop.begin(_begun(model, source, thumbnails))
        # without a picture there is no thumbnail of another size
        done = DoneRows(workshop.blocks(), [old] if old is not None and thumbnails in (0, there) else [])
        stamped = source.records is None or (
            old is not None and old.manifest["source"].get("stamp") == source.stamp
        )
        places = done.unchanged(source.listing, source.compared, items=stamped and not settings.checksum)
        work = encode_rows(model, source, done, workshop, places, thumbnails, settings)
        start = time.perf_counter()
        rows = np.flatnonzero(~work.left_out)
        if not len(rows):
            workshop.remove()
            name, reason = work.skipped[0]
            raise ValueError(f"none of {len(source):,} pictures can be read; the first: {name}: {reason}")
        about = {"kind": source.kind, "path": str(source.path)} | (
            {"stamp": source.stamp} if source.stamp else {}
        )
        facts = _facts(model, source, thumbnails, settings)
        if old is None or not _is_old(old, source, done, work, rows, {**facts, "source": about}):
            with ItemsWriter(workshop.path / "new", **identity(model), source=about, facts=facts) as writer:
                write_rows(writer, model.bits // 8, source, done, work.places, rows, thumbnails > 0)
            write_skipped(workshop.path / "new", work.skipped)
            workshop.publish()
        else:
            write_skipped(target, work.skipped)
        workshop.remove()
        work.seconds["write"] += time.perf_counter() - start
    finally:
        workshop.close()
    removed = 0 if old is None else len(_gone(old.table["id"], source, rows))
    return _report(target, len(rows), work, began, removed, 0, target / SKIPPED)


def update_index(
    model: Any, source: Source, index: str | Path, settings: Settings, *, delete: bool = False
) -> EncodeReport:
    """Brings an index up to date with `source`: pictures that are new or changed are encoded and put in, under their ids.

    delete: items whose ids the source does not have are taken out; else they stay (they may come from elsewhere), and are
    counted. Resumable as `encode` is; pictures that cannot be read are listed in `<index>.skipped.tsv`, and
    what the index has under their ids stays. Raises FileNotFoundError where there is no index, and as `encode` does.
    """
    path, began = Path(index), time.perf_counter()
    opened = open_index(path)
    check_same_model(opened.manifest, model, path)
    workshop = Workshop(path)
    try:
        segments = opened.segments
        there = SIDE if any("thumbs.bin" in segment.files for segment in segments) or not segments else 0
        thumbnails = _thumbnails(source, settings, there)
        workshop.begin(_begun(model, source, thumbnails))
        done = DoneRows(workshop.blocks(), segments)
        by_time = source.records is None and not settings.checksum
        places = done.unchanged(source.listing, source.compared, items=by_time)
        work = encode_rows(model, source, done, workshop, places, thumbnails, settings)
        start = time.perf_counter()
        rows = np.flatnonzero(~work.left_out)
        current = done.unchanged(source.listing, [], blocks=False)  # what the index has under these ids
        differs = [
            some[~_same(source, done, some, work.places, current)]
            for some in np.split(rows, range(CHUNK, len(rows), CHUNK))
        ]
        fresh = np.concatenate(differs) if differs else rows
        if len(fresh):
            about = {"kind": source.kind, "path": str(source.path)}
            facts = _facts(model, source, thumbnails, settings)
            with ItemsWriter(workshop.path / "new", **identity(model), source=about, facts=facts) as writer:
                write_rows(writer, model.bits // 8, source, done, work.places, fresh, thumbnails > 0)
            add_items(path, workshop.path / "new", replace=True)
        gone = _gone(done.ids(), source, np.arange(len(source)))
        removed = delete_items(path, gone.to_pylist()).deleted if delete and len(gone) else 0
        listing = path.with_name(f"{path.name}.{SKIPPED}")
        write_skipped(listing.parent, work.skipped, listing.name)
        workshop.remove()
        work.seconds["write"] += time.perf_counter() - start
    finally:
        workshop.close()
    return _report(path, len(open_index(path)), work, began, removed, len(gone) - removed, listing)


def open_old(target: Path, model: Any) -> Items | None:
    """The folder of codes that is to be brought up to date. Raises FileExistsError for something else, ValueError for codes of
    another model."""
    if not target.exists():
        return None
    if not (target / "manifest.json").is_file():
        if target.is_dir() and not any(target.iterdir()):
            target.rmdir()
            return None
        raise FileExistsError(f"{target} is there, and no folder of codes; give --out another name")
    try:
        old = open_items(target)
    except ValueError as error:
        raise ValueError(
            f"{error}. Give --out another name, or bring an index up to date with --update"
        ) from None
    check_same_model(old.manifest, model, target)
    return old


def check_same_model(manifest: Mapping[str, Any], model: Any, path: Path) -> None:
    """Raises ValueError, with both hashes, where codes are not of this model: they cannot be compared with its own."""
    if manifest["model"] != model.hash:
        theirs = manifest["model"] or "none (they come from elsewhere)"
        raise ValueError(
            f"{path} has codes of model {theirs}, and this is model {model.hash}: codes of two models cannot be compared. "
            "Give another folder, or remove that one"
        )


def identity(model: Any) -> dict[str, Any]:
    """The manifest's fields that come from the model."""
    return {"bits": model.bits, "model": model.hash, "preprocessing": getattr(model, "preprocessing", "")}


def write_rows(
    writer: ItemsWriter,
    size: int,
    source: Source,
    done: DoneRows,
    places: Int64[np.ndarray, " rows"],
    rows: Int64[np.ndarray, " n"],
    with_thumbs: bool,
) -> None:
    """Adds these rows of the source, with what `done` has at their places; codes of `size` bytes."""
    parts = np.split(rows, range(CHUNK, len(rows), CHUNK))
    with Progress("writing", len(rows), source.unit) if len(parts) > 1 else nullcontext() as progress:
        for number, some in enumerate(parts, 1):
            at = places[some]
            thumbs = done.thumbs(at) if with_thumbs else None
            writer.add(done.codes(at, size), _table(source, done, some, at), thumbs)
            if progress:
                progress.update(min(number * CHUNK, len(rows)))


def write_skipped(folder: Path, skipped: Sequence[tuple[str, str]], name: str = SKIPPED) -> None:
    """The list of what was left out, id and reason a line; no file where nothing was."""
    path = folder / name
    if not skipped:
        path.unlink(missing_ok=True)
        return
    lines = ["id\treason", *("\t".join(re.sub(r"\s", " ", cell) for cell in row) for row in skipped)]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("\n".join(lines) + "\n", "utf-8", "backslashreplace")
    os.replace(temporary, path)


def _begun(model: Any, source: Source, thumbnails: int) -> dict[str, Any]:
    """What blocks depend on; that rows are of the same files is looked at row by row."""
    about = {"model": model.hash, "thumbnails": thumbnails, "items": source.unit}
    return {**about, "state of the TFDS folder": source.stamp}


def _facts(model: Any, source: Source, thumbnails: int, settings: Settings) -> dict[str, Any]:
    """Fields of the manifest beside those that every folder of codes has. searches: models whose codes these may search."""
    about = {"items": source.unit, "thumbnails": thumbnails, "model_path": settings.model_path}
    return {**about, "searches": list(model.searches)}


def _thumbnails(source: Source, settings: Settings, there: int | None) -> int:
    wanted = settings.thumbnails if settings.thumbnails is not None else SIDE if there is None else there
    return 0 if source.texts else wanted


def _thumbnails_of(items: Items) -> int:
    return items.manifest.get("thumbnails", SIDE if "thumbs.bin" in items.files else 0)


def _table(source: Source, done: DoneRows, rows: np.ndarray, places: np.ndarray) -> Any:
    """ids and metadata as they are written: what the source lists, then what was stored when pictures were read."""
    import pyarrow as pa

    table = source.listing.select(["id", *source.given]).take(pa.array(rows))
    for name, kind in source.stored.items():
        table = table.append_column(name, done.column(places, name, kind))
    return table


def _same(
    source: Source, done: DoneRows, rows: np.ndarray, places: np.ndarray, current: np.ndarray
) -> Bool[np.ndarray, " n"]:
    """Of each of these rows, whether the item at its place in `current` (-1: none) is what would be written."""
    same = current[rows] >= 0
    if not source.given:  # then a row that was not read again is what it was
        same &= places[rows] == current[rows]
        unsure = np.flatnonzero((current[rows] >= 0) & ~same)
    else:
        unsure = np.flatnonzero(same)
    there = rows[unsure]
    now, equal = _table(source, done, there, places[there]), np.ones(len(there), bool)
    for name in now.column_names:
        new, old = now[name].combine_chunks(), done.column(current[there], name, now[name].type)
        if not new.equals(old):
            equal &= [one == other for one, other in zip(new.to_pylist(), old.to_pylist(), strict=True)]
    same[unsure] = equal
    return same


def _is_old(
    old: Items, source: Source, done: DoneRows, work: Work, rows: np.ndarray, facts: dict[str, Any]
) -> bool:
    """Whether the folder of codes would be written as it is."""
    as_it_was = len(rows) == old.count and done.are_items_in_order(work.places[rows])
    return (
        as_it_was
        and all(old.manifest.get(name) == value for name, value in facts.items())
        and bool(_same(source, done, rows, work.places, work.places).all())
    )


def _gone(ids: Any, source: Source, rows: np.ndarray) -> Any:
    """Those of `ids` that these rows of the source do not have, a pyarrow array."""
    import pyarrow as pa
    import pyarrow.compute as pc

    there = pc.is_in(ids, value_set=source.listing["id"].take(pa.array(rows)))
    return ids.filter(pc.invert(there))


def _report(
    folder: Path, count: int, work: Work, began: float, removed: int, gone: int, listing: Path
) -> EncodeReport:
    return EncodeReport(
        folder=folder,
        count=count,
        encoded=work.encoded,
        resumed=work.resumed,
        recognized=work.recognized,
        unchanged=work.unchanged,
        removed=removed,
        gone=gone,
        skipped=tuple(work.skipped),
        skipped_file=listing if work.skipped else None,
        changed=work.changed,
        seconds={**work.seconds, "total": time.perf_counter() - began},
    )

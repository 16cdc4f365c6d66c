"""Writing an index: build, add, delete, merge. Each ends with one replacement of manifest.json: before it nothing has changed.

Whoever is killed leaves the old index or the new one; what was begun is cleared away by the next writer.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdhash.retrieval.columns import common_type
from kdhash.retrieval.index import (
    BLOCK,
    FORMAT,
    Index,
    Segment,
    open_index,
    read_index_manifest,
    rows_with_keys,
)
from kdhash.retrieval.index_lock import TIMEOUT, folder_beside, write_lock
from kdhash.retrieval.items import BIT_ORDER, DuplicateIds, Items, duplicate_rows, open_items
from kdhash.retrieval.mapped import sync, write_manifest
from kdhash.retrieval.segments import (
    Progress,
    append_segment,
    clear_leftovers,
    mark_deleted,
    merge_from,
    open_segments,
    small_tail,
)

# more are merged by `add`: every one costs a search a little, and a reader a few open files
MOST_SEGMENTS = 64


class Added(NamedTuple):
    """What `add_items` did: items added, and how many of these took the place of others."""

    added: int
    replaced: int


class Deleted(NamedTuple):
    """What `delete_items` did: items deleted, and the ids that no live item has."""

    deleted: int
    unknown: list[str]


def build_index(
    items_folders: str | Path | Sequence[str | Path], out: str | Path, *, progress: Progress | None = None
) -> Index:
    """Makes the index `out` of folders of codes, a segment a folder; files are copied, memory does not grow with them.

    `out` appears whole or not at all. Raises FileExistsError where it is there, and what `add_items` raises.
    """
    target = Path(out)
    if target.exists():
        raise FileExistsError(f"{target} is already there; `kdhash index add` adds to it, or remove it first")
    folders = [items_folders] if isinstance(items_folders, str | Path) else list(items_folders)
    if not folders:
        raise ValueError("no folder of codes to build an index of")
    items = [open_items(folder) for folder in folders]
    first = items[0].manifest
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "version": 1,
        "generation": 1,
        "bits": first["bits"],
        "bit_order": BIT_ORDER,
        "model": first["model"],
        "searched_by": [],
        "preprocessing": first["preprocessing"],
        "count": 0,
        "next_number": 0,
        "columns": {},
        "segments": [],
    }
    total = sum(one.count for one in items)

    def report(done: int, _: int) -> None:
        if progress is not None:
            progress(manifest["count"] + done, total)

    with folder_beside(target, "building") as workshop:
        for one in items:
            check_compatible(manifest, one, str(items[0].path))
            segments = open_segments(workshop, manifest)
            _refuse(segments, already_there(segments, one), f"{one.path}: ids that an earlier folder has too")
            append_segment(workshop, manifest, one, report)
        write_manifest(workshop, manifest)
        os.rename(workshop, target)
        sync(target.parent)
    return open_index(target)


def add_items(
    index: str | Path,
    items_folder: str | Path,
    replace: bool = False,
    *,
    timeout: float = TIMEOUT,
    progress: Progress | None = None,
) -> Added:
    """Adds a folder of codes to an index as a new segment. replace: live items of the same ids are deleted at the same moment.

    Waits up to `timeout` seconds for another writer. Nothing has changed where it raises: DuplicateIds for ids that are
    already there, ValueError for codes of another model, number of bits or bit order and for a column of another type (it
    names both), DamagedFile for a file of either side that is truncated or changed, IndexBusy.
    """
    path, items = Path(index), open_items(items_folder)
    with _writing(path, timeout) as manifest:
        check_compatible(manifest, items, str(path))
        segments = open_segments(path, manifest)
        there = already_there(segments, items)
        if not replace:
            _refuse(
                segments,
                there,
                f"{path} has these ids already (--replace puts the new items in the place of the old ones)",
            )
        manifest["generation"] += 1
        mark_deleted(path, manifest, segments, there)
        append_segment(path, manifest, items, progress)
        write_manifest(path, manifest)
        if len(manifest["segments"]) > MOST_SEGMENTS:
            manifest["generation"] += 1
            merge_from(path, manifest, small_tail(manifest), progress)
            write_manifest(path, manifest)
    return Added(items.count, sum(len(rows) for rows in there.values()))


def delete_items(index: str | Path, ids: Iterable[str], *, timeout: float = TIMEOUT) -> Deleted:
    """Deletes items by id; searches that open the index afterwards do not find them. Disk space is freed by `merge_segments`.

    Raises IndexBusy and DamagedFile; ids that no live item has are no error, but returned.
    """
    path, wanted = Path(index), list(dict.fromkeys(ids))
    with _writing(path, timeout) as manifest:
        opened = Index(path, manifest, open_segments(path, manifest))
        places = opened.find(wanted)
        if places:
            rows: dict[int, list[int]] = {}
            for segment, row in places.values():
                rows.setdefault(segment, []).append(row)
            manifest["generation"] += 1
            mark_deleted(path, manifest, opened.segments, {at: np.array(some) for at, some in rows.items()})
            write_manifest(path, manifest)
    return Deleted(len(places), [name for name in wanted if name not in places])


def merge_segments(index: str | Path, *, timeout: float = TIMEOUT, progress: Progress | None = None) -> Index:
    """One segment of all live items, with the numbers that they have. Readers of the old segments go on reading them.

    Raises IndexBusy and DamagedFile. Does nothing where there is one segment without deleted items.
    """
    path = Path(index)
    with _writing(path, timeout) as manifest:
        segments = manifest["segments"]
        if len(segments) > 1 or any(facts["deleted"] for facts in segments):
            manifest["generation"] += 1
            merge_from(path, manifest, 0, progress)
            write_manifest(path, manifest)
    return open_index(path)


def check_compatible(manifest: dict[str, Any], items: Items, whose: str) -> None:
    """Raises ValueError, naming both sides, where codes cannot be compared with those of an index, or a column has another type.

    whose: what the message calls the index.
    """
    for field, name in (
        ("bits", "bits"),
        ("bit_order", "bit order"),
        ("model", "model"),
        ("preprocessing", "preprocessing"),
    ):
        if items.manifest[field] != manifest[field]:
            ours, theirs = (
                side[field] or "none (codes from elsewhere)" for side in (manifest, items.manifest)
            )
            raise ValueError(
                f"{items.path} has {name} {theirs}, {whose} has {ours}: their codes cannot be compared; "
                "encode the items with the index's model, or build an index of their own"
            )
    for column, kind in items.manifest["columns"].items():
        ours = manifest["columns"].get(column, "null")
        if common_type(ours, kind) is None:
            raise ValueError(
                f"column {column!r} is {kind} in {items.path}, and {ours} in {whose}; convert or rename it"
            )


def already_there(segments: Sequence[Segment], items: Items) -> dict[int, np.ndarray]:
    """Segment -> rows of live items whose ids `items` has too. Raises DuplicateIds where `items` has an id twice."""
    twice = duplicate_rows(items.keys, items)
    if twice:
        raise DuplicateIds(f"{items.path}: ids that are there twice", twice)
    keys, there = np.sort(items.keys), {}
    for number, segment in enumerate(segments):
        candidates, same = rows_with_keys(segment, keys), []
        for first in range(0, len(candidates), BLOCK):
            rows = candidates[first : first + BLOCK]
            # equal keys are not yet equal ids
            new = set(items.ids_at(rows_with_keys(items, np.unique(segment.keys[rows]))))
            same += [
                row for row, name in zip(rows.tolist(), segment.ids_at(rows), strict=True) if name in new
            ]
        if same:
            there[number] = np.array(same)
    return there


def _refuse(segments: Sequence[Segment], there: dict[int, np.ndarray], message: str) -> None:
    if there:
        raise DuplicateIds(
            message, [name for number, rows in there.items() for name in segments[number].ids_at(rows)]
        )


@contextlib.contextmanager
def _writing(path: Path, timeout: float) -> Iterator[dict[str, Any]]:
    """The manifest, for the one writer; afterwards, however it ends, only what the manifest on the disk names is left."""
    read_index_manifest(path)  # a lock file in a folder that is no index would be a riddle
    with write_lock(path, timeout):
        manifest = read_index_manifest(path)
        clear_leftovers(path, manifest)
        try:
            yield manifest
        finally:
            clear_leftovers(path, read_index_manifest(path))

"""Whether an index is whole: every file, count, id and number."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdhash.retrieval.columns import common_type, type_name
from kdhash.retrieval.index import Segment, open_index, read_index_manifest
from kdhash.retrieval.items import BATCH, id_keys
from kdhash.retrieval.mapped import DamagedFile, MappedFolder
from kdhash.retrieval.segments import live_rows


class Verified(NamedTuple):
    """What `verify_index` found."""

    problems: list[str]
    """one sentence each; none where the index is sound"""
    items: int
    segments: int
    files: int
    bytes: int
    recall: float | None
    """recall@100 of the approximate engine against the exact one; None where there is none of this generation"""


def verify_index(path: str | Path, *, progress: Callable[[int, int], None] | None = None) -> Verified:
    """Reads all of an index: sizes and sha256 of files, counts, ids and their keys, numbers, deleted rows, thumbnails' places;
    measures the recall of the approximate engine where there is one.

    progress: called with bytes read and bytes in all. Needs 20 bytes of memory an item. Raises FileNotFoundError and ValueError
    for a folder that is no index; anything else that is wrong is in `problems`.
    """
    folder = Path(path)
    while True:
        manifest = read_index_manifest(folder)
        verified = _verify(folder, manifest, progress)
        # a merge takes files away from under an older manifest
        if not verified.problems or read_index_manifest(folder) == manifest:
            return verified


def _verify(
    folder: Path, manifest: Mapping[str, Any], progress: Callable[[int, int], None] | None
) -> Verified:
    files = [(facts, name, file) for facts in manifest["segments"] for name, file in _files(facts).items()]
    total, done, damaged, problems = sum(file["bytes"] for *_, file in files), 0, set(), []
    for facts, name, file in files:
        try:
            MappedFolder(folder / facts["name"], {name: file}).memory(name)
        except FileNotFoundError:
            problems.append(f"{folder / facts['name'] / name} is missing")
            damaged.add(facts["name"])
        except DamagedFile as error:
            problems.append(str(error))
            damaged.add(facts["name"])
        done += file["bytes"]
        if progress is not None:
            progress(done, total)
    sound = [
        Segment(folder, manifest, facts, check=False)
        for facts in manifest["segments"]
        if facts["name"] not in damaged
    ]
    for segment in sound:
        try:
            problems += _segment_problems(segment, manifest)
        except DamagedFile as error:
            problems.append(str(error))
            damaged.add(segment.name)
    problems += _manifest_problems(manifest)
    recall = None
    if not damaged:
        problems += _twice(sound)
        try:
            recall = _ivf_recall(folder, manifest)
        except DamagedFile as error:
            problems.append(str(error))
    return Verified(problems, manifest["count"], len(manifest["segments"]), len(files), total, recall)


def _files(facts: Mapping[str, Any]) -> dict[str, Any]:
    deleted = facts["deleted"]
    return {**facts["files"], **({deleted["file"]: deleted} if deleted else {})}


def _segment_problems(segment: Segment, manifest: Mapping[str, Any]) -> Iterator[str]:
    _ = segment.codes  # its shape
    for field in segment.table.schema:
        kind, known = type_name(field.type), manifest["columns"].get(field.name, "missing")
        if field.name != "id" and common_type(known, kind) != known:
            yield f"{segment.path}: column {field.name!r} is {kind}, the manifest says {known}"
    for first in range(0, segment.count, BATCH):
        ids = segment.table["id"].slice(first, BATCH).to_pylist()
        wrong = np.flatnonzero(segment.keys[first : first + BATCH] != id_keys(ids))
        if len(wrong):
            yield f"{segment.path}: the key of id {ids[wrong[0]]!r} is not that of keys.npy"
            break
    numbers = segment.numbers
    if (np.diff(numbers) <= 0).any() or numbers[0] != segment.first_number:
        yield f"{segment.path}: numbers do not ascend from {segment.first_number:,}"
    gone = 0 if segment.deleted is None else int(segment.deleted.sum())
    if gone != segment.count - segment.live:
        yield f"{segment.path}: {gone:,} rows are deleted, the manifest says {segment.count - segment.live:,}"
    if "thumbs.bin" in segment.files:
        offsets = segment.files.array("thumbs.npy")
        size = segment.facts["files"]["thumbs.bin"]["bytes"]
        if (
            len(offsets) != segment.count + 1
            or (np.diff(offsets) < 0).any()
            or offsets[[0, -1]].tolist() != [0, size]
        ):
            yield f"{segment.path}: thumbs.npy does not fit thumbs.bin"


def _manifest_problems(manifest: Mapping[str, Any]) -> Iterator[str]:
    segments = manifest["segments"]
    live = sum(live_rows(facts) for facts in segments)
    if live != manifest["count"]:
        yield f"manifest.json: count is {manifest['count']:,}, its segments have {live:,} live items"
    ends = [0, *(facts["first_number"] + facts["count"] for facts in segments)]
    begins = [*(facts["first_number"] for facts in segments), manifest["next_number"]]
    if any(begin < end for begin, end in zip(begins, ends, strict=True)):
        yield "manifest.json: numbers of segments overlap, or next_number was given before"


def _twice(segments: list[Segment]) -> Iterator[str]:
    """Live ids that are there more than once."""
    keys = [
        segment.keys if segment.deleted is None else segment.keys[~segment.deleted] for segment in segments
    ]
    ordered = np.sort(np.concatenate([np.empty(0, np.uint64), *keys]))
    suspects = np.unique(ordered[1:][ordered[1:] == ordered[:-1]])
    seen: set[str] = set()
    for segment in segments if len(suspects) else ():
        rows = np.flatnonzero(np.isin(segment.keys, suspects))
        rows = rows if segment.deleted is None else rows[~segment.deleted[rows]]
        for name in segment.ids_at(rows):
            if name in seen:
                yield f"the id {name!r} is there twice"
            seen.add(name)


def _ivf_recall(folder: Path, manifest: Mapping[str, Any]) -> float | None:
    """Of the approximate index, if it is of this generation. Raises DamagedFile where it has changed."""
    if not (folder / "ivf.faiss").exists():
        return None
    from kdhash.retrieval.engines.index_ivf import ivf_recall

    index = open_index(folder)
    return ivf_recall(index) if index.generation == manifest["generation"] else None

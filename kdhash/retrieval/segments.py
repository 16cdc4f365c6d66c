"""The steps of a writer: segments and bitmaps of deleted rows. They become live with the next manifest, not before.

All change `manifest`, which the caller writes, and nothing that an earlier manifest names.
"""

import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdhash.retrieval.columns import common_type
from kdhash.retrieval.index import Segment
from kdhash.retrieval.items import BATCH, Items, ItemsWriter
from kdhash.retrieval.mapped import DamagedFile, file_facts, sync

CHUNK = 2**22  # bytes copied at a time

Progress = Callable[[int, int], None]
"""called with how many items are done, and of how many"""


def open_segments(path: Path, manifest: Mapping[str, Any]) -> list[Segment]:
    """The segments that the manifest names. Raises DamagedFile for a file that is missing or truncated."""
    try:
        return [Segment(path, manifest, facts) for facts in manifest["segments"]]
    except FileNotFoundError as error:
        raise DamagedFile(f"{error.filename} is missing, and the manifest lists it") from None


def append_segment(
    path: Path, manifest: dict[str, Any], items: Items, progress: Progress | None = None
) -> None:
    """Copies a folder of codes as the last segment. Raises DamagedFile where a file is not what its manifest says."""
    if not items.count:
        return
    name = _new_name(manifest)
    folder = path / f".{name}"
    folder.mkdir()
    files: dict[str, Any] = {}
    size, done = sum(facts["bytes"] for facts in items.manifest["files"].values()), 0

    def report(copied: int) -> None:
        nonlocal done
        done += copied
        if progress is not None:
            progress(min(items.count, items.count * done // size), items.count)

    for file, facts in [*items.manifest["files"].items(), ("manifest.json", None)]:
        copied = _copy(items.path / file, folder / file, report)
        if facts is not None and copied != facts:
            raise DamagedFile(
                f"{items.path / file} has changed since it was written: its sha256 is not that of the manifest"
            )
        files[file] = copied
    sync(folder)
    os.rename(folder, path / name)
    sync(path)
    manifest["segments"].append(
        {
            "name": name,
            "first_number": manifest["next_number"],
            "count": items.count,
            "files": files,
            "deleted": None,
        }
    )
    manifest["next_number"] += items.count
    manifest["count"] += items.count
    manifest["searched_by"] = list(dict.fromkeys([*manifest["searched_by"], *items.manifest["searched_by"]]))
    # where pictures and their model lay, for whoever searches by a picture or opens one; the latest last
    source = {name: value for name, value in items.manifest["source"].items() if name in ("kind", "path")}
    source["model_path"] = items.manifest.get("model_path", "")
    manifest["sources"] = [*(one for one in manifest.get("sources", []) if one != source), source]
    for column, kind in items.manifest["columns"].items():
        manifest["columns"][column] = common_type(manifest["columns"].get(column, "null"), kind)


def mark_deleted(
    path: Path, manifest: dict[str, Any], segments: Sequence[Segment], rows: Mapping[int, np.ndarray]
) -> None:
    """Marks live rows (by position of their segment) as deleted; a segment without a live row left is dropped."""
    for position, gone in rows.items():
        segment, facts = segments[position], manifest["segments"][position]
        deleted = np.zeros(segment.count, bool) if segment.deleted is None else segment.deleted.copy()
        deleted[gone] = True
        file = path / segment.name / f"deleted-{manifest['generation']:06}.npy"
        np.save(file, np.packbits(deleted))
        sync(file)
        sync(file.parent)
        facts["deleted"] = {"file": file.name, "count": int(deleted.sum()), **file_facts(file)}
        manifest["count"] -= len(gone)
    manifest["segments"] = [facts for facts in manifest["segments"] if live_rows(facts)]


def live_rows(facts: Mapping[str, Any]) -> int:
    """How many items of a segment are not deleted."""
    return facts["count"] - (facts["deleted"]["count"] if facts["deleted"] else 0)


def merge_from(path: Path, manifest: dict[str, Any], first: int, progress: Progress | None = None) -> None:
    """One segment of the live rows of segment `first` and all that follow it. Numbers stay."""
    import pyarrow as pa

    segments = open_segments(path, {**manifest, "segments": manifest["segments"][first:]})
    schema = pa.unify_schemas([segment.table.schema for segment in segments])
    with_thumbs = any("thumbs.bin" in segment.files for segment in segments)
    name, numbers, total = _new_name(manifest), [], sum(live_rows(segment.facts) for segment in segments)
    facts = {field: manifest[field] for field in ("bits", "model", "searched_by", "preprocessing")}
    with ItemsWriter(path / f".{name}", **facts, source={"kind": "index", "path": ""}) as writer:
        for segment in segments:
            for start in range(0, segment.count, BATCH):
                rows = np.arange(start, min(start + BATCH, segment.count))
                if segment.deleted is not None:
                    rows = rows[~segment.deleted[rows]]
                table = segment.take(rows, segment.table.column_names)
                for column in schema:
                    if column.name not in table.column_names:
                        table = table.append_column(column, pa.nulls(len(rows), column.type))
                thumbs = [segment.thumbnail(row) or b"" for row in rows.tolist()] if with_thumbs else None
                writer.add(segment.codes[rows], table.select(schema.names).cast(schema), thumbs)
                numbers.append(segment.numbers_at(rows))
                if progress is not None:
                    progress(sum(map(len, numbers)), total)
    joined, folder = np.concatenate(numbers), path / f".{name}"
    if joined[-1] - joined[0] != len(joined) - 1:
        np.save(folder / "numbers.npy", joined)
        sync(folder / "numbers.npy")
    files = {file.name: file_facts(file) for file in sorted(folder.iterdir())}
    sync(folder)
    os.rename(folder, path / name)
    sync(path)
    manifest["segments"][first:] = [
        {"name": name, "first_number": int(joined[0]), "count": len(joined), "files": files, "deleted": None}
    ]


def small_tail(manifest: Mapping[str, Any]) -> int:
    """The first segment that is smaller than all that follow it together: merging from there on leaves segments of sizes that
    at least halve, so that an item is copied no oftener than the logarithm of their number."""
    sizes = [live_rows(facts) for facts in manifest["segments"]]
    return next((at for at in range(len(sizes)) if sizes[at] < sum(sizes[at + 1 :])), len(sizes) - 1)


def clear_leftovers(path: Path, manifest: Mapping[str, Any]) -> None:
    """Removes what no manifest names any more, or never did: of writers that were killed, and of merges."""
    live = {facts["name"]: facts["deleted"] for facts in manifest["segments"]}
    for entry in path.iterdir():
        if entry.name.lstrip(".").startswith("segment-") and entry.name not in live:
            shutil.rmtree(entry, ignore_errors=True)
    (path / "manifest.json.tmp").unlink(missing_ok=True)
    for name, deleted in live.items():
        for file in (path / name).glob("deleted-*.npy"):
            if not deleted or file.name != deleted["file"]:
                file.unlink(missing_ok=True)


def _new_name(manifest: Mapping[str, Any]) -> str:
    return f"segment-{manifest['generation']:06}-{secrets.token_hex(4)}"


def _copy(source: Path, target: Path, report: Callable[[int], None]) -> dict[str, Any]:
    """Copies a file; {"bytes", "sha256"} of what was copied. report: called with the bytes of each piece."""
    digest = hashlib.sha256()
    with open(source, "rb") as reader, open(target, "wb") as writer:
        while chunk := reader.read(CHUNK):
            digest.update(chunk)
            writer.write(chunk)
            report(len(chunk))
        writer.flush()
        os.fsync(writer.fileno())
        return {"bytes": writer.tell(), "sha256": digest.hexdigest()}

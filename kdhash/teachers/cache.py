"""The feature cache: each frozen teacher sees each view of each picture once.

One folder per teacher and view: shards `00000.npz` of consecutive rows, and `manifest.json` written last. A shard is
written to a temporary name and renamed, so a killed run continues with the missing shards. Several processes share the
work: process i of n computes shards i, i + n, ...; the first one writes the manifest when all shards are there.
"""

import hashlib
import io
import json
import os
import re
import socket
import time
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

FORMAT = 1
MANIFEST = "manifest.json"
# An array of this name in a shard tells, a row, why its picture could not be read ('': it could); `read` leaves those out.
SKIPPED = "skipped"
STALE_SECONDS = 6 * 3600  # a temporary file that old is nobody's, whatever process has its number now
Span = tuple[int, int]  # rows start..stop of one shard


class Plan(NamedTuple):
    """What one process has to do in a cache folder: rows of the spans `missing`, of `total` rows that are its part."""

    folder: Path
    header: dict[str, Any]
    missing: list[Span]
    total: int


def cache_key(**identity: Any) -> str:
    """Twelve hex digits that change with anything features depend on: weights, preprocessing, data set, view."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def plan(
    folder: str | Path,
    identity: Mapping[str, Any],
    rows: int,
    shard_rows: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
) -> Plan:
    """Begins or continues `folder`: a folder begun with another `shard_rows` keeps its own; what killed runs left is removed.

    Raises ValueError where the folder holds another identity.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(folder)
    header = {"format": FORMAT, "rows": rows, "shard_rows": shard_rows, "identity": dict(identity)}
    started = folder / "identity.json"
    if started.exists():
        there = _read_json(started)
        if there | {"shard_rows": shard_rows} != header:
            raise ValueError(
                f"{folder} holds other features than asked for; remove it, or choose another cache folder"
            )
        header = there
    else:
        _write_text(started, json.dumps(header, indent=1, sort_keys=True))
    mine = _spans(header)[process_index::process_count]
    missing = [
        (start, stop) for start, stop in mine if not _readable(_shard(folder, header, start), stop - start)
    ]
    return Plan(folder, header, missing, sum(stop - start for start, stop in mine))


def write_shard(plan: Plan, span: Span, arrays: Mapping[str, np.ndarray]) -> None:
    """Puts {name: [stop - start, ...]} in place as one shard. A sound one that another run has put there meanwhile stays."""
    start, stop = span
    path = _shard(plan.folder, plan.header, start)
    temporary = path.with_suffix(f".{_process()}.tmp.npz")  # two runs may share a cache
    np.savez(temporary, **arrays)  # type: ignore[arg-type]
    if _readable(path, stop - start):
        temporary.unlink()
    else:
        os.replace(temporary, path)


def finish(plan: Plan, *, process_index: int = 0, wait: Callable[[str], None] = lambda name: None) -> None:
    """Writes the manifest, by the first process, after `wait` (a barrier of all processes) and a check of all shards.

    Returns when it is written. Raises ValueError naming the shards that are missing.
    """
    wait(f"{plan.folder.name} shards")
    try:
        if process_index == 0:
            _write_manifest(plan.folder, plan.header)
    finally:
        wait(f"{plan.folder.name} manifest")


def is_complete(folder: str | Path, identity: Mapping[str, Any]) -> bool:
    """Whether `folder` holds all rows of exactly this identity (shards are verified by `read`)."""
    manifest = Path(folder) / MANIFEST
    if not manifest.exists():
        return False
    header = _read_json(manifest)
    return header["identity"] == dict(identity) and header["format"] == FORMAT


def read(folder: str | Path) -> dict[str, np.ndarray]:
    """All rows of a complete cache folder, {name: [rows, ...]}; each shard's sha256 is checked.

    Rows whose pictures could not be read (see `skipped_rows`) are left out. At most one shard is held beside the result.
    Raises ValueError naming the shard that is missing or does not match, and FileNotFoundError for an unfinished cache.
    """
    rows = _manifest(folder)["rows"] - len(skipped_rows(folder))
    whole: dict[str, np.ndarray] = {}
    done = 0
    for shard in shards(folder):
        for name, part in shard.items():
            if name not in whole:
                whole[name] = np.empty((rows, *part.shape[1:]), part.dtype)
            whole[name][done : done + len(part)] = part
        done += len(part)
    return whole


def shards(folder: str | Path) -> Iterator[dict[str, np.ndarray]]:
    """The shards of a complete cache folder, one after the other: what `read` returns, and raises, piece by piece."""
    folder = Path(folder)
    for name, checksum in _manifest(folder)["shards"].items():
        path = folder / name
        data = path.read_bytes() if path.exists() else b""
        if hashlib.sha256(data).hexdigest() != checksum:
            raise ValueError(f"feature shard {path} is missing or was changed; remove {folder} and run again")
        with np.load(io.BytesIO(data)) as shard:
            arrays = {key: shard[key] for key in shard.files}
        reasons = arrays.pop(SKIPPED, None)
        if reasons is not None and (reasons != "").any():
            arrays = {key: array[reasons == ""] for key, array in arrays.items()}
        yield arrays


def skipped_rows(folder: str | Path) -> dict[int, str]:
    """Row -> why its picture could not be read, of a complete cache folder."""
    return {int(row): reason for row, reason in _manifest(folder).get(SKIPPED, {}).items()}


def write_names(folder: str | Path, names: Iterable[str]) -> None:
    """Writes `rows.txt` into a complete cache folder that has none: line i names row i of what `read` returns."""
    folder = Path(folder)
    if (folder / "rows.txt").exists():
        return
    _remove_leftovers(folder)
    temporary = folder / f"rows.{_process()}.tmp"
    with temporary.open("w", encoding="utf-8", errors="backslashreplace") as file:
        for name in names:
            file.write(name.replace("\\", "\\\\").replace("\n", "\\n") + "\n")
    os.replace(temporary, folder / "rows.txt")


def _manifest(folder: str | Path) -> dict[str, Any]:
    path = Path(folder) / MANIFEST
    if not path.exists():
        raise FileNotFoundError(f"{folder} is not a finished feature cache; run the features stage again")
    return _read_json(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(
            f"{path} is damaged ({error}); remove the folder, and its features are computed anew"
        ) from None


def _write_manifest(folder: Path, header: dict[str, Any]) -> None:
    checksums: dict[str, str] = {}
    skipped: dict[str, str] = {}
    missing = []
    for start, stop in _spans(header):
        path = _shard(folder, header, start)
        if not _readable(path, stop - start):
            missing.append(path.name)
            continue
        with path.open("rb") as file:
            checksums[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        with np.load(path) as shard:
            if SKIPPED in shard.files:
                reasons = shard[SKIPPED]
                skipped |= {str(start + int(i)): str(reasons[i]) for i in np.flatnonzero(reasons != "")}
    if missing:
        raise ValueError(f"{folder} lacks {', '.join(missing)}; start the run again with all its processes")
    manifest = header | {"shards": checksums} | ({SKIPPED: skipped} if skipped else {})
    _write_text(folder / MANIFEST, json.dumps(manifest, indent=1, sort_keys=True))


def _spans(header: Mapping[str, Any]) -> list[Span]:
    rows, step = header["rows"], header["shard_rows"]
    return [(start, min(start + step, rows)) for start in range(0, rows, step)]


def _shard(folder: Path, header: Mapping[str, Any], start: int) -> Path:
    return folder / f"{start // header['shard_rows']:05d}.npz"


def _readable(path: Path, rows: int) -> bool:
    try:
        with np.load(path) as shard:
            return bool(shard.files) and all(len(shard[key]) == rows for key in shard.files)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return False


def _process() -> str:
    return f"{re.sub(r'[^A-Za-z0-9-]', '-', socket.gethostname())}.{os.getpid()}"


def _remove_leftovers(folder: Path) -> None:
    """Removes temporary files of killed runs: of this machine's processes that are no more, and old ones of any machine."""
    host, own = _process().split(".")
    for path in folder.iterdir():
        match = re.fullmatch(r".+?\.(?:([A-Za-z0-9-]*)\.)?(\d+)\.tmp(?:\.npz)?", path.name)
        if not match:
            continue
        here = match[1] in (None, host)
        try:
            old = time.time() - path.stat().st_mtime > STALE_SECONDS
            if old or (here and (match[2] == own or not _alive(int(match[2])))):
                path.unlink()
        except FileNotFoundError:  # renamed, or removed by another run, meanwhile
            continue


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{_process()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)

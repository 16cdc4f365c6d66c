"""The feature cache: each frozen teacher sees each view of each picture once.

One folder per teacher and view: shards `00000.npz` of consecutive rows, and `manifest.json` written last. A shard is
written to a temporary name and renamed, so a killed run continues with the first missing shard.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1


def cache_key(**identity: Any) -> str:
    """Twelve hex digits that change with anything features depend on: weights, preprocessing, data set, view."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]


def fill(
    folder: str | Path,
    identity: dict[str, Any],
    rows: int,
    shard_rows: int,
    compute: Callable[[int, int], dict[str, np.ndarray]],
) -> Iterator[int]:
    """Computes the shards that `folder` lacks, yielding the rows done so far (0..rows, for progress).

    `compute(start, stop)` returns {name: [stop - start, ...]}. Raises ValueError where the folder holds another identity.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    header = {"format": FORMAT, "rows": rows, "shard_rows": shard_rows, "identity": identity}
    started = folder / "identity.json"
    if started.exists() and json.loads(started.read_text()) != header:
        raise ValueError(
            f"{folder} holds other features than asked for; remove it, or choose another cache folder"
        )
    _write_text(started, json.dumps(header, indent=1, sort_keys=True))
    checksums = {}
    for start in range(0, rows, shard_rows):
        stop = min(start + shard_rows, rows)
        path = folder / f"{start // shard_rows:05d}.npz"
        if not _readable(path, stop - start):
            arrays = compute(start, stop)
            temporary = path.with_suffix(f".{os.getpid()}.tmp.npz")  # two runs may share a cache
            np.savez(temporary, **arrays)  # type: ignore[arg-type]
            os.replace(temporary, path)
        checksums[path.name] = _sha256(path)
        yield stop
    _write_text(
        folder / "manifest.json", json.dumps(header | {"shards": checksums}, indent=1, sort_keys=True)
    )


def is_complete(folder: str | Path, identity: dict[str, Any]) -> bool:
    """Whether `folder` holds all rows of exactly this identity (shards are verified by `read`)."""
    manifest = Path(folder) / "manifest.json"
    if not manifest.exists():
        return False
    header = json.loads(manifest.read_text())
    return header["identity"] == identity and header["format"] == FORMAT


def read(folder: str | Path) -> dict[str, np.ndarray]:
    """All rows of a complete cache folder, {name: [rows, ...]}; each shard's sha256 is checked.

    Raises ValueError naming the shard that is missing or does not match, and FileNotFoundError for an unfinished cache.
    """
    folder = Path(folder)
    manifest = folder / "manifest.json"
    if not manifest.exists():
        raise FileNotFoundError(f"{folder} is not a finished feature cache; run the features stage again")
    parts = []
    for name, checksum in json.loads(manifest.read_text())["shards"].items():
        path = folder / name
        if not path.exists() or _sha256(path) != checksum:
            raise ValueError(f"feature shard {path} is missing or was changed; remove {folder} and run again")
        with np.load(path) as shard:
            parts.append({key: shard[key] for key in shard.files})
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def _readable(path: Path, rows: int) -> bool:
    try:
        with np.load(path) as shard:
            return bool(shard.files) and all(len(shard[key]) == rows for key in shard.files)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return False


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(text)
    os.replace(temporary, path)

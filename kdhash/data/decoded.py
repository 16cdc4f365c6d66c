"""Decoded pictures on disk, so that the next start need not read and decode a data set's records again."""

import hashlib
import json
import os
import time
import uuid
import zipfile
from pathlib import Path

import numpy as np
import PIL

import kdhash
from kdhash.data.sources import ArrayImages, ImageDataset, find_version, load_dataset

FOLDER = ".data_cache"
MOST = 4  # files of a data set, should its own files change at every start
ABANDONED_SECONDS = 3600  # since a file that was never finished was written to
# What decides over pixels, rows and their order, beside the data set's files.
CODE = tuple(
    Path(__file__).with_name(name) for name in ("decoded.py", "decoders.py", "pictures.py", "sources.py")
)


def load_decoded(
    name: str,
    data_dir: str | Path | None,
    folder: Path | None,
    *,
    image_size: int | None = None,
    write: bool = True,
) -> ImageDataset:
    """`load_dataset`, in memory; what it read is kept in `folder` and read from there the next time. None keeps nothing. Of
    several processes one alone may `write`.

    What is kept belongs to the data set's files as they are, by path, size and times, and to the code that read them: where
    one of these has changed, the records are read anew. A file that cannot be read or written costs time alone and is told of.
    Raises as `load_dataset`.
    """
    if folder is None or name == "digits":
        return load_dataset(name, data_dir, image_size=image_size)
    path = folder / f"{name.replace('/', '-')}-{_identity(find_version(name, data_dir), image_size)}.npz"
    say = print if write else lambda *_, **__: None
    if path.is_file():
        try:
            return _read(path)
        # RuntimeError: of zipfile, for what it takes for encrypted or compressed
        except (OSError, EOFError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile) as error:
            say(f"{path} cannot be read ({error}): the data set is read anew", flush=True)
    dataset = load_dataset(name, data_dir, image_size=image_size)
    try:
        if write:
            _write(path, dataset)
            _tidy(path)
    except OSError as error:
        say(f"{path} cannot be written ({error}): the next start reads the data set again", flush=True)
    return dataset


def _identity(version: Path, image_size: int | None) -> str:
    files = [
        (str(path.relative_to(version)), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        for path in sorted(version.rglob("*"))
        if path.is_file() and (stat := path.stat())
    ]
    code = [hashlib.sha256(path.read_bytes()).hexdigest() for path in CODE]
    facts = [kdhash.__version__, PIL.__version__, code, str(version.resolve()), files, image_size]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _write(path: Path, dataset: ImageDataset) -> None:
    about = {
        "name": dataset.name,
        "class_names": dataset.class_names,
        "splits": {name: [rows.start, rows.stop] for name, rows in dataset.splits.items()},
        "fingerprint": dataset.fingerprint,
        "ids": list(dataset.ids),
    }
    assert isinstance(dataset.images, ArrayImages)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.stem}.{uuid.uuid4().hex}.partial")  # of a name that no other run takes
    try:
        with partial.open("xb") as file:
            encoded = np.frombuffer(json.dumps(about).encode(), np.uint8)
            np.savez(file, about=encoded, labels=dataset.labels, pictures=dataset.images.pictures)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _tidy(path: Path) -> None:
    """Removes older files of the data set beyond MOST, and what runs that were killed have left."""
    files = path.parent.glob(f"{path.stem.rpartition('-')[0]}-{'[0-9a-f]' * 24}.npz")
    kept = sorted(files, key=lambda one: one.stat().st_mtime, reverse=True)
    abandoned = [
        one for one in path.parent.glob("*.partial") if one.stat().st_mtime < time.time() - ABANDONED_SECONDS
    ]
    for one in [*kept[MOST:], *abandoned]:
        one.unlink(missing_ok=True)


def _read(path: Path) -> ImageDataset:
    with np.load(path, allow_pickle=False) as kept:
        encoded, labels, pictures = (kept[name] for name in ("about", "labels", "pictures"))
    about = json.loads(encoded.tobytes())
    rows = [len(about["ids"]), len(labels), len(pictures)]
    if len(set(rows)) > 1:
        raise ValueError(f"{rows} rows of ids, labels and pictures")
    return ImageDataset(
        name=about["name"],
        images=ArrayImages(pictures),
        labels=labels,
        ids=about["ids"],
        class_names=tuple(about["class_names"]),
        splits={name: range(start, stop) for name, (start, stop) in about["splits"].items()},
        fingerprint=about["fingerprint"],
    )

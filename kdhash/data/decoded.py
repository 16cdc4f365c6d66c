"""Decoded pictures on disk, so that the next start need not read and decode a data set's records again."""

import hashlib
import json
import os
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import PIL

import kdhash
from kdhash.data.sources import ArrayImages, ImageDataset, find_version, load_dataset

FOLDER = ".data_cache"


def load_decoded(
    name: str,
    data_dir: str | Path | None,
    folder: Path | None,
    *,
    image_size: int | None = None,
    write: bool = True,
) -> ImageDataset:
    """`load_dataset`, in memory; what it read is kept in `folder` and read from there the next time. None keeps nothing, and
    without `write`, for all processes but one, nothing is added.

    What is kept belongs to the data set's files as they are, by path, size and times, and to this version of kdhash and Pillow:
    where one of these has changed, the records are read anew. A file that is damaged, or cannot be written, costs time alone and
    is told of. Raises as `load_dataset`.
    """
    if folder is None or name == "digits":
        return load_dataset(name, data_dir, image_size=image_size)
    path = folder / f"{_identity(find_version(name, data_dir), image_size)}.npz"
    if path.is_file():
        try:
            return _read(path)
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as error:
            print(f"{path} is damaged ({error}): the data set is read anew", flush=True)
    dataset = load_dataset(name, data_dir, image_size=image_size)
    try:
        if write:
            _write(path, dataset)
    except OSError as error:
        print(f"{path} cannot be written ({error}): the next start reads the data set again", flush=True)
    return dataset


def _identity(version: Path, image_size: int | None) -> str:
    files = [
        (str(path.relative_to(version)), stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        for path in sorted(version.rglob("*"))
        if path.is_file() and (stat := path.stat())
    ]
    facts = [kdhash.__version__, PIL.__version__, str(version.resolve()), files, image_size]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:24]


def _write(path: Path, dataset: ImageDataset) -> None:
    about = {
        "name": dataset.name,
        "class_names": dataset.class_names,
        "splits": {name: [rows.start, rows.stop] for name, rows in dataset.splits.items()},
        "fingerprint": dataset.fingerprint,
    }
    assert isinstance(dataset.images, ArrayImages)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(".partial", dir=path.parent)  # of a name that no other run takes
    try:
        with open(handle, "wb") as file:
            np.savez(
                file,
                about=np.array(json.dumps(about)),
                labels=dataset.labels,
                ids=np.array(dataset.ids),
                pictures=dataset.images.pictures,
            )
        os.replace(partial, path)
    except BaseException:
        os.unlink(partial)
        raise


def _read(path: Path) -> ImageDataset:
    with np.load(path, allow_pickle=False) as kept:
        about, labels, ids, pictures = (kept[name] for name in ("about", "labels", "ids", "pictures"))
    told = json.loads(str(about))
    return ImageDataset(
        name=told["name"],
        images=ArrayImages(pictures),
        labels=labels,
        ids=ids.tolist(),
        class_names=tuple(told["class_names"]),
        splits={name: range(start, stop) for name, (start, stop) in told["splits"].items()},
        fingerprint=told["fingerprint"],
    )

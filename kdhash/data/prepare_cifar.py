"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from the published archives, binary or Python layout, as TFDS
folders.

Same name, version, features, ids and order as the sets registered in TensorFlow Datasets, but made without
TensorFlow.
"""

import hashlib
import io
import os
import pickle
import tarfile
import tempfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from kdhash.data.write_tfds import Example, encode_png, write_dataset

VERSION = "3.0.2"
HOME = "https://www.cs.toronto.edu/~kriz/"


@dataclass(frozen=True)
class Archive:
    """One published file, and where things lie in it."""

    file: str
    # binary: as registered in tensorflow_datasets/url_checksums; Python: as in keras.datasets (the authors
    # give md5s: c58f30108f718f92721af3b95e74349a (10), eb9058c3a382ffc7106e4002c42a8d85 (100))
    sha256: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    # label feature -> the file of its names (binary), or the key of its values and that of its names (Python)
    labels: dict[str, tuple[str, str]]
    # the file that holds the names in the Python layout; the binary layout has none
    meta: str | None = None


# label bytes stand in this order before the pixels of a binary record
ARCHIVES = {
    "cifar10": (
        Archive(
            "cifar-10-binary.tar.gz",
            "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
            ("test_batch.bin",),
            {"label": ("", "batches.meta.txt")},
        ),
        Archive(
            "cifar-10-python.tar.gz",
            "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
            tuple(f"data_batch_{number}" for number in range(1, 6)),
            ("test_batch",),
            {"label": ("labels", "label_names")},
            meta="batches.meta",
        ),
    ),
    "cifar100": (
        Archive(
            "cifar-100-binary.tar.gz",
            "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ("train.bin",),
            ("test.bin",),
            {"coarse_label": ("", "coarse_label_names.txt"), "label": ("", "fine_label_names.txt")},
        ),
        Archive(
            "cifar-100-python.tar.gz",
            "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
            ("train",),
            ("test",),
            {
                "coarse_label": ("coarse_labels", "coarse_label_names"),
                "label": ("fine_labels", "fine_label_names"),
            },
            meta="meta",
        ),
    ),
}


class Split(NamedTuple):
    """Pictures of one split in published order, and their labels by feature name."""

    pictures: UInt8[np.ndarray, "n 32 32 3"]
    labels: dict[str, Int64[np.ndarray, " n"]]


def prepare_cifar(
    name: str,
    archive: str | Path,
    data_dir: str | Path,
    *,
    per_class: int = 0,
    allow_unverified: bool = False,
) -> tuple[Path, dict[str, int]]:
    """Builds `data_dir`/`name`/3.0.2 from a published archive of 'cifar10' or 'cifar100'; with `per_class` N, `name`_firstN of
    the first so many pictures of each class and split.

    Returns the folder and the number of pictures of each split. Nothing is left behind on failure. Raises
    FileNotFoundError without the archive, FileExistsError where the folder exists already, and ValueError
    where the sha256 is not that of a published archive (`allow_unverified` lets it pass), or the content is
    damaged.
    """
    target = dataset_name(name, per_class)
    archive = Path(archive)
    if not archive.is_file():
        raise FileNotFoundError(
            f"no archive at {archive}; get {HOME}{ARCHIVES[name][0].file}, or use --download"
        )
    if not allow_unverified:
        check_sha256(name, archive)
    splits, label_names = read_cifar(name, archive)
    rows = {key: first_of_each(split.labels["label"], per_class) for key, split in splits.items()}
    folder = write_dataset(
        data_dir,
        target,
        VERSION,
        image_shape=(32, 32, 3),
        label_names={key: label_names[key] for key in ("label", "coarse_label") if key in label_names},
        splits={key: _examples(key, split, rows[key]) for key, split in splits.items()},
        about={
            "description": f"{name} as published, prepared by kdhash."
            + (f" The first {per_class} pictures of each class and split." if per_class else ""),
            "homepage": f"{HOME}cifar.html",
            "citation": "Krizhevsky, Learning multiple layers of features from tiny images, 2009",
        },
    )
    return folder, {key: len(kept) for key, kept in rows.items()}


def dataset_name(name: str, per_class: int) -> str:
    """Of all pictures, or of the first `per_class` of each class. Raises ValueError for less than 0."""
    if per_class < 0:
        raise ValueError(f"{per_class} pictures of each class: must be 0 (all) or more")
    return f"{name}_first{per_class}" if per_class else name


def first_of_each(labels: Int64[np.ndarray, " n"], per_class: int) -> Int64[np.ndarray, " kept"]:
    """Rows of the first `per_class` items of each class (0: of all), in their order; of a smaller class all."""
    if not per_class:
        return np.arange(len(labels))
    kept = [np.flatnonzero(labels == label)[:per_class] for label in np.unique(labels)]
    return np.sort(np.concatenate(kept))


def download_cifar(name: str, data_dir: str | Path) -> Path:
    """The binary archive from its authors' page, to `data_dir`/downloads; a file that is there already is
    taken.

    Raises ConnectionError, with what to do by hand, where it cannot be had, and ValueError for a wrong
    sha256.
    """
    url = HOME + ARCHIVES[name][0].file
    target = Path(data_dir) / "downloads" / ARCHIVES[name][0].file
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(prefix=f".{target.name}-", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            try:
                with urllib.request.urlopen(url, timeout=30) as response:
                    while chunk := response.read(1 << 20):
                        file.write(chunk)
            except OSError as error:  # URLError and timeouts are OSErrors
                reason = error.reason if isinstance(error, urllib.error.URLError) else error
                raise ConnectionError(
                    f"cannot download {url}: {reason}; get the file by other means and give --archive FILE"
                ) from error
        check_sha256(name, Path(part))
        os.replace(part, target)
    finally:
        Path(part).unlink(missing_ok=True)
    return target


def check_sha256(name: str, archive: Path) -> None:
    """Raises ValueError, printing what was found and what is expected, unless the file is a published archive
    of `name`."""
    with archive.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found in {known.sha256 for known in ARCHIVES[name]}:
        return
    expected = " or ".join(f"{known.sha256} ({known.file})" for known in ARCHIVES[name])
    others = [known.file for archives in ARCHIVES.values() for known in archives if known.sha256 == found]
    raise ValueError(
        f"{archive} is not a published {name} archive: sha256 {found}, expected {expected}. "
        + (f"It is {others[0]}. " if others else "")
        + "Fetch it again, or pass --allow-unverified if you trust the file"
    )


def read_cifar(name: str, archive: str | Path) -> tuple[dict[str, Split], dict[str, list[str]]]:
    """The splits 'train' and 'test' of an archive of either layout, and the class names by label feature.

    Raises ValueError, naming the archive and the file in it, where something is missing, cut off or out of
    range.
    """
    archive = Path(archive)
    files = _read_members(archive)
    layout = next((known for known in ARCHIVES[name] if known.test[0] in files), None)
    if layout is None:
        tests = " nor ".join(known.test[0] for known in ARCHIVES[name])
        raise ValueError(
            f"{archive} is no {name} archive: neither {tests} in it (found: {', '.join(sorted(files))})"
        )
    read = _read_python if layout.meta else _read_binary
    needed = [*layout.train, *layout.test]
    needed += [layout.meta] if layout.meta else [file for _, file in layout.labels.values()]
    missing = [file for file in needed if file not in files]
    if missing:
        raise ValueError(f"{archive} lacks {', '.join(missing)}")

    meta = _unpickle(archive, layout.meta, files) if layout.meta else {}
    label_names = {}
    for key, (_, source) in layout.labels.items():
        names = meta.get(source, []) if layout.meta else files[source].decode().split("\n")
        label_names[key] = [str(_text(entry)) for entry in names if entry.strip()]

    splits = {}
    for split, members in (("train", layout.train), ("test", layout.test)):
        parts = [read(archive, member, files, layout) for member in members]
        labels = {key: np.concatenate([part.labels[key] for part in parts]) for key in layout.labels}
        splits[split] = Split(np.concatenate([part.pictures for part in parts]), labels)
        for key, values in labels.items():
            if len(values) and not 0 <= values.min() <= values.max() < len(label_names[key]):
                raise ValueError(
                    f"{archive}: {key} of {split} is {values.min()}..{values.max()} "
                    f"for {len(label_names[key])} names"
                )
        if not len(splits[split].pictures):
            raise ValueError(f"{archive} has no {split} pictures")
    return splits, label_names


def _read_members(archive: Path) -> dict[str, bytes]:
    files = {}
    try:
        with tarfile.open(archive) as tar:
            for member in tar:
                content = tar.extractfile(member) if member.isfile() else None
                if content is not None:
                    files[Path(member.name).name] = content.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise ValueError(f"{archive} is cut off or damaged ({error}); fetch it again") from error
    return files


def _read_binary(archive: Path, member: str, files: dict[str, bytes], layout: Archive) -> Split:
    width = len(layout.labels) + 3072
    if len(files[member]) % width:
        raise ValueError(f"{archive}: {member} has {len(files[member])} bytes, no multiple of {width}")
    records = np.frombuffer(files[member], np.uint8).reshape(-1, width)
    labels = {key: records[:, place].astype(np.int64) for place, key in enumerate(layout.labels)}
    return Split(_to_pictures(records[:, len(labels) :]), labels)


def _read_python(archive: Path, member: str, files: dict[str, bytes], layout: Archive) -> Split:
    batch = _unpickle(archive, member, files)
    pixels = batch.get("data")
    if not isinstance(pixels, np.ndarray) or pixels.dtype != np.uint8 or pixels.shape[1:] != (3072,):
        raise ValueError(f"{archive}: {member} has no uint8 'data' of 3072 values a picture")
    labels = {}
    for key, (source, _) in layout.labels.items():
        values = batch.get(source)
        if not isinstance(values, list) or len(values) != len(pixels):
            raise ValueError(f"{archive}: {member} has no list {source!r} of {len(pixels)} labels")
        labels[key] = np.array(values, dtype=np.int64)
    return Split(_to_pictures(pixels), labels)


def _to_pictures(pixels: UInt8[np.ndarray, "n 3072"]) -> UInt8[np.ndarray, "n 32 32 3"]:
    return pixels.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)


def _examples(prefix: str, split: Split, rows: Int64[np.ndarray, " kept"]) -> Iterator[Example]:
    # the registered builders' keys and ids, hence their order
    for index in map(int, rows):
        picture = split.pictures[index]
        labels = {key: int(values[index]) for key, values in split.labels.items()}
        image = encode_png(np.ascontiguousarray(picture))
        yield index, {"id": f"{prefix}_{index:05d}", "image": image, **labels}


def _unpickle(archive: Path, member: str, files: dict[str, bytes]) -> dict[str, Any]:
    try:
        content = _ArrayUnpickler(io.BytesIO(files[member]), encoding="bytes").load()
    except Exception as error:  # a damaged pickle may raise anything
        raise ValueError(f"{archive}: {member} is not a readable pickle of arrays: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{archive}: {member} holds a {type(content).__name__}, not a dictionary")
    return {str(_text(key)): value for key, value in content.items()}


def _text(value: Any) -> Any:
    return value.decode("latin1") if isinstance(value, bytes) else value


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"bytes stored as {encoding!r}")
    return text.encode("latin1")


class _ArrayUnpickler(pickle.Unpickler):
    """Arrays, containers, strings and numbers; everything else a pickle could call is refused."""

    def find_class(self, module: str, name: str) -> Any:
        module = module.replace("numpy.core", "numpy._core")
        if (module, name) == ("_codecs", "encode"):
            return _encode_latin1
        if (module, name) in {
            ("numpy", "ndarray"),
            ("numpy", "dtype"),
            ("numpy._core.multiarray", "_reconstruct"),
        }:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it refers to {module}.{name}, which is not allowed")

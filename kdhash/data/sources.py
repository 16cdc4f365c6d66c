"""Data sets as rows: pictures (in memory or decoded when asked for), labels, ids, and their splits.

TensorFlow Datasets' ArrayRecord folders are opened from disk alone (no catalogue, no network, no TensorFlow).
"""

import hashlib
import json
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import Int, Int32, Int64, UInt8
from PIL import Image

from kdhash.data.decoders import decode_by_processes, decoding_processes
from kdhash.data.pictures import decode_pictures, fit_square
from kdhash.data.stratify import hash_order

DECODE_THREADS = 8
# Smaller pictures are decoded by one thread, or by processes: they are done so soon that threads would wait for Python's lock.
THREADED_PIXELS = 64 * 64
WORTH_PROCESSES = 10_000  # so many take a second or more, and processes half a second to start
READ_ROWS = 2048


class ImageSource(Protocol):
    """Pictures by row: `images[rows]` -> uint8 RGB [n, h, w, 3] in the order of `rows`."""

    @property
    def image_shape(self) -> tuple[int, int, int]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, rows: Int[np.ndarray, " n"], /) -> UInt8[np.ndarray, "n h w 3"]: ...


@dataclass(frozen=True, eq=False)
class ImageDataset:
    """A data set of labelled pictures of one size; rows are the concatenation of its splits.

    images: `images[rows]` -> uint8 RGB [n, h, w, 3].  labels: class index [rows].  ids: unique names [rows].
    splits: rows of every split, 'train' first.  fingerprint: sha256 over name, version, splits, class names,
    picture size, and every record's id, label and encoded picture: it changes when anything of the data does.
    """

    name: str
    images: ImageSource
    labels: Int32[np.ndarray, " rows"]
    ids: Sequence[str]
    class_names: tuple[str, ...]
    splits: dict[str, range]
    fingerprint: str

    def __len__(self) -> int:
        return len(self.labels)


class ArrayImages:
    """Pictures held in memory, uint8 [rows, h, w, 3]."""

    def __init__(self, pictures: UInt8[np.ndarray, "rows h w 3"]):
        if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3:
            raise ValueError(f"pictures must be uint8 [rows, h, w, 3], got {pictures.dtype} {pictures.shape}")
        self.pictures = pictures

    @property
    def image_shape(self) -> tuple[int, int, int]:
        _, height, width, channels = self.pictures.shape
        return height, width, channels

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, rows: Int[np.ndarray, " n"], /) -> UInt8[np.ndarray, "n h w 3"]:
        return self.pictures[_checked_rows(rows, len(self))]


class TfdsImages:
    """Pictures decoded when asked for, larger ones by a pool of threads, from one TFDS data source per split.

    `splits` are data sources opened with `SkipDecoding` for 'image'. `size` None keeps the stored size.
    """

    def __init__(self, splits: Sequence[Any], image_shape: tuple[int, int, int], size: int | None):
        self.splits = splits
        self.size = size
        self.starts = np.cumsum([0] + [len(split) for split in splits])
        self._image_shape = image_shape
        self._pool: ThreadPoolExecutor | None = None
        self._lock = threading.Lock()

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self._image_shape

    def __len__(self) -> int:
        return int(self.starts[-1])

    def __getitem__(self, rows: Int[np.ndarray, " n"], /) -> UInt8[np.ndarray, "n h w 3"]:
        wanted = _checked_rows(rows, len(self))
        encoded: list[bytes] = [b""] * len(wanted)
        for split, start, stop in zip(self.splits, self.starts, self.starts[1:], strict=False):
            places = np.flatnonzero((wanted >= start) & (wanted < stop))
            if len(places):
                records = split.__getitems__([int(row) for row in wanted[places] - start])
                for place, record in zip(places, records, strict=True):
                    encoded[place] = record["image"]
        return self.decode(encoded)

    def decode(self, encoded: Sequence[bytes]) -> UInt8[np.ndarray, "n h w 3"]:
        """The pictures of encoded bytes, in order. Raises ValueError where one has another size."""
        pictures = np.empty((len(encoded), *self._image_shape), np.uint8)

        def fill(start: int) -> None:
            part = slice(start, start + 64)
            decode_pictures(encoded[part], self._image_shape, self.size, out=pictures[part])

        starts = range(0, len(encoded), 64)
        deque(map(fill, starts) if self._small() else self._threads().map(fill, starts), maxlen=0)
        return pictures

    def decode_blocks(self, blocks: Iterable[Sequence[bytes]]) -> Iterator[UInt8[np.ndarray, "n h w 3"]]:
        """`decode` of each, in order; of many small pictures by several processes."""
        count = decoding_processes() if self._small() and len(self) >= WORTH_PROCESSES else 0
        if not count:
            return map(self.decode, blocks)
        return decode_by_processes(blocks, self._image_shape, self.size, count)

    def _small(self) -> bool:
        height, width, _ = self._image_shape
        return self.size is None and height * width < THREADED_PIXELS

    def _threads(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode")
            return self._pool


@dataclass(frozen=True, eq=False)
class _ChosenImages:
    """Rows of another source, fetched through it when asked for."""

    parent: ImageSource
    rows: Int64[np.ndarray, " rows"]

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return self.parent.image_shape

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: Int[np.ndarray, " n"], /) -> UInt8[np.ndarray, "n h w 3"]:
        return self.parent[self.rows[_checked_rows(rows, len(self))]]


def subset(dataset: ImageDataset, rows: Int[np.ndarray, " rows"]) -> ImageDataset:
    """The data set of `rows` of `dataset`, in that order; its only split is 'all'.

    Pictures stay where they are and are fetched through `dataset`; name, ids and class names (with those of classes
    that no row has) are kept. The fingerprint is sha256 over the parent's and the rows (int64, little-endian).
    Raises ValueError where `rows` is no vector of integers or names a row twice (ids would not be unique), and
    IndexError for a row outside.
    """
    chosen = _checked_rows(rows, len(dataset)).astype("<i8")  # a copy: the caller may go on to change `rows`
    values, counts = np.unique(chosen, return_counts=True)
    if (counts > 1).any():
        raise ValueError(f"rows names {(counts > 1).sum()} rows twice or more, {values[counts > 1][0]} first")
    chosen.setflags(write=False)
    digest = hashlib.sha256(dataset.fingerprint.encode())
    digest.update(chosen.tobytes())
    return ImageDataset(
        name=dataset.name,
        images=_ChosenImages(dataset.images, chosen),
        labels=dataset.labels[chosen],
        ids=[dataset.ids[row] for row in chosen],
        class_names=dataset.class_names,
        splits={"all": range(len(chosen))},
        fingerprint=digest.hexdigest(),
    )


def load_dataset(
    name: str, data_dir: str | Path | None, *, image_size: int | None = None, in_memory: bool = True
) -> ImageDataset:
    """The data set `name`: scikit-learn's 'digits', or the TFDS ArrayRecord folder `data_dir`/`name`.

    A TFDS folder needs the features 'image' and 'label' (others are ignored; without 'id', ids are
    '<split>/<row>'). Of several versions the newest is read; `name` may also end in '/<version>' or
    '/<config>'. `image_size` brings pictures to `image_size` x `image_size` (shorter side resized, centre
    cut). `in_memory` decodes everything now (on two cores some 10,000 pictures of 32 x 32 a second); otherwise
    pictures are decoded when asked for. Raises FileNotFoundError where the folder is missing (with what is
    there, and how to prepare it) and ValueError where it holds something that cannot be read as labelled
    pictures.
    """
    if name == "digits":
        return _load_digits(image_size)
    folder = find_version(name, data_dir)
    import tensorflow_datasets as tfds  # at call time: half a second that not every command needs

    builder = tfds.builder_from_directory(folder)
    features = builder.info.features
    _check_features(folder, builder.info)
    class_names = tuple(features["label"].names or map(str, range(features["label"].num_classes)))
    split_names = sorted(builder.info.splits, key=lambda split: (split != "train", split))
    decoders = {"image": tfds.decode.SkipDecoding()}
    sources = [builder.as_data_source(split=split, decoders=decoders) for split in split_names]
    if not sum(map(len, sources)):
        raise ValueError(f"{folder} holds no pictures")
    stored = features["image"].shape[:2]
    shape = (image_size, image_size) if image_size else stored
    if None in shape:
        raise ValueError(f"the pictures in {folder} have no common size; give image_size")
    images = TfdsImages(sources, (*shape, 3), None if shape == stored else image_size)

    digest = hashlib.sha256()
    header = [
        builder.info.name,
        str(builder.info.version),
        split_names,
        class_names,
        list(map(len, sources)),
        shape,
    ]
    digest.update(json.dumps(header).encode())
    labels = np.empty(len(images), np.int32)
    ids: list[str] = []

    def blocks() -> Iterator[list[bytes]]:
        for split, source in zip(split_names, sources, strict=True):
            for start in range(0, len(source), READ_ROWS):
                records = source.__getitems__(list(range(start, min(start + READ_ROWS, len(source)))))
                for record in records:
                    identity = record.get("id", f"{split}/{len(ids)}")
                    identity = identity.decode() if isinstance(identity, bytes) else str(identity)
                    labels[len(ids)] = record["label"]
                    digest.update(f"{identity}\0{record['label']}\0{len(record['image'])}\0".encode())
                    digest.update(record["image"])
                    ids.append(identity)
                yield [record["image"] for record in records]

    if in_memory:
        pictures, done = np.empty((len(images), *images.image_shape), np.uint8), 0
        for part in images.decode_blocks(blocks()):
            pictures[done : done + len(part)] = part
            done += len(part)
    else:
        deque(blocks(), maxlen=0)

    if len(ids) and (labels.min() < 0 or labels.max() >= len(class_names)):
        raise ValueError(f"{folder} has labels {labels.min()}..{labels.max()} for {len(class_names)} classes")
    splits = _ranges(split_names, [len(source) for source in sources])
    return ImageDataset(
        name=builder.info.name,
        images=ArrayImages(pictures) if in_memory else images,
        labels=labels,
        ids=_unique_ids(ids, splits),
        class_names=class_names,
        splits=splits,
        fingerprint=digest.hexdigest(),
    )


def _load_digits(image_size: int | None) -> ImageDataset:
    """1,797 handwritten digits, 8 x 8 grey, 0..16 scaled to 0..255; a fixed fifth a class is 'test'."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    grey = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    labels = bunch.target.astype(np.int32)
    ids = [f"digits/{row:04d}" for row in range(len(labels))]
    test = np.zeros(len(labels), bool)
    shuffled = hash_order(ids, "digits")
    for label in range(10):
        members = shuffled[labels[shuffled] == label]
        test[members[: len(members) // 5]] = True
    order = np.concatenate([np.flatnonzero(~test), np.flatnonzero(test)])
    pictures = np.repeat(grey[order][..., None], 3, axis=-1)
    if image_size and image_size != 8:
        pictures = np.stack(
            [np.asarray(fit_square(Image.fromarray(picture), image_size)) for picture in pictures]
        )
    digest = hashlib.sha256(json.dumps(["digits", pictures.shape, int(test.sum())]).encode())
    for part in (pictures, labels[order], order):
        digest.update(np.ascontiguousarray(part).tobytes())
    return ImageDataset(
        name="digits",
        images=ArrayImages(pictures),
        labels=labels[order],
        ids=[ids[row] for row in order],
        class_names=tuple(map(str, range(10))),
        splits=_ranges(["train", "test"], [int((~test).sum()), int(test.sum())]),
        fingerprint=digest.hexdigest(),
    )


def find_version(name: str, data_dir: str | Path | None) -> Path:
    prepare = (
        "prepare one with `python -m kdhash prepare cifar10 --download --data-dir DIR` "
        "or `python -m kdhash prepare folder PICTURES --name NAME --data-dir DIR`"
    )
    if data_dir is None:
        raise ValueError(f"data set {name!r} needs data_dir (only 'digits' does without); {prepare}")
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir {root} does not exist; {prepare}")
    folder = root / name
    if (folder / "dataset_info.json").is_file():
        return folder
    found = [path.parent for path in folder.glob("*/dataset_info.json")]
    configs = [path.parent for path in folder.glob("*/*/dataset_info.json")] if not found else []
    if len({path.parent for path in configs}) > 1:
        names = ", ".join(sorted({f"{name}/{path.parent.name}" for path in configs}))
        raise ValueError(f"{folder} has several configurations; name one of: {names}")
    if not found and not configs:
        there = sorted({path.relative_to(root).parts[0] for path in root.glob("*/**/dataset_info.json")})
        raise FileNotFoundError(
            f"no data set {name!r} in {root} (there: {', '.join(there) or 'none'}; built in: digits); "
            + prepare
        )
    return max(found or configs, key=lambda path: _version_key(path.name))


def _version_key(version: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in version.split("."))


def _check_features(folder: Path, info: Any) -> None:
    from tensorflow_datasets.core import features as kinds

    if info.file_format is None or info.file_format.value != "array_record":
        stored = info.file_format.value if info.file_format else "an unknown format"
        raise ValueError(
            f"{folder} is stored as {stored}; kdhash reads array_record: "
            "prepare it again with `tfds build --file_format=array_record`"
        )
    if not isinstance(info.features, kinds.FeaturesDict):
        raise ValueError(f"{folder} has no named features; 'image' and 'label' are needed")
    features = dict(info.features.items())
    for name, kind in (("image", kinds.Image), ("label", kinds.ClassLabel)):
        if not isinstance(features.get(name), kind):
            there = ", ".join(f"{key} ({type(value).__name__})" for key, value in features.items())
            raise ValueError(f"{folder} has no feature {name!r} of kind {kind.__name__}; it has: {there}")


def _ranges(names: Sequence[str], lengths: Sequence[int]) -> dict[str, range]:
    starts = np.cumsum([0, *lengths])
    return {
        name: range(int(start), int(stop))
        for name, start, stop in zip(names, starts, starts[1:], strict=False)
    }


def _unique_ids(ids: list[str], splits: dict[str, range]) -> list[str]:
    # some data sets number their splits separately
    if len(set(ids)) == len(ids):
        return ids
    prefixed = [f"{split}/{ids[row]}" for split, rows in splits.items() for row in rows]
    if len(set(prefixed)) == len(prefixed):
        return prefixed
    return [f"{split}/{row - rows.start}" for split, rows in splits.items() for row in rows]


def _checked_rows(rows: Int[np.ndarray, " n"], length: int) -> Int[np.ndarray, " n"]:
    wanted = np.asarray(rows)
    if wanted.ndim != 1 or not np.issubdtype(wanted.dtype, np.integer):
        raise ValueError(f"rows must be a vector of integers, got {wanted.dtype} {wanted.shape}")
    if len(wanted) and (wanted.min() < 0 or wanted.max() >= length):
        raise IndexError(f"rows {wanted.min()}..{wanted.max()} of a data set of {length}")
    return wanted

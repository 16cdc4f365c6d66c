"""Protocols: named, seeded, checksummed splits into query, database and training rows.

A retrieval score means something only with its protocol; the same name, data and seed give the same rows for
ever (rows are chosen by a hash of the pictures' ids). 'cifar10-1' and 'cifar10-2' are the field's
two common CIFAR-10 splits, which differ by .1 in mAP; 'cifar10-brcd' is that of unsupervised distillation.
"""

import hashlib
import json
import os
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from kdhash.data.sources import ImageDataset
from kdhash.data.stratify import pick_per_class

PARTS = ("query", "database", "train", "validation")
NAMES = ("cifar10-1", "cifar10-2", "cifar10-brcd", "holdout")
BRCD_VALIDATION = 500  # a class, of the official test pictures


@dataclass(frozen=True, eq=False)
class Protocol:
    """Which rows of an `ImageDataset` are query, database, training and validation, ascending.

    ks: the cut-offs k of mAP@k that belong to it (0 means all).  fingerprint: of the data set it was made
    for. `train` and `validation` are disjoint, and neither meets `query`; both may lie in the database.
    checksum: sha256 hex over the four index arrays.
    """

    name: str
    query: Int64[np.ndarray, " query"]
    database: Int64[np.ndarray, " database"]
    train: Int64[np.ndarray, " train"]
    validation: Int64[np.ndarray, " validation"]
    ks: tuple[int, ...]
    seed: int
    fingerprint: str
    checksum: str = field(init=False)

    def __post_init__(self) -> None:
        digest = hashlib.sha256()
        for part in PARTS:
            rows = np.ascontiguousarray(getattr(self, part), dtype="<i8")
            digest.update(f"{part} {len(rows)}\n".encode() + rows.tobytes())
        object.__setattr__(self, "checksum", digest.hexdigest())


def make_protocol(name: str, dataset: ImageDataset, *, seed: int, validation_per_class: int = 0) -> Protocol:
    """The protocol `name` on `dataset`:

    | name         | query                         | database          | train                       | ks      |
    |--------------|-------------------------------|-------------------|-----------------------------|---------|
    | cifar10-1    | 100 a class of all 60,000     | the other 59,000  | 500 a class of the database | all, 1000 |
    | cifar10-2    | official test (10,000)        | official train    | the same 50,000             | 1000, all |
    | cifar10-brcd | 500 a class of official test  | official train    | 500 a class of it           | 1000, all |
    | holdout      | split 'test'                  | split 'train'     | the same                    | 100, all  |

    `validation_per_class` pictures of every class are taken out of `train` (for choosing epochs and forms);
    they stay in the database. cifar10-brcd has its own instead: the other half of the official test pictures.
    `seed` decides the drawn rows (for cifar10-2 and holdout only the validation).
    Raises ValueError for an unknown name, a data set that is not what the name says, and classes that are too
    small.
    """
    labels, ids, classes = dataset.labels, dataset.ids, dataset.class_names
    if name not in NAMES:
        raise ValueError(f"unknown protocol {name!r}; known: {', '.join(NAMES)}")
    missing = {"train", "test"} - dataset.splits.keys()
    if missing:
        raise ValueError(
            f"protocol {name!r} needs the splits 'train' and 'test'; "
            f"{dataset.name!r} has {list(dataset.splits)}"
        )
    train, test = (np.asarray(dataset.splits[split], dtype=np.int64) for split in ("train", "test"))
    if name != "holdout" and (len(train), len(test), len(classes)) != (50_000, 10_000, 10):
        raise ValueError(
            f"protocol {name!r} is defined on CIFAR-10 (50,000 train, 10,000 test, 10 classes); "
            f"{dataset.name!r} has {len(train):,}, {len(test):,}, {len(classes)}; "
            "use 'holdout' for other data"
        )
    if not len(train) or not len(test):
        raise ValueError(
            f"protocol {name!r}: {dataset.name!r} has {len(train)} train and {len(test)} test pictures"
        )

    validation = np.empty(0, np.int64)
    if name == "cifar10-1":
        everything = np.arange(len(dataset), dtype=np.int64)
        query = pick_per_class(labels, ids, everything, 100, f"{name}/{seed}/query", classes)
        database = np.setdiff1d(everything, query)
        train = pick_per_class(labels, ids, database, 500, f"{name}/{seed}/train", classes)
        ks: tuple[int, ...] = (0, 1000)
    elif name == "cifar10-brcd":
        if validation_per_class not in (0, BRCD_VALIDATION):
            raise ValueError(
                f"validation_per_class is {validation_per_class}; {name!r} has {BRCD_VALIDATION} of its own"
            )
        database, ks = train, (1000, 0)
        validation = pick_per_class(labels, ids, test, BRCD_VALIDATION, f"{name}/{seed}/validation", classes)
        query = np.setdiff1d(test, validation)
        train = pick_per_class(labels, ids, database, 500, f"{name}/{seed}/train", classes)
    else:
        query, database = test, train
        ks = (1000, 0) if name == "cifar10-2" else (100, 0)

    if name != "cifar10-brcd" and validation_per_class:
        smallest = np.bincount(labels[train], minlength=len(classes)).min()
        if not 0 < validation_per_class < smallest:
            raise ValueError(
                f"validation_per_class is {validation_per_class}; the smallest class has {smallest} "
                f"training pictures, and one at least must stay: give 0..{smallest - 1}"
            )
        salt = f"{name}/{seed}/validation"
        validation = pick_per_class(labels, ids, train, validation_per_class, salt, classes)
        train = np.setdiff1d(train, validation)
    protocol = Protocol(name, query, database, train, validation, ks, seed, dataset.fingerprint)
    check_overlap(protocol, dataset)
    return protocol


def check_overlap(
    protocol: Protocol, dataset: ImageDataset, *, by_content: bool = False
) -> list[tuple[str, str]]:
    """Raises ValueError, listing ids, where query rows are also database, training or validation rows, where
    validation rows are training rows, or where a part names a row twice.

    `by_content` also compares pixels (reads all pictures of both sides) and returns the pairs (query id,
    database id) of identical pictures under different ids. That is a warning, not an error: in a published
    split they belong to the benchmark, and leaving them out would make another one. CIFAR-10 has none, within
    or between its two splits.
    """
    for part in PARTS:
        rows = getattr(protocol, part)
        if len(rows) and (rows.min() < 0 or rows.max() >= len(dataset)):
            raise ValueError(
                f"{part} has rows {rows.min()}..{rows.max()}; {dataset.name!r} has {len(dataset)} pictures"
            )
        twice = [row for row, count in Counter(rows.tolist()).items() if count > 1]
        if twice:
            raise ValueError(f"{part} names {_listing(dataset, twice)} more than once")
    for first, second in (
        ("query", "database"),
        ("query", "train"),
        ("query", "validation"),
        ("validation", "train"),
    ):
        common = np.intersect1d(getattr(protocol, first), getattr(protocol, second))
        if len(common):
            raise ValueError(
                f"{first} and {second} of {protocol.name!r} share {_listing(dataset, common.tolist())}"
            )
    if not by_content:
        return []
    twins = _content_twins(protocol, dataset)
    if twins:
        shown = ", ".join(f"{query} = {item}" for query, item in twins[:5])
        warnings.warn(
            f"{protocol.name!r} on {dataset.name!r}: "
            f"{len(twins)} pairs of identical pictures in query and database: {shown}"
            + (", ..." if len(twins) > 5 else ""),
            stacklevel=2,
        )
    return twins


def save_protocol(protocol: Protocol, path: str | Path) -> None:
    """Writes <path>.npz (the rows) and <path>.json (the rest); `path` has no ending."""
    base = Path(path)
    base.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "name": protocol.name,
        "ks": list(protocol.ks),
        "seed": protocol.seed,
        "sizes": {part: len(getattr(protocol, part)) for part in PARTS},
        "checksum": protocol.checksum,
        "fingerprint": protocol.fingerprint,
    }
    temporary = base.with_name(base.name + ".tmp.npz")
    np.savez_compressed(temporary, **{part: getattr(protocol, part) for part in PARTS})
    os.replace(temporary, base.with_name(base.name + ".npz"))
    temporary = base.with_name(base.name + ".tmp.json")
    temporary.write_text(json.dumps(about, indent=1) + "\n")
    os.replace(temporary, base.with_name(base.name + ".json"))


def load_protocol(path: str | Path, dataset: ImageDataset | None = None) -> Protocol:
    """The protocol that `save_protocol` wrote.

    Raises FileNotFoundError, or ValueError where the rows do not give the stored checksum, or (with
    `dataset`) where it was made for other data.
    """
    base = Path(path)
    rows_file, about_file = (base.with_name(base.name + ending) for ending in (".npz", ".json"))
    for file in (rows_file, about_file):
        if not file.is_file():
            raise FileNotFoundError(f"no protocol at {file}; make one with make_protocol and save_protocol")
    about = json.loads(about_file.read_text())
    with np.load(rows_file) as arrays:
        parts = {part: arrays[part].astype(np.int64) for part in PARTS}
    protocol = Protocol(
        about["name"], **parts, ks=tuple(about["ks"]), seed=about["seed"], fingerprint=about["fingerprint"]
    )
    if protocol.checksum != about["checksum"]:
        raise ValueError(
            f"{rows_file} has checksum {protocol.checksum}, {about_file.name} says {about['checksum']}"
        )
    if dataset is not None and dataset.fingerprint != protocol.fingerprint:
        raise ValueError(
            f"{about_file} was made for data {protocol.fingerprint[:12]}, "
            f"{dataset.name!r} is {dataset.fingerprint[:12]}"
        )
    return protocol


def _content_twins(protocol: Protocol, dataset: ImageDataset) -> list[tuple[str, str]]:
    queries: dict[bytes, list[int]] = {}
    for row, digest in _pixel_digests(dataset, protocol.query):
        queries.setdefault(digest, []).append(row)
    return [
        (dataset.ids[query], dataset.ids[row])
        for row, digest in _pixel_digests(dataset, protocol.database)
        for query in queries.get(digest, ())
    ]


def _pixel_digests(dataset: ImageDataset, rows: Int64[np.ndarray, " n"]) -> list[tuple[int, bytes]]:
    digests = []
    for start in range(0, len(rows), 2048):
        chunk = rows[start : start + 2048]
        for row, picture in zip(chunk.tolist(), dataset.images[chunk], strict=True):
            digests.append((row, hashlib.blake2b(picture.tobytes(), digest_size=16).digest()))
    return digests


def _listing(dataset: ImageDataset, rows: list[int]) -> str:
    shown = ", ".join(str(dataset.ids[row]) for row in rows[:10])
    return f"{len(rows)} pictures: {shown}" + (", ..." if len(rows) > 10 else "")

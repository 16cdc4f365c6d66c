"""Files of ready image and text features (.npz, MATLAB v5 and v7.3, HDF5), under the names that the field uses.

The convention of kdhash: `image_<split>`, `text_<split>`, `label_<split>` and `ids_<split>`, and `label_names` (class
names) once; for <split> train, database, validation, query or test, or none of them for all rows. Rows come first.
A name is split into words at '_' and at capitals, and these words are understood, whatever their order:

| part     | words                                                                                        |
|----------|----------------------------------------------------------------------------------------------|
| image    | image(s), img(s), I, X, V                                                                    |
| text     | text(s), txt(s), tag(s), T; Y where the file has no other text                               |
| label    | label(s), lab(s), L; Y beside other texts                                                    |
| train    | train, training, tr                                                                          |
| test     | test, te                                                                                     |
| query    | query, q                                                                                     |
| database | database, db, retrieval, base                                                                |
| validation | validation, valid, val, va                                                                 |
| passed over | all, deep, doc, doc2vec, feat(s), fea(s), feature(s), cnn, vgg, bow, clip                 |

which covers `I_tr T_tr L_tr I_te ... I_db` (DJSRH's descendants), `XAll YAll LAll IAll` (DCMH, DJSRH, UCCH),
`images tags labels`, `XDatabase YDatabase databaseL XTest ...`, `train_imgs_deep train_texts_doc train_imgs_labels`
(UCCH and others). Names with other words are passed over. An image array of four axes holds pictures.
Labels are multi-hot rows or one class number a row, counted from 0 or 1. Where a file has both train and database,
database rows that are also training rows are left out, so that no row is there twice.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8

ENDINGS = (".npz", ".mat", ".h5", ".hdf5", ".h5py")
IMAGE, TEXT, LABEL, IDS, PICTURES = "image", "text", "label", "ids", "pictures"
_PARTS = {
    IMAGE: "image images img imgs i x v",
    TEXT: "text texts txt txts tag tags t",
    LABEL: "label labels lab labs l",
    IDS: "id ids",
}
_SPLITS = {
    "train": "train training tr",
    "test": "test te",
    "query": "query q",
    "database": "database db retrieval base",
    "validation": "validation valid val va",
}
_PASSED_OVER = "all deep doc doc2vec feat feats fea feas feature features cnn vgg bow clip"
_NAMES = ("label_names", "class_names", "categories", "concepts")
_WANTED = (
    "image_train, text_train, label_train, image_query, ... or I_tr, T_tr, L_tr, I_te, ... or XAll, YAll, LAll "
    "(every convention: help(kdhash.data.pair_features))"
)
_Key = tuple[str, str]  # part, split


@dataclass(frozen=True, eq=False)
class SplitFeatures:
    """What a file holds of one split; what it does not hold is None."""

    rows: int
    pictures: UInt8[np.ndarray, "rows h w 3"] | None
    image_features: Float32[np.ndarray, "rows image_width"] | None
    text_features: Float32[np.ndarray, "rows text_width"] | None
    labels: Bool[np.ndarray, "rows labels"] | None
    ids: Shaped[np.ndarray, " rows"] | None


@dataclass(frozen=True, eq=False)
class FeatureFile:
    """The splits of a file of features, all with the same parts, and its label names."""

    splits: dict[str, SplitFeatures]
    label_names: tuple[str, ...]


def read_feature_file(paths: Sequence[Path]) -> FeatureFile:
    """What the files `paths` hold together, of `ENDINGS`; their keys are described above.

    Raises ImportError where h5py is needed and missing, and ValueError, naming file and keys, where keys are unknown,
    missing or there twice, row counts differ, values are not finite, or labels are no labels.
    """
    arrays: dict[str, np.ndarray] = {}
    for path in paths:
        for key, array in _read_arrays(path).items():
            if key in arrays:
                raise ValueError(f"{path} has {key!r}, and so has another file beside it; keep one")
            arrays[key] = array
    place = str(paths[0] if len(paths) == 1 else paths[0].parent)
    found = _grouped(arrays, place)
    names = next((arrays[name] for name in _NAMES if name in arrays), None)
    given = () if names is None else tuple(str(name).strip() for name in _flat_strings(names))

    turnable = any(path.suffix != ".npz" for path in paths)  # in MATLAB columns may be rows
    raw = {split: _oriented(keys, arrays, place, turnable) for split, keys in found.items()}
    if {"train", "database"} <= raw.keys():
        raw["database"] = _without(raw["database"], raw["train"])
        if not len(raw["database"][TEXT]):
            del raw["database"]
    for part in (IMAGE, TEXT):
        widths = {one[part].shape[1] for one in raw.values() if part in one}
        if len(widths) > 1:
            raise ValueError(f"{place}: {part} features have widths {sorted(widths)}: {_listing(arrays)}")
    label_keys = {split: keys[LABEL] for split, keys in found.items() if LABEL in keys}
    hot = {split: parts[LABEL] for split, parts in raw.items() if LABEL in parts}
    labels, label_names = _labels(hot, given, place, label_keys)
    splits = {}
    for split, parts in raw.items():
        of = {part: f"{place}: {key!r}" for part, key in found[split].items()}
        splits[split] = SplitFeatures(
            rows=len(parts[TEXT]),
            pictures=_pictures(parts[PICTURES], of[PICTURES]) if PICTURES in parts else None,
            image_features=_features(parts[IMAGE], of[IMAGE]) if IMAGE in parts else None,
            text_features=_features(parts[TEXT], of[TEXT]),
            labels=labels.get(split),
            ids=np.array([str(one).strip() for one in _flat_strings(parts[IDS])]) if IDS in parts else None,
        )
    return FeatureFile(splits, label_names)


def _grouped(arrays: Mapping[str, np.ndarray], place: str) -> dict[str, dict[str, str]]:
    """The key of each part of each split: the same parts in every split, an image and a text side among them."""
    several: dict[str, dict[str, list[str]]] = {}
    for key, (part, split) in _understood(arrays).items():
        part = PICTURES if part == IMAGE and arrays[key].ndim == 4 else part
        several.setdefault(split, {}).setdefault(part, []).append(key)
    if not several:
        raise ValueError(
            f"{place} has no features that are known. There are: {_listing(arrays)}. Wanted: {_WANTED}"
        )
    if "all" in several and len(several) > 1:
        named = ", ".join(sorted(several.keys() - {"all"}))
        raise ValueError(f"{place} has arrays of all rows, and of {named}: {_listing(arrays)}; keep one kind")
    found: dict[str, dict[str, str]] = {}
    for split, parts in several.items():
        complete = (IMAGE in parts or PICTURES in parts) and TEXT in parts
        if not complete or parts.keys() != next(iter(several.values())).keys():
            raise ValueError(
                f"{place}: split {split!r} has {', '.join(parts)}; every split needs image and text, and the same "
                f"parts. There are: {_listing(arrays)}. Wanted: {_WANTED}"
            )
        for part, keys in parts.items():
            # labels may be there twice, for images and for texts
            if len(keys) > 1 and (part != LABEL or not _all_equal([arrays[key] for key in keys])):
                raise ValueError(f"{place}: {part} of {split!r} is there as {', '.join(keys)}; keep one")
        found[split] = {part: keys[0] for part, keys in parts.items()}
    return found


def _listing(arrays: Mapping[str, np.ndarray]) -> str:
    return ", ".join(f"{key} {array.shape}" for key, array in arrays.items()) or "no arrays"


def _read_arrays(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a file; of an HDF5 file only those whose keys are known."""
    with path.open("rb") as stream:
        start = stream.read(520)
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        if b"\x89HDF\r\n\x1a\n" in (start[:8], start[512:520]):
            return _read_hdf5(path)
        from scipy.io import loadmat

        values = loadmat(path)
    except ImportError:
        raise
    except Exception as error:  # readers raise anything on damaged input
        raise ValueError(f"{path} is no {path.suffix} file that can be read: {error}") from error
    arrays = {}
    for key, value in values.items():
        if not key.startswith("__"):
            arrays[key] = value.toarray() if hasattr(value, "toarray") else np.asarray(value)
    return arrays


def _read_hdf5(path: Path) -> dict[str, np.ndarray]:
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            f"{path} is HDF5 (MATLAB v7.3), which needs h5py: pip install 'kdhash[mat]'"
        ) from error

    arrays = {}
    with h5py.File(path, "r") as file:
        for key, value in file.items():
            known = _words(key) is not None or key in _NAMES
            if (
                not isinstance(value, h5py.Dataset)
                or not known
                or value.dtype.kind == "O"
                and key not in _NAMES
            ):
                continue
            array = np.asarray(value.asstr()[()]) if h5py.check_string_dtype(value.dtype) else value[()]
            # MATLAB counts axes from the other end
            arrays[key] = array.T if "MATLAB_class" in value.attrs else array
    return arrays


def _words(key: str) -> _Key | None:
    """Part and split ('all' where none is named) that a key names; the part 'y' is still open. None: unknown."""
    joined = re.sub("data_?base", "Database", key, flags=re.IGNORECASE)
    joined = re.sub("(?i)^([a-z])all$", r"\1_all", joined)
    words = re.findall(r"[A-Z]+(?![a-z])[0-9]*|[A-Z]?[a-z][a-z0-9]*|[0-9]+", joined)
    parts, splits = set(), set()
    for word in map(str.lower, words):
        part = (
            "y"
            if word == "y"
            else next((name for name, known in _PARTS.items() if word in known.split()), None)
        )
        split = next((name for name, known in _SPLITS.items() if word in known.split()), None)
        if part:
            parts.add(part)
        elif split:
            splits.add(split)
        elif word not in _PASSED_OVER.split():
            return None
    if LABEL in parts:  # I_tr_labels: labels, of whatever
        parts = {LABEL}
    if len(parts) != 1 or len(splits) > 1:
        return None
    return parts.pop(), splits.pop() if splits else "all"


def _understood(arrays: Mapping[str, np.ndarray]) -> dict[str, _Key]:
    keys = {
        key: words
        for key, array in arrays.items()
        if (words := _words(key)) and (array.dtype.kind in "biuf" or words[0] == IDS)
    }
    has_text = any(part == TEXT for part, _ in keys.values())
    return {
        key: ((LABEL if has_text else TEXT) if part == "y" else part, split)
        for key, (part, split) in keys.items()
    }


def _oriented(
    keys: Mapping[str, str], arrays: Mapping[str, np.ndarray], place: str, turnable: bool
) -> dict[str, np.ndarray]:
    """The arrays of a split with rows first; class numbers and ids as vectors."""
    shaped: dict[str, np.ndarray] = {}
    for part, key in keys.items():
        array = arrays[key]
        if part in (LABEL, IDS) and max(array.shape, default=0) == array.size:
            array = array.ravel()
        axes = {PICTURES: (4,), LABEL: (1, 2), IDS: (1,)}.get(part, (2,))
        if array.ndim not in axes:
            raise ValueError(
                f"{place}: {key!r} has shape {array.shape}; {' or '.join(map(str, axes))} axes are needed"
            )
        shaped[part] = array
    first = {array.shape[0] for array in shaped.values()}
    count = first.pop() if len(first) == 1 else 0
    if not count and turnable:
        common = set.intersection(*(set(array.shape) for array in shaped.values()))
        # without labels or pictures, two equal widths must not pass for rows
        sure = len(shaped) > 2 or PICTURES in shaped or bool(common & first)
        count = max(common, default=0) if sure else 0
    if not count:
        found = ", ".join(f"{key} {arrays[key].shape}" for key in keys.values())
        raise ValueError(f"{place}: unequal or no rows: {found}; give one row a pair in each, rows first")
    return {
        part: array if array.shape[0] == count else np.moveaxis(array, array.shape.index(count), 0)
        for part, array in shaped.items()
    }


def _without(database: dict[str, np.ndarray], train: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The database rows that are no training rows: published files hold the training rows twice."""
    shared = sorted((database.keys() & train.keys()) - {IDS})

    def rows(parts: dict[str, np.ndarray]) -> list[bytes]:
        # MATLAB stores whole numbers in whatever type is just large enough
        columns = [parts[part] if part == PICTURES else parts[part].astype(np.float32) for part in shared]
        return [
            b"\0".join(np.ascontiguousarray(c[row]).tobytes() for c in columns)
            for row in range(len(columns[0]))
        ]

    counts: dict[bytes, int] = {}
    for row in rows(train):
        counts[row] = counts.get(row, 0) + 1
    kept = []
    for number, row in enumerate(rows(database)):
        if counts.get(row):
            counts[row] -= 1
        else:
            kept.append(number)
    return {part: array[kept] for part, array in database.items()}


def _labels(
    raw: Mapping[str, np.ndarray], given: tuple[str, ...], place: str, keys: Mapping[str, str]
) -> tuple[dict[str, Bool[np.ndarray, "rows labels"]], tuple[str, ...]]:
    """Multi-hot labels of every split, and their names."""
    if not raw:
        return {}, ()
    listed = ", ".join(f"{keys[split]} {array.shape}" for split, array in raw.items())
    if {array.ndim for array in raw.values()} == {1}:
        values = np.unique(np.concatenate([*raw.values()]))
        if not np.array_equal(values, np.floor(values)) or values.min() < 0:
            raise ValueError(
                f"{place}: {listed} hold {values[:5]}...; class numbers or multi-hot rows are needed"
            )
        if not given:
            classes = values
        else:
            base = 1 if values.min() >= 1 and values.max() == len(given) else 0
            classes = np.arange(base, base + len(given))
            if values.max() > classes[-1]:
                raise ValueError(
                    f"{place}: {listed} go to {values.max()}, and there are {len(given)} label names"
                )
        names = given or tuple(str(int(value)) for value in classes)
        return {split: array[:, None] == classes for split, array in raw.items()}, names
    widths = {array.shape[1:] for array in raw.values()}
    if len(widths) > 1:
        raise ValueError(f"{place}: labels of different widths: {listed}")
    for split, array in raw.items():
        if not np.isin(array, (-1, 0, 1)).all():
            raise ValueError(
                f"{place}: {keys[split]!r} has other values than 0 and 1; multi-hot rows are needed"
            )
    width = widths.pop()[0]
    if given and len(given) != width:
        raise ValueError(f"{place}: {len(given)} label names for {listed}")
    return {split: array > 0 for split, array in raw.items()}, given or tuple(map(str, range(width)))


def _features(array: np.ndarray, place: str) -> Float32[np.ndarray, "rows width"]:
    with np.errstate(over="ignore"):
        features = np.ascontiguousarray(array, dtype=np.float32)
    bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
    if len(bad):
        raise ValueError(f"{place} has values that are not finite in {len(bad)} rows, row {bad[0]} first")
    return features


def _pictures(array: np.ndarray, place: str) -> UInt8[np.ndarray, "rows h w 3"]:
    channels = [axis for axis in (3, 1, 2) if array.shape[axis] == 3]
    if not channels:
        raise ValueError(f"{place} has shape {array.shape}: no axis of 3 colours")
    pictures = np.moveaxis(array, channels[0], 3)
    if pictures.dtype == np.uint8:
        return pictures
    if not (
        np.isfinite(array).all()
        and array.min() >= 0
        and array.max() <= 255
        and (array == np.rint(array)).all()
    ):
        raise ValueError(f"{place} are no pictures of whole numbers 0..255; give uint8")
    return pictures.astype(np.uint8)


def _all_equal(arrays: Sequence[np.ndarray]) -> bool:
    return all(np.array_equal(arrays[0].ravel(), array.ravel()) for array in arrays[1:])


def _flat_strings(names: np.ndarray) -> list[Any]:
    """What a vector, or a MATLAB cell array of arrays of one value, holds."""
    return [
        name.item() if isinstance(name, np.ndarray) and name.size == 1 else name for name in names.ravel()
    ]

"""TFDS ArrayRecord folders as pictures with metadata, read in portions, without TensorFlow."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from kdhash.export.encode_sources import TAKEN, Fetched, Source, free_name

FIRST = ("label", "labels", "tags", "captions", "caption", "text")
Convert = Callable[[Any], Any]


@dataclass(frozen=True, eq=False)
class TfdsRecords:
    """Records of `splits`, one split after the other. columns: feature -> (column, Arrow type, value -> Python value)."""

    splits: Sequence[str]
    sources: Sequence[Any]
    starts: Int64[np.ndarray, " splits+1"]
    columns: dict[str, tuple[str, Any, Convert]]

    @property
    def types(self) -> dict[str, Any]:
        """Arrow types of the metadata columns."""
        import pyarrow as pa

        return {"split": pa.string(), **{name: kind for name, kind, _ in self.columns.values()}}

    def read(self, rows: Int64[np.ndarray, " n"]) -> tuple[list[Fetched], dict[str, Any]]:
        """Encoded pictures, and metadata columns as pyarrow arrays."""
        import pyarrow as pa

        owner = np.searchsorted(self.starts, rows, side="right") - 1
        records: list[Any] = [None] * len(rows)
        for split in np.unique(owner):
            at = np.flatnonzero(owner == split)
            found = self.sources[split].__getitems__([int(row) for row in rows[at] - self.starts[split]])
            for place, record in zip(at, found, strict=True):
                records[place] = record
        columns = {"split": pa.array([self.splits[split] for split in owner], pa.string())}
        for feature, (name, kind, convert) in self.columns.items():
            columns[name] = pa.array([convert(record[feature]) for record in records], kind)
        return [Fetched(record["image"], None) for record in records], columns


def find_tfds(folder: Path) -> Path | None:
    """The version's folder of a TFDS data set (itself, or its only version); None where it is none. ValueError for several."""
    if (folder / "dataset_info.json").is_file():
        return folder
    found = sorted(file.parent for file in folder.glob("*/dataset_info.json"))
    if len(found) > 1:
        raise ValueError(f"{folder} has several versions; name one of {', '.join(map(str, found))}")
    return found[0] if found else None


def open_tfds(folder: Path, splits: Sequence[str] = ()) -> Source:
    """The pictures of a TFDS folder, all splits or only some. ids: '<split>/<row>'. Metadata: 'split', class labels by their
    names, texts, lists of both, numbers; other features are passed over, and named in the notes.

    Raises ValueError for a folder without 'image', of another format than array_record, and for splits that are not there.
    """
    import pyarrow as pa
    import tensorflow_datasets as tfds  # at call time: half a second that not every command needs

    builder = tfds.builder_from_directory(folder)
    info = builder.info
    if info.file_format is None or info.file_format.value != "array_record":
        raise ValueError(f"{folder} is not stored as array_record, which is what is read here")
    kinds = dict(info.features.items()) if isinstance(info.features, tfds.features.FeaturesDict) else {}
    if not isinstance(kinds.get("image"), tfds.features.Image):
        raise ValueError(f"{folder} has no feature 'image'; it has: {', '.join(kinds)}")
    there = sorted(info.splits, key=lambda split: (split != "train", split))
    for split in splits:
        if split not in there:
            raise ValueError(f"{folder} has no split {split!r}; it has {', '.join(there)}")
    wanted = [split for split in there if split in splits or not splits]
    columns: dict[str, tuple[str, Any, Convert]] = {}
    notes = []
    for feature in sorted(set(kinds) - {"image"}, key=_feature_key):  # TFDS gives them in any order
        kind = kinds[feature]
        converter = _converter(kind)
        if converter is None:
            notes.append(f"feature {feature!r} ({type(kind).__name__}) is passed over")
            continue
        name = free_name(feature, ("id", "split", *TAKEN))
        if name != feature:
            notes.append(f"feature {feature!r} is stored as {name!r}: the name has a meaning of its own")
        columns[feature] = (name, *converter)
    sources = [
        builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        for split in wanted
    ]
    lengths = [len(source) for source in sources]
    if not sum(lengths):
        raise ValueError(f"{folder} holds no pictures")
    ids = pa.chunked_array(
        [
            pa.array([f"{split}/{row}" for row in range(count)], pa.string())
            for split, count in zip(wanted, lengths, strict=True)
        ]
    )
    records = TfdsRecords(wanted, sources, np.cumsum([0, *lengths]), columns)
    return Source(
        "tfds",
        folder,
        pa.table({"id": ids}),
        stamp=_stamp(folder, wanted),
        notes=tuple(notes),
        records=records,
    )


def _feature_key(feature: str) -> tuple[int, str]:
    """What people look at first comes first."""
    return (FIRST.index(feature) if feature in FIRST else len(FIRST), feature)


def _converter(kind: Any) -> tuple[Any, Convert] | None:
    import pyarrow as pa
    import tensorflow_datasets as tfds

    features = tfds.features
    if isinstance(kind, features.Sequence) and not isinstance(kind.feature, features.FeaturesDict):
        inner = _converter(kind.feature)
        if inner is None or pa.types.is_list(inner[0]):
            return None
        one = inner[1]
        return pa.list_(inner[0]), lambda values: [one(value) for value in values]
    if isinstance(kind, features.ClassLabel):
        names = kind.names or [str(number) for number in range(kind.num_classes)]
        return pa.string(), lambda number: names[number] if number >= 0 else None
    if isinstance(kind, features.Text):
        return (
            pa.string(),
            lambda text: text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text),
        )
    if type(kind) in (features.Tensor, features.Scalar) and kind.shape == ():
        dtype = np.dtype(kind.np_dtype)
        if dtype.kind in "biuf":
            return pa.from_numpy_dtype(dtype), lambda number: dtype.type(number).item()
        if dtype.kind in "OSU":
            return (
                pa.string(),
                lambda text: text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text),
            )
    return None


def _stamp(folder: Path, splits: Sequence[str]) -> str:
    """Of the folder's files: their names, sizes and times of change."""
    files = sorted(
        (path.name, path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.iterdir()
        if path.is_file()
    )
    return hashlib.sha256(json.dumps([list(splits), files]).encode()).hexdigest()

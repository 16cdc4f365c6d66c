"""Image-text pairs as rows: pictures, texts, ready features and labels, each where the data has them.

`load_pairs` reads TFDS ArrayRecord folders (no TensorFlow) and files of ready features; see also
`kdhash.data.pair_features`.
"""

import hashlib
import json
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32

from kdhash.data.pair_features import ENDINGS, FeatureFile, read_feature_file
from kdhash.data.pictures import fit_square
from kdhash.data.sources import READ_ROWS, ArrayImages, ImageSource, TfdsImages, _ranges, find_version

TEXT_FEATURES = ("captions", "caption", "text")  # in the order of preference
LABEL_FEATURES = ("labels", "tags", "label")
MOST_LABELS = 1000  # of free text, such as tags that anybody may write
SPLIT_ORDER = ("train", "database", "all", "validation", "test", "query")


@dataclass(frozen=True, eq=False)
class PairDataset:
    """A data set of image-text pairs; rows are the concatenation of its splits.

    ids: unique names [rows].  texts: the captions, or the one text, of each row.  images: `images[rows]` -> uint8 RGB
    [n, h, w, 3].  image_features, text_features: ready features.  labels: multi-hot, a row may have none.
    Whatever the data does not have is None; there is always an image side and a text side.
    fingerprint: sha256 over name, splits, ids, texts, labels and their names, features and encoded pictures: it
    changes when anything of the data does. Raises ValueError where the parts do not fit together.
    """

    name: str
    ids: Sequence[str]
    texts: tuple[tuple[str, ...], ...] | None
    images: ImageSource | None
    image_features: Float32[np.ndarray, "rows image_width"] | None
    text_features: Float32[np.ndarray, "rows text_width"] | None
    labels: Bool[np.ndarray, "rows labels"] | None
    label_names: tuple[str, ...]
    splits: dict[str, range]
    fingerprint: str

    def __post_init__(self) -> None:
        for part in ("texts", "images", "image_features", "text_features", "labels"):
            value = getattr(self, part)
            if value is not None and len(value) != len(self.ids):
                raise ValueError(f"{self.name!r} has {len(self.ids)} ids and {len(value)} rows of {part}")
        if self.images is None and self.image_features is None:
            raise ValueError(f"{self.name!r} has neither images nor image_features")
        if self.texts is None and self.text_features is None:
            raise ValueError(f"{self.name!r} has neither texts nor text_features")
        if self.labels is not None and self.labels.shape[1:] != (len(self.label_names),):
            raise ValueError(
                f"{self.name!r} has labels {self.labels.shape} and {len(self.label_names)} label names"
            )
        if len(set(self.ids)) != len(self.ids):
            raise ValueError(f"{self.name!r} has ids twice: {_some(_repeated(self.ids))}")

    def __len__(self) -> int:
        return len(self.ids)


def load_pairs(name: str, data_dir: str | Path, *, image_size: int | None = None) -> PairDataset:
    """The image-text data set `name` in the folder `data_dir`:

    - a TFDS ArrayRecord folder (`python -m kdhash prepare pairs` writes one) with the features 'image', and 'captions',
      'caption' or 'text' (a text or a sequence of them); optional: 'id', and 'labels', 'tags' or 'label': a class label or
      a sequence of them, or else a sequence of texts, whose names, sorted, are the labels (with a warning only the 1,000
      most frequent, so that labels take at most 1,000 bytes a row); of another kind it is passed over. Pictures are
      decoded when asked for.
      Of several versions the newest is read; `name` may also end in '/<version>' or '/<config>';
    - a file of ready features: `name` with its ending (.npz, .mat, .h5, .hdf5, .h5py), or without where no
      folder has that name. Its keys
      are described in `kdhash.data.pair_features`;
    - a folder with such .mat files, one for images, one for texts, one for labels.

    `image_size` brings pictures to `image_size` x `image_size` (shorter side resized, centre cut). Blank texts beside
    others are left out. Raises FileNotFoundError where nothing of that name is there, ImportError where an HDF5 file is to
    be read without h5py, and ValueError, naming file and field, for data that cannot be read as pairs: fields
    missing or unknown, rows in unequal numbers, values that are not finite, ids twice, rows without text.
    """
    root = Path(data_dir)
    if not root.is_dir():
        raise FileNotFoundError(f"data_dir {root} does not exist; give the folder that {name!r} lies in")
    folder = root / name
    for path in [] if folder.is_dir() else [folder, *(root / f"{name}{ending}" for ending in ENDINGS)]:
        if path.is_file():
            if path.suffix not in ENDINGS:
                raise ValueError(f"{path} ends in {path.suffix!r}; files that are read: {', '.join(ENDINGS)}")
            return _from_features(path.stem, path, read_feature_file([path]), image_size)
    if folder.is_dir() and not any(folder.glob("**/dataset_info.json")):
        files = sorted(path for pattern in ("*.mat", "*/*.mat") for path in folder.glob(pattern))
        if files:
            return _from_features(folder.name, folder, read_feature_file(files), image_size)
    try:
        folder = find_version(name, root)
    except FileNotFoundError:
        there = {path.relative_to(root).parts[0] for path in root.glob("*/**/dataset_info.json")}
        there |= {path.name for path in root.iterdir() if path.suffix in ENDINGS}
        raise FileNotFoundError(
            f"no data set {name!r} in {root} (there: {', '.join(sorted(there)) or 'none'}); prepare one with "
            "`python -m kdhash prepare pairs MANIFEST --name NAME --data-dir DIR`"
        ) from None
    return _load_tfds(folder, image_size)


def _load_tfds(folder: Path, image_size: int | None) -> PairDataset:
    import tensorflow_datasets as tfds  # at call time: half a second that not every command needs

    info = tfds.builder_from_directory(folder)
    features = info.info.features
    text_name, label_name, class_names = _check_features(folder, info.info)
    split_names = sorted(info.info.splits, key=_split_key)
    sources = [
        info.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
        for split in split_names
    ]
    lengths = [len(source) for source in sources]
    if not sum(lengths):
        raise ValueError(f"{folder} holds no pairs")
    stored = features["image"].shape[:2]
    shape = (image_size, image_size) if image_size else stored
    if None in shape:
        raise ValueError(f"the pictures in {folder} have no common size; give image_size")
    images = TfdsImages(sources, (*shape, 3), None if shape == stored else image_size)

    digest = hashlib.sha256()
    header = [info.info.name, str(info.info.version), split_names, class_names or (), lengths, shape]
    digest.update(json.dumps(header).encode())
    ids: list[str] = []
    texts: list[tuple[str, ...]] = []
    names = {name: number for number, name in enumerate(class_names or ())}
    marks: list[list[int]] = []  # the numbers of each row's labels
    for split, source in zip(split_names, sources, strict=True):
        for start in range(0, len(source), READ_ROWS):
            for record in source.__getitems__(list(range(start, min(start + READ_ROWS, len(source))))):
                identity = _decode(record["id"]) if "id" in record else f"{split}/{len(ids)}"
                captions = _captions(record[text_name])
                if not captions:
                    raise ValueError(
                        f"{folder}: row {identity!r} of split {split!r} has no text in {text_name!r}; leave it out"
                    )
                given = [] if label_name is None else record[label_name]
                if class_names is None:
                    written: list[Any] = list(_captions(given))
                    numbers = sorted({names.setdefault(name, len(names)) for name in written})
                else:
                    written = numbers = np.atleast_1d(given).tolist()
                if any(not 0 <= number < len(names) for number in numbers):
                    raise ValueError(
                        f"{folder}: row {identity!r} has {label_name!r} {numbers}, of {len(names)} labels"
                    )
                marks.append(numbers)
                digest.update(json.dumps([identity, captions, written, len(record["image"])]).encode())
                digest.update(record["image"])
                ids.append(identity)
                texts.append(captions)
    label_names = tuple(names)
    if class_names is None:
        marks, label_names = _most_frequent(marks, names, f"{folder}: {label_name!r}")
    labels = np.zeros((len(ids), len(label_names)), bool)
    for row, numbers in enumerate(marks):
        labels[row, numbers] = True
    splits = _ranges(split_names, lengths)
    return PairDataset(
        name=info.info.name,
        ids=_unique_ids(ids, splits, folder),
        texts=tuple(texts),
        images=images,
        image_features=None,
        text_features=None,
        labels=labels if label_names else None,
        label_names=label_names,
        splits=splits,
        fingerprint=digest.hexdigest(),
    )


def _check_features(folder: Path, info: Any) -> tuple[str, str | None, tuple[str, ...] | None]:
    """The names of the text and the label feature (or None), and the label names, None where rows hold them as texts."""
    from tensorflow_datasets.core import features as kinds

    if info.file_format is None or info.file_format.value != "array_record":
        stored = info.file_format.value if info.file_format else "an unknown format"
        raise ValueError(
            f"{folder} is stored as {stored}; kdhash reads array_record: "
            "prepare it again with `tfds build --file_format=array_record`"
        )
    features = dict(info.features.items()) if isinstance(info.features, kinds.FeaturesDict) else {}
    there = ", ".join(f"{key} ({type(value).__name__})" for key, value in features.items()) or "none"

    def inner(name: str) -> Any:
        feature = features.get(name)
        return feature.feature if isinstance(feature, kinds.Sequence) else feature

    text_name = next((name for name in TEXT_FEATURES if isinstance(inner(name), kinds.Text)), None)
    if not isinstance(features.get("image"), kinds.Image) or text_name is None:
        raise ValueError(
            f"{folder} has no pairs: wanted are 'image' (Image) and one of {', '.join(map(repr, TEXT_FEATURES))} "
            f"(Text, or a Sequence of it); it has: {there}"
        )
    label_name = next((name for name in LABEL_FEATURES if isinstance(inner(name), kinds.ClassLabel)), None)
    if label_name is not None:
        feature = inner(label_name)
        return text_name, label_name, tuple(feature.names or map(str, range(feature.num_classes)))
    for name in LABEL_FEATURES:
        if isinstance(features.get(name), kinds.Sequence) and isinstance(inner(name), kinds.Text):
            return text_name, name, None
    return text_name, None, ()


def _most_frequent(
    marks: list[list[int]], names: dict[str, int], place: str
) -> tuple[list[list[int]], tuple[str, ...]]:
    """The labels of each row, numbered anew, and their names: sorted, and no more than `MOST_LABELS`."""
    counts = Counter(number for row in marks for number in row)
    kept = sorted(names, key=lambda name: (-counts[names[name]], name))[:MOST_LABELS]
    if len(kept) < len(names):
        warnings.warn(
            f"{place} has {len(names):,} different texts; labels are the {MOST_LABELS:,} most frequent",
            stacklevel=2,
        )
    kept.sort()
    places = {names[name]: place for place, name in enumerate(kept)}
    return [[places[number] for number in row if number in places] for row in marks], tuple(kept)


def _captions(value: Any) -> tuple[str, ...]:
    single = isinstance(value, bytes | str)
    texts = [_decode(text).strip() for text in ([value] if single else value)]
    return tuple(text for text in texts if text)


def _decode(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def _unique_ids(ids: list[str], splits: dict[str, range], folder: Path) -> list[str]:
    """The ids, with '<split>/' before them where only splits share some."""
    for split, rows in splits.items():
        own = [ids[row] for row in rows]
        if len(set(own)) != len(own):
            raise ValueError(
                f"{folder}: split {split!r} has values of 'id' twice: {_some(_repeated(own))}; make them unique"
            )
    if len(set(ids)) == len(ids):
        return ids
    return [f"{split}/{ids[row]}" for split, rows in splits.items() for row in rows]


def _from_features(name: str, path: Path, parts: FeatureFile, image_size: int | None) -> PairDataset:
    """The data set of what a file of ready features holds: its splits one after the other."""
    split_names = sorted(parts.splits, key=_split_key)
    chosen = [parts.splits[split] for split in split_names]
    lengths = [part.rows for part in chosen]
    splits = _ranges(split_names, lengths)

    def joined(field: str) -> Any:
        arrays = [getattr(part, field) for part in chosen]
        return None if arrays[0] is None else arrays[0] if len(arrays) == 1 else np.concatenate(arrays)

    pictures = joined("pictures")
    if pictures is not None and image_size and pictures.shape[1:3] != (image_size, image_size):
        from PIL import Image

        pictures = np.stack([np.asarray(fit_square(Image.fromarray(one), image_size)) for one in pictures])
    given = joined("ids")
    ids = (
        [f"{split}/{row}" for split in split_names for row in range(len(splits[split]))]
        if given is None
        else _unique_ids([str(one) for one in given], splits, path)
    )
    values = {field: joined(field) for field in ("image_features", "text_features", "labels")}
    digest = hashlib.sha256()
    header = [name, split_names, lengths, parts.label_names, ids]
    digest.update(json.dumps(header).encode())
    for field, array in {"pictures": pictures, **values}.items():
        if array is not None:
            digest.update(f"{field} {array.dtype.str} {array.shape}".encode())
            for start in range(0, len(array), READ_ROWS):
                digest.update(np.ascontiguousarray(array[start : start + READ_ROWS]).tobytes())
    return PairDataset(
        name=name,
        ids=ids,
        texts=None,
        images=None if pictures is None else ArrayImages(pictures),
        **values,
        label_names=parts.label_names,
        splits=splits,
        fingerprint=digest.hexdigest(),
    )


def _split_key(split: str) -> tuple[int, str]:
    return (SPLIT_ORDER.index(split) if split in SPLIT_ORDER else len(SPLIT_ORDER), split)


def _repeated(names: Sequence[str]) -> list[str]:
    seen: set[str] = set()
    return [name for name in names if name in seen or seen.add(name)]  # type: ignore[func-returns-value]


def _some(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")

"""Pictures without labels, never all in memory: a TFDS folder or a folder of picture files, opened by its path alone."""

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from kdhash.data.pictures import decode_picture
from kdhash.data.sources import DECODE_THREADS, READ_ROWS, ImageSource, TfdsImages

SUFFIXES = frozenset(
    (
        ".png",
        ".jpg",
        ".jpeg",
        ".webp",
        ".gif",
        ".bmp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".mpo",
        ".jp2",
        ".avif",
    )
)
Fit = Callable[[UInt8[np.ndarray, "h w 3"]], UInt8[np.ndarray, "h2 w2 3"]]


class LoosePictures:
    """Encoded pictures of any sizes, decoded when asked for by a pool of threads.

    `encoded(rows)` gives their bytes, or the paths of their files.
    """

    def __init__(self, count: int, encoded: Callable[[Sequence[int]], Sequence[bytes | Path]], on_error: str):
        self.count, self.encoded, self.on_error = count, encoded, on_error
        self._pool = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="decode")

    def __len__(self) -> int:
        return self.count

    def fitted(
        self, rows: Int[np.ndarray, " n"], fit: Fit, size: int
    ) -> tuple[UInt8[np.ndarray, "n size size 3"], list[str]]:
        """`fit` of each picture, and for each row why it could not be read ('': it could; zeros stand for it otherwise).

        Raises ValueError naming the file instead where `on_error` is 'fail'.
        """
        pictures = np.zeros((len(rows), size, size, 3), np.uint8)
        sources = self.encoded([int(row) for row in rows])

        def read(place: int) -> str:
            try:
                pictures[place] = fit(decode_picture(sources[place]))
            except Exception as error:  # decoders raise anything on damaged input
                reason = " ".join(str(error).split()) or type(error).__name__
                if self.on_error == "fail":
                    source = sources[place]
                    what = f"row {rows[place]}" if isinstance(source, bytes) else str(source)
                    raise ValueError(f"{what}: {reason}; remove it, or pass --on-error skip") from None
                return reason
            return ""

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            warnings.simplefilter("ignore", UserWarning)
            return pictures, list(self._pool.map(read, range(len(rows))))


@dataclass(frozen=True, eq=False)
class PictureStream:
    """Rows of pictures. fingerprint: changes with any picture, name or order.  name: of a row, such as 'cats/7.png'."""

    images: ImageSource | LoosePictures
    fingerprint: str
    name: Callable[[int], str]

    def __len__(self) -> int:
        return len(self.images)


def open_pictures(path: str | Path, *, splits: Sequence[str] = (), on_error: str = "skip") -> PictureStream:
    """Opens a TFDS ArrayRecord folder (`.../name/1.0.0`, or `.../name` for its only version) or a folder of picture files.

    A TFDS folder needs the feature 'image'; rows are those of its `splits`, all of them by default, 'train' first. Rows of
    picture files are in the order of their names, folders within folders, names that begin with a dot and files without a
    picture's suffix passed over. Each file is read once here, for the fingerprint; that of a whole TFDS folder which
    `load_dataset` can read is `load_dataset`'s, so that features of one serve the other. `on_error` 'skip' or 'fail': see
    `LoosePictures`; a damaged picture of a TFDS folder whose pictures have one size is always an error. In memory stay
    the names of files, nothing else that grows. Raises FileNotFoundError and ValueError.
    """
    root = Path(path)
    if on_error not in ("skip", "fail"):
        raise ValueError(f"on_error is {on_error!r}; give 'skip' or 'fail'")
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}; give a TFDS folder or a folder of pictures")
    versions = [root] if (root / "dataset_info.json").is_file() else []
    versions = versions or sorted(file.parent for file in root.glob("*/dataset_info.json"))
    if len(versions) > 1:
        raise ValueError(f"{root} has several versions; name one of {', '.join(map(str, versions))}")
    if versions:
        return _open_tfds(versions[0], splits, on_error)
    if splits:
        raise ValueError(
            f"{root} is a folder of picture files, which has no splits; give the folder of the part"
        )
    return _open_files(root, on_error)


def _open_files(root: Path, on_error: str) -> PictureStream:
    # one long text and the place of each name in it: a tenth of what a list of paths takes
    text, ends = bytearray(), [0]
    digest = hashlib.sha256(b"files")
    for path in picture_names(root):
        encoded = os.fsencode(path)
        with open(root / path, "rb") as file:
            content = hashlib.file_digest(file, "sha256").digest()
        digest.update(encoded + b"\0" + content)
        text += encoded
        ends.append(len(text))
    if len(ends) == 1:
        raise ValueError(
            f"{root} holds no picture files ({', '.join(sorted(SUFFIXES))}) and no TFDS data set"
        )
    places = np.asarray(ends)

    def name(row: int) -> str:
        return os.fsdecode(bytes(text[places[row] : places[row + 1]]))

    images = LoosePictures(len(ends) - 1, lambda rows: [root / name(row) for row in rows], on_error)
    return PictureStream(
        images, digest.hexdigest(), lambda row: name(row).encode("utf-8", "backslashreplace").decode()
    )


def picture_names(folder: Path, prefix: str = "") -> Iterator[str]:
    """Names of the picture files below `folder`, in order, `prefix` before each; see `open_pictures`."""
    with os.scandir(folder) as found:
        entries = sorted(
            (entry for entry in found if not entry.name.startswith(".")), key=lambda entry: entry.name
        )
    for entry in entries:
        if entry.is_dir(follow_symlinks=False):  # a link may lead round in circles
            yield from picture_names(folder / entry.name, f"{prefix}{entry.name}/")
        elif entry.is_file() and os.path.splitext(entry.name)[1].lower() in SUFFIXES:
            yield prefix + entry.name


def _open_tfds(folder: Path, splits: Sequence[str], on_error: str) -> PictureStream:
    import tensorflow_datasets as tfds  # at call time: see load_dataset

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
    decoders = {"image": tfds.decode.SkipDecoding()}
    sources = [builder.as_data_source(split=split, decoders=decoders) for split in wanted]
    starts = np.cumsum([0, *map(len, sources)])
    count = int(starts[-1])
    if not count:
        raise ValueError(f"{folder} holds no pictures")
    shape = kinds["image"].shape[:2]
    images: ImageSource | LoosePictures
    if None in shape:
        images = LoosePictures(count, lambda rows: _records(sources, starts, rows), on_error)
    else:
        images = TfdsImages(sources, (*shape, 3), None)
    label: Any = kinds.get("label")
    names = label.names or map(str, range(label.num_classes)) if hasattr(label, "num_classes") else ()
    header = [info.name, str(info.version), wanted, tuple(names), list(map(len, sources)), shape]

    def name(row: int) -> str:
        place = int(np.searchsorted(starts, row, side="right")) - 1
        return f"{wanted[place]}/{row - starts[place]}"

    return PictureStream(images, _fingerprint(header, wanted, sources), name)


def _records(sources: Sequence[Any], starts: np.ndarray, rows: Sequence[int]) -> list[bytes]:
    places = np.searchsorted(starts, rows, side="right") - 1
    return [
        sources[place][row - int(starts[place])]["image"] for row, place in zip(rows, places, strict=True)
    ]


def _fingerprint(header: list[Any], splits: Sequence[str], sources: Sequence[Any]) -> str:
    """As `load_dataset` makes it."""
    digest = hashlib.sha256(json.dumps(header).encode())
    row = 0
    for split, source in zip(splits, sources, strict=True):
        for start in range(0, len(source), READ_ROWS):
            for record in source.__getitems__(list(range(start, min(start + READ_ROWS, len(source))))):
                identity = record.get("id", f"{split}/{row}")
                identity = identity.decode() if isinstance(identity, bytes) else str(identity)
                digest.update(f"{identity}\0{record.get('label')}\0{len(record['image'])}\0".encode())
                digest.update(record["image"])
                row += 1
    return digest.hexdigest()

"""A folder of class folders of pictures as a TFDS folder: one size, upright 8-bit RGB, stored losslessly."""

import os
import re
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from PIL import Image, UnidentifiedImageError

from kdhash.data.pictures import FORMATS, decode_picture
from kdhash.data.stratify import hash_order
from kdhash.data.write_tfds import Example, encode_png, write_dataset

VERSION = "1.0.0"
SPLIT_FOLDERS = {"train": "train", "test": "test", "val": "validation", "validation": "validation"}


@dataclass(frozen=True)
class FolderReport:
    """What `prepare_folder` did. counts: pictures per split.  skipped: (file, reason), files relative to the
    source."""

    folder: Path
    class_names: tuple[str, ...]
    counts: dict[str, int]
    skipped: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _File:
    path: Path
    identity: str
    label: int
    split: str | None  # None: still to be drawn


def prepare_folder(
    directory: str | Path,
    name: str,
    data_dir: str | Path,
    *,
    size: int = 32,
    test_share: float = 0.1,
    seed: int = 0,
    on_error: Literal["skip", "fail"] = "skip",
) -> FolderReport:
    """Builds `data_dir`/`name`/1.0.0 from `directory`/<class>/... or
    `directory`/{train,test[,val]}/<class>/...

    Pictures become `size` x `size` (shorter side resized, centre cut), upright, RGB, transparency over white,
    16 bits
    scaled to 8: see `kdhash.data.pictures`. Classes are the folder names in sorted order; pictures may lie
    deeper in a class folder; names that begin with a dot are passed over. ids are paths relative to
    `directory`. Without train and test folders, a share `test_share` of every class (at least one picture,
    chosen by a hash of seed and id) becomes the split 'test'. A file that is no picture, is damaged, or
    claims more than 64 million pixels is skipped and listed in the report, or with `on_error='fail'` is an
    error. Nothing is left behind on failure. Raises FileNotFoundError, FileExistsError, and ValueError naming
    the file or folder.
    """
    source = Path(directory)
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name == "digits":
        raise ValueError(
            f"name {name!r}: give lower-case letters, digits and _, and not 'digits', which is built in"
        )
    if size < 1:
        raise ValueError(f"size is {size}; at least 1 pixel is needed")
    if not 0 < test_share < 1:
        raise ValueError(f"test_share is {test_share}; give a share between 0 and 1")
    if on_error not in ("skip", "fail"):
        raise ValueError(f"on_error is {on_error!r}; give 'skip' or 'fail'")
    if not source.is_dir():
        raise FileNotFoundError(f"no folder {source}; give a folder of class folders of pictures")
    class_names, files = _list_files(source)

    with tempfile.TemporaryFile() as spool:
        kept, places, skipped = _spool_pictures(files, size, on_error, spool)
        for label, class_name in enumerate(class_names):
            if not any(file.label == label for file in kept):
                raise ValueError(f"class {class_name!r} in {source} has no readable picture")
        splits = _assign_splits(kept, class_names, test_share, seed)

        def examples(members: Sequence[int]) -> Iterator[Example]:
            for member in members:
                start, length = places[member]
                spool.seek(start)
                file = kept[member]
                yield file.identity, {"id": file.identity, "image": spool.read(length), "label": file.label}

        folder = write_dataset(
            data_dir,
            name,
            VERSION,
            image_shape=(size, size, 3),
            label_names={"label": class_names},
            splits={split: examples(members) for split, members in splits.items()},
            about={"description": f"A folder of pictures, {size} x {size}, prepared by kdhash."},
        )
    counts = {split: len(members) for split, members in splits.items()}
    return FolderReport(folder, tuple(class_names), counts, tuple(skipped))


def _list_files(source: Path) -> tuple[list[str], list[_File]]:
    """Class names, and every file in reading order."""
    folders = _visible_folders(source)
    if not folders:
        raise ValueError(
            f"{source} has no class folders; put the pictures of each class in a folder of its name"
        )
    names = {folder.name for folder in folders}
    is_split = "train" in names and names <= SPLIT_FOLDERS.keys() and bool(_visible_folders(source / "train"))
    if not is_split:
        classes = [folder.name for folder in folders]
        return classes, [
            _File(path, _identity(path, source), label, None)
            for label, folder in enumerate(folders)
            for path in _files_below(folder)
        ]
    if "test" not in names:
        raise ValueError(
            f"{source} has a folder train but none named test; add it, or prepare {source / 'train'}"
        )
    if {"val", "validation"} <= names:
        raise ValueError(f"{source} has both val and validation; keep one")
    classes = [folder.name for folder in _visible_folders(source / "train")]
    files = []
    for split_folder in folders:
        for folder in _visible_folders(split_folder):
            if folder.name not in classes:
                raise ValueError(f"class folder {folder} has no counterpart in {source / 'train'}")
            label, split = classes.index(folder.name), SPLIT_FOLDERS[split_folder.name]
            files += [_File(path, _identity(path, source), label, split) for path in _files_below(folder)]
    return classes, files


def _visible_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _files_below(folder: Path) -> list[Path]:
    found = []
    for base, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(base) / name for name in files if not name.startswith(".")]
    found = sorted(path for path in found if path.is_file())
    if not found:
        raise ValueError(f"class folder {folder} is empty; remove it or put pictures in")
    return found


def _identity(path: Path, source: Path) -> str:
    # file names need not be valid text
    return path.relative_to(source).as_posix().encode("utf-8", "backslashreplace").decode()


def _spool_pictures(
    files: Sequence[_File], size: int, on_error: str, spool: IO[bytes]
) -> tuple[list[_File], list[tuple[int, int]], list[tuple[str, str]]]:
    """Writes the readable files as PNG to `spool`: those files, their (start, length), and (id, reason) of
    the rest."""
    kept: list[_File] = []
    places: list[tuple[int, int]] = []
    skipped: list[tuple[str, str]] = []
    with ThreadPoolExecutor() as pool, warnings.catch_warnings():
        # such pictures are refused by name, and doubtful metadata is passed over
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)
        # in portions: the results of a large folder do not pile up in memory
        for start in range(0, len(files), 512):
            portion = files[start : start + 512]
            for file, (png, reason) in zip(
                portion, pool.map(lambda f: _to_png(f.path, size), portion), strict=True
            ):
                if png:
                    kept.append(file)
                    places.append((spool.tell(), len(png)))
                    spool.write(png)
                elif on_error == "fail":
                    raise ValueError(f"{file.path}: {reason}; remove it, or pass --on-error skip")
                else:
                    skipped.append((file.identity, reason))
    return kept, places, skipped


def _to_png(path: Path, size: int) -> tuple[bytes, str]:
    """PNG bytes and '', or b'' and the reason why there are none."""
    try:
        return encode_png(decode_picture(path, size)), ""
    except UnidentifiedImageError:
        return b"", f"not a picture in a known format ({', '.join(FORMATS)})"
    except Exception as error:  # decoders raise anything on damaged input
        return b"", f"{str(error).strip() or type(error).__name__}"


def _assign_splits(
    files: Sequence[_File], class_names: Sequence[str], test_share: float, seed: int
) -> dict[str, list[int]]:
    """Positions in `files` of every split, in reading order."""
    splits = [file.split for file in files]
    if None in splits:
        order = [int(place) for place in hash_order([file.identity for file in files], f"{seed}/test")]
        for label, class_name in enumerate(class_names):
            members = [place for place in order if files[place].label == label]
            if len(members) < 2:
                raise ValueError(
                    f"class {class_name!r} has 1 readable picture; 2 are needed for train and test"
                )
            count = min(max(1, round(test_share * len(members))), len(members) - 1)
            for position, place in enumerate(members):
                splits[place] = "test" if position < count else "train"
    assigned = {
        split: [place for place, own in enumerate(splits) if own == split]
        for split in ("train", "validation", "test")
    }
    for split in set(splits) | {"train", "test"}:
        if not assigned[split or ""]:
            raise ValueError(f"no readable picture is left for the split {split!r}")
    return {split: members for split, members in assigned.items() if members}

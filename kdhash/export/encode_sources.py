"""What can be encoded: a folder of pictures, one picture, a manifest, a TFDS ArrayRecord folder. Listed first, read later."""

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64

from kdhash.data.stream import SUFFIXES, picture_names
from kdhash.export.manifests import MANIFESTS, read_manifest_table

ATTEMPTS = 3  # to read a file that changes while it is read
GONE = -1  # size of a file that is not there
FACTS = (
    "width",
    "height",
    "bytes",
    "mtime_ns",
    "sha256",
)  # columns that are measured, after those that are given
# names of columns that have a meaning already: a source's own get 'source_' before them
TAKEN = ("number", "distance", *FACTS)


@dataclass(frozen=True)
class Fetched:
    """An encoded picture. mtime_ns: None where it is no file."""

    data: bytes
    mtime_ns: int | None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()


@dataclass(frozen=True, eq=False)
class Source:
    """Pictures (or texts) to be encoded, row by row. kind: 'folder', 'manifest', 'tfds' or 'texts'.  path: absolute.

    listing: a pyarrow.Table: id, then what is known of each row before it is read, among it bytes and mtime_ns of files
    (-1 where there is no file), or the text.  given: columns of the listing that become metadata.  texts: rows are texts.
    stamp: of a TFDS folder of pictures, changes when any of its files does.  notes: what the user should know.
    """

    kind: str
    path: Path
    listing: Any
    given: tuple[str, ...] = ()
    texts: bool = False
    stamp: str = ""
    notes: tuple[str, ...] = ()
    paths: Any = None  # pyarrow binary array: where files lie, below `root`
    root: Path = field(default_factory=Path)
    records: Any = None  # TfdsRecords

    def __len__(self) -> int:
        return self.listing.num_rows

    @property
    def unit(self) -> str:
        """What rows are: 'pictures' or 'texts'."""
        return "texts" if self.texts else "pictures"

    @property
    def compared(self) -> list[str]:
        """Columns of the listing that tell whether a row is the one that it was."""
        if self.texts:
            return ["text"]
        facts = [name for name in ("bytes", "mtime_ns") if name in self.listing.column_names]
        return facts + ["image"] * ("image" in self.given)  # the file, where ids are not its name

    @property
    def stored(self) -> dict[str, Any]:
        """Columns that are known only when a picture is read, and their Arrow types: those of records, then `FACTS`."""
        import pyarrow as pa

        kinds = (pa.int32(), pa.int32(), pa.int64(), pa.int64(), pa.string())
        facts = {} if self.texts else dict(zip(FACTS, kinds, strict=True))
        if self.records is None:
            return facts
        del facts["mtime_ns"]
        return {**self.records.types, **facts}

    def read(self, rows: Int64[np.ndarray, " n"]) -> tuple[list["Path | Fetched"], Any]:
        """Where the pictures of these rows lie (of a TFDS set: their bytes), and a pyarrow.Table of ids and records' columns."""
        import pyarrow as pa

        table = self.listing.select(["id"]).take(pa.array(rows))
        if self.records is None:
            names = self.paths.take(pa.array(rows)).to_pylist()
            return [self.root / os.fsdecode(name) for name in names], table
        pictures, columns = self.records.read(rows)
        return pictures, pa.table({"id": table["id"], **columns})

    def changed_since(self, rows: Int64[np.ndarray, " n"], mtimes: Sequence[int | None]) -> int:
        """How many of these files have another time of change by now than when they were read."""
        import pyarrow as pa

        if self.paths is None:
            return 0
        names = self.paths.take(pa.array(rows)).to_pylist()
        return sum(
            file_facts(self.root / os.fsdecode(name))[1] != mtime
            for name, mtime in zip(names, mtimes, strict=True)
        )


def open_source(path: str | Path, *, splits: Sequence[str] = ()) -> Source:
    """Lists the pictures of a folder (recursively), a picture file, a manifest or a TFDS ArrayRecord folder.

    splits: only these of a TFDS folder. Ids are paths relative to the folder, with '/'; what a manifest has in 'id', or else
    in 'image'; '<split>/<row>'. No picture is opened. Raises FileNotFoundError, and ValueError for a folder without
    pictures, a manifest that cannot be read or has an id twice, and splits that are not there.
    """
    given = Path(path)
    absolute = Path(os.path.abspath(given))
    if given.is_dir():
        from kdhash.export.tfds_records import find_tfds, open_tfds

        version = find_tfds(absolute)
        if version is not None:
            return open_tfds(version, splits)
        _no_splits(splits, given)
        return _folder(absolute)
    if not given.is_file():
        raise FileNotFoundError(
            f"no folder or file {given}; give a folder of pictures, a picture, a manifest "
            f"({', '.join(MANIFESTS)}) or a TFDS folder"
        )
    _no_splits(splits, given)
    if given.suffix.lower() in MANIFESTS:
        return _manifest(absolute)
    if given.suffix.lower() in SUFFIXES:
        return _files("folder", absolute, absolute.parent, iter([absolute.name]))
    raise ValueError(
        f"{given} ends in {given.suffix!r}; pictures end in {', '.join(sorted(SUFFIXES))}, manifests in "
        f"{', '.join(MANIFESTS)}"
    )


def fetch(place: Path | Fetched) -> Fetched:
    """Reads a picture's file whole, as it was at one moment. Raises OSError, and ValueError for one that keeps changing."""
    if isinstance(place, Fetched):
        return place
    for _ in range(ATTEMPTS):
        with open(place, "rb") as file:
            before = os.fstat(file.fileno())
            # A file written twice within a tick of the file system's clock keeps its time: wait until the tick is over.
            tick = 2.0 if before.st_mtime_ns % 10**9 == 0 else 0.02
            young = time.time() - before.st_mtime
            if 0 <= young < tick:
                time.sleep(tick - young)
            data = file.read()
            after = os.fstat(file.fileno())
        if (after.st_mtime_ns, after.st_size) == (before.st_mtime_ns, len(data)):
            return Fetched(data, after.st_mtime_ns)
    raise ValueError("it changes while it is read")


def free_name(name: str, taken: Sequence[str] = TAKEN) -> str:
    """A name for a source's own column, 'source_<name>' where that name has a meaning already."""
    return f"source_{name}" if name in taken or name.startswith("kdhash.") else name


def _folder(root: Path) -> Source:
    source = _files("folder", root, root, picture_names(root))
    if not len(source):
        raise ValueError(
            f"{root} holds no picture files ({', '.join(sorted(SUFFIXES))}) and no TFDS data set"
        )
    return source


def _files(kind: str, path: Path, root: Path, names: Iterator[str]) -> Source:
    import pyarrow as pa

    ids: list[str] = []
    raw: list[bytes] = []
    facts: list[tuple[int, int]] = []
    parts, paths, below = [], [], os.fspath(root)

    def flush() -> None:
        sizes, times = zip(*facts, strict=True) if facts else ((), ())
        columns = {"id": pa.array(ids, pa.string()), "bytes": pa.array(sizes, pa.int64())}
        parts.append(pa.table(columns | {"mtime_ns": pa.array(times, pa.int64())}))
        paths.append(pa.array(raw, pa.binary()))
        for part in (ids, raw, facts):
            part.clear()

    for name in names:
        encoded = os.fsencode(name)
        ids.append(encoded.decode("utf-8", "backslashreplace"))  # a name may be no UTF-8
        raw.append(encoded)
        facts.append(file_facts(os.path.join(below, name)))
        if len(ids) == 2**16:
            flush()
    flush()
    return Source(kind, path, pa.concat_tables(parts), paths=pa.chunked_array(paths), root=root)


def _manifest(path: Path) -> Source:
    import pyarrow as pa
    import pyarrow.compute as pc

    table = read_manifest_table(path)
    if "image" not in table.column_names:
        raise ValueError(
            f"{path} has no column 'image' (a picture's path, relative to the manifest); it has: "
            f"{', '.join(table.column_names)}. To encode its texts, pass --texts"
        )
    images = table["image"]
    if not pa.types.is_string(images.type):
        raise ValueError(f"{path}: column 'image' holds {images.type}; give the path of a picture")
    empty = pc.or_kleene(pc.is_null(images), pc.equal(pc.utf8_trim_whitespace(images), ""))
    if (without := pc.sum(empty).as_py() or 0) == table.num_rows:
        raise ValueError(f"{path}: no row has an 'image'")
    notes = [f"{without:,} rows have no 'image' and are passed over"] if without else []
    table = table.filter(pc.invert(empty)) if without else table
    named = "id" in table.column_names
    table, renamed = with_ids(table, path, "image")
    notes += renamed
    names = table["image"].to_pylist()
    sizes = [file_facts(os.path.join(path.parent, name)) for name in names]
    given = tuple(name for name in table.column_names if name != "id" and (named or name != "image"))
    columns = {
        "bytes": pa.array([size for size, _ in sizes], pa.int64()),
        "mtime_ns": pa.array([time for _, time in sizes], pa.int64()),
    }
    for name, column in columns.items():
        table = table.append_column(name, column)
    paths = pa.chunked_array([pa.array([os.fsencode(name) for name in names], pa.binary())])
    return Source("manifest", path, table, given, notes=tuple(notes), paths=paths, root=path.parent)


def with_ids(table: Any, path: Path, otherwise: str) -> tuple[Any, list[str]]:
    """The table with a column 'id' of unique strings first, made of the column `otherwise` where there is none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    notes = []
    for name in table.column_names:
        if (free := free_name(name)) != name:
            notes.append(f"column {name!r} is stored as {free!r}: the name has a meaning of its own")
            table = table.rename_columns([free if one == name else one for one in table.column_names])
    ids = table["id"] if "id" in table.column_names else table[otherwise]
    if not (pa.types.is_string(ids.type) or pa.types.is_integer(ids.type)):
        raise ValueError(f"{path}: column 'id' holds {ids.type}; give texts or whole numbers")
    ids = ids.cast(pa.string())
    if ids.null_count:
        row = pc.index(pc.is_null(ids), True).as_py()
        raise ValueError(f"{path}: row {row + 1} has no 'id', which other rows have")
    counts = pc.value_counts(ids)
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        first = twice[0].as_py()
        raise ValueError(
            f"{path}: id {first['values']!r} is that of {first['counts']} rows; give each row its own 'id' (without one it "
            f"is {otherwise!r})"
        )
    rest = [name for name in table.column_names if name != "id"]
    return table.select(rest).add_column(0, "id", ids), notes


def file_facts(path: str | Path) -> tuple[int, int]:
    """(bytes, mtime_ns), or -1 twice for what cannot be looked at."""
    try:
        found = os.stat(path)
    except OSError:
        return GONE, GONE
    return found.st_size, found.st_mtime_ns


def _no_splits(splits: Sequence[str], path: Path) -> None:
    if splits:
        raise ValueError(f"--split is for TFDS folders; {path} has no splits")

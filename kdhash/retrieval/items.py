"""A folder of codes: packed codes, ids and metadata, thumbnails. `encode` writes it, an index has a copy of it a segment."""

import hashlib
import os
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt64

from kdhash.retrieval.codes import check_packed
from kdhash.retrieval.columns import first_difference, plain_table, type_name
from kdhash.retrieval.mapped import DamagedFile, MappedFolder, file_facts, read_manifest, sync, write_manifest
from kdhash.retrieval.npy_stream import NpyStream

FORMAT = "kdhash-codes"
FIELDS = {
    "count": int,
    "bits": int,
    "bit_order": str,
    "model": str,
    "searched_by": list,
    "preprocessing": str,
    "source": dict,
    "columns": dict,
    "files": dict,
}
BIT_ORDER = "msb-first"
BATCH = 2**16  # rows of a record batch: small ones make opening slow, large ones a look at a single row


class DuplicateIds(ValueError):
    """Ids that are there twice; `ids` holds them all, the message the first few."""

    def __init__(self, message: str, ids: Sequence[str]):
        super().__init__(f"{message}: {', '.join(map(repr, ids[:5]))}" + (", ..." if len(ids) > 5 else ""))
        self.ids = list(ids)


class Items:
    """`count` items of a folder, in the order in which they were written. Read-only, mapped, safe for many threads.

    Contents are compared with their sha256 when a file is first used: DamagedFile names one that has changed.
    """

    deleted: Bool[np.ndarray, " n"] | None = None
    """which rows are deleted; None where none is"""

    def __init__(
        self,
        path: Path,
        manifest: Mapping[str, Any],
        files: Mapping[str, Any],
        count: int,
        check: bool = True,
        known: MappedFolder | None = None,
    ):
        self.path, self.manifest, self.count, self.bits = path, manifest, count, int(manifest["bits"])
        self.files = MappedFolder(path, files, check, known)
        self._table: Any = None

    def __len__(self) -> int:
        return self.count

    @property
    def codes(self) -> UInt8[np.ndarray, "n bytes"]:
        """Packed codes, as in the file."""
        return self._array("codes.npy", np.uint8, (self.count, self.bits // 8))

    @property
    def keys(self) -> UInt64[np.ndarray, " n"]:
        """`id_keys` of the ids."""
        return self._array("keys.npy", np.uint64, (self.count,))

    @property
    def table(self) -> Any:
        """ids and metadata, a pyarrow.Table that reads from the file; column 'id' first."""
        if self._table is None:
            table = self.files.table("items.arrow")
            if table.num_rows != self.count or table.column_names[:1] != ["id"]:
                raise DamagedFile(
                    f"{self.path / 'items.arrow'}: expected {self.count:,} rows that begin with an id"
                )
            self._table = table
        return self._table

    def take(self, rows: Int64[np.ndarray, " m"], columns: Sequence[str]) -> Any:
        """These rows and columns as a pyarrow.Table, in the order given; reads no other rows."""
        import pyarrow as pa

        table = self.table.select(list(columns))
        batches = table.to_batches()
        order = np.argsort(rows, kind="stable")
        ordered = rows[order]
        firsts = np.cumsum([0] + [batch.num_rows for batch in batches])
        ends = np.searchsorted(ordered, firsts)
        taken = [
            batch.take(pa.array(ordered[end:next_end] - first))
            for batch, first, end, next_end in zip(batches, firsts, ends, ends[1:], strict=False)
            if next_end > end
        ]
        found = pa.Table.from_batches(taken, table.schema).combine_chunks()
        if (order[1:] > order[:-1]).all():
            return found
        back = np.empty(len(rows), np.int64)
        back[order] = np.arange(len(rows))
        return found.take(pa.array(back))

    def ids_at(self, rows: Int64[np.ndarray, " m"]) -> list[str]:
        """The ids of these rows."""
        return self.take(np.asarray(rows, np.int64), ["id"])["id"].to_pylist()

    def thumbnail(self, row: int) -> bytes | None:
        """JPEG bytes of a row's thumbnail; None where there is none. Raises DamagedFile where they have changed."""
        if "thumbs.bin" not in self.files:
            return None
        first, last = self._array("thumbs.npy", np.int64, (self.count + 1,))[row : row + 2]
        # all of the file may be gigabytes: each picture has a checksum of its own
        picture = bytes(self.files.memory("thumbs.bin", check=False)[first:last])
        if zlib.crc32(picture) != self._array("thumbs_crc32.npy", np.uint32, (self.count,))[row]:
            raise DamagedFile(f"{self.path / 'thumbs.bin'} has changed since it was written, in row {row}")
        return picture or None

    def _array(self, name: str, dtype: type, shape: tuple[int, ...]) -> np.ndarray:
        array = self.files.array(name)
        if array.dtype != dtype or array.shape != shape:
            raise DamagedFile(
                f"{self.path / name}: {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}"
            )
        return array


def open_items(folder: str | Path, *, check: bool = True) -> Items:
    """Opens a folder of codes. check: compare contents with their sha256 at first use.

    Raises FileNotFoundError for a folder without manifest, ValueError for another format or version, and DamagedFile,
    which names the file, for one that is missing, truncated or changed.
    """
    path = Path(folder)
    manifest = read_manifest(path, FORMAT, "kdhash encode", FIELDS)
    try:
        return Items(path, manifest, manifest["files"], manifest["count"], check)
    except FileNotFoundError as error:
        raise DamagedFile(f"{error.filename} is missing, and the manifest lists it") from None


def id_keys(ids: Sequence[str]) -> UInt64[np.ndarray, " n"]:
    """The first 8 bytes (little-endian) of blake2b(id, digest_size=8) of each id: what ids are looked up by."""
    digests = b"".join(hashlib.blake2b(name.encode(), digest_size=8).digest() for name in ids)
    return np.frombuffer(digests, "<u8").astype(np.uint64)


class ItemsWriter:
    """Writes a folder of codes block by block; memory does not grow with the number of items, but for 8 bytes each.

        with ItemsWriter("codes", bits=64, model=model.hash) as writer:
            writer.add(codes, table, thumbs)

    The folder appears under its name when the block ends without an error, whole, and not at all otherwise.
    searched_by: hashes of models whose query codes may search these codes; `model` is always among them.
    preprocessing: hash of the preprocessing.  source: {"kind", "path"}, for people.  facts: more fields of the manifest.
    Raises FileExistsError where the folder is there, ValueError for a number of bits that 8 does not divide.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        bits: int,
        model: str = "",
        searched_by: Iterable[str] = (),
        preprocessing: str = "",
        source: Mapping[str, Any] | None = None,
        facts: Mapping[str, Any] | None = None,
    ):
        self.path = Path(folder)
        if self.path.exists():
            raise FileExistsError(f"{self.path} is already there; remove it first, or choose another name")
        if bits <= 0 or bits % 8:
            raise ValueError(f"bits: expected a multiple of 8, got {bits}")
        self._facts = {
            **(facts or {}),
            "format": FORMAT,
            "version": 1,
            "count": 0,
            "bits": bits,
            "bit_order": BIT_ORDER,
            "model": model,
            "searched_by": list(dict.fromkeys([*([model] if model else []), *searched_by])),
            "preprocessing": preprocessing,
            "source": dict(source or {}),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(prefix=f".{self.path.name}.writing-", dir=self.path.parent))
        os.chmod(self._folder, 0o755)
        self._codes = NpyStream(self._folder / "codes.npy", np.uint8, (bits // 8,))
        self._keys = NpyStream(self._folder / "keys.npy", np.uint64)
        self._open: list[Any] = [self._codes, self._keys]
        self._thumbs: tuple[BinaryIO, NpyStream, NpyStream] | None = None
        self._rows: list[Any] = []  # tables that wait for a full batch
        self._arrow: Any = None
        self._schema: Any = None

    def add(
        self, codes: UInt8[np.ndarray, "n bytes"], table: Any, thumbs: Sequence[bytes] | None = None
    ) -> None:
        """Adds n items: packed codes, a pyarrow.Table with the column 'id' and any others, JPEG thumbnails (b'' for none).

        Raises ValueError, naming the field, for blocks that do not fit together or to the blocks before them.
        """
        codes = check_packed("codes", codes)
        if codes.shape[1] * 8 != self._facts["bits"]:
            raise ValueError(f"codes: {codes.shape[1] * 8} bits, this folder has {self._facts['bits']}")
        table = plain_table(table)
        if self._schema is None:
            self._schema = table.schema
            self._with_thumbs = thumbs is not None
            if thumbs is not None:
                offsets = NpyStream(self._folder / "thumbs.npy", np.int64)
                offsets.write(np.zeros(1, np.int64))
                checks = NpyStream(self._folder / "thumbs_crc32.npy", np.uint32)
                self._thumbs = open(self._folder / "thumbs.bin", "wb"), offsets, checks  # noqa: SIM115
                self._open += self._thumbs
        if table.schema != self._schema:
            raise ValueError(first_difference(self._schema, table.schema))
        if (thumbs is not None) != self._with_thumbs:
            raise ValueError(
                "thumbs: give them with every block or with none; b'' stands for an item without"
            )
        for name, length in (
            ("table", table.num_rows),
            ("thumbs", len(codes) if thumbs is None else len(thumbs)),
        ):
            if length != len(codes):
                raise ValueError(f"{name}: {length} rows for {len(codes)} codes")
        self._keys.write(id_keys(table["id"].to_pylist()))
        self._codes.write(codes)
        if self._thumbs is not None and thumbs is not None:
            pictures, offsets, checks = self._thumbs
            first = pictures.tell()
            pictures.writelines(thumbs)
            offsets.write(first + np.cumsum([len(picture) for picture in thumbs], dtype=np.int64))
            checks.write(np.array([zlib.crc32(picture) for picture in thumbs], np.uint32))
        self._rows.append(table)
        if sum(rows.num_rows for rows in self._rows) >= BATCH:
            self._write_rows()
        self._facts["count"] += len(codes)

    def close(self) -> Path:
        """Finishes the folder and gives it its name. Raises DuplicateIds where an id was written twice."""
        try:
            self._write_rows()
            self._close_files()
            files = {path.name: file_facts(path) for path in sorted(self._folder.iterdir())}
            items = Items(self._folder, self._facts, files, self._facts["count"], check=False)
            twice = duplicate_rows(items.keys, items)
            if twice:
                raise DuplicateIds(f"{self.path}: ids that are there twice", twice)
            for name in files:
                sync(self._folder / name)
            columns = {field.name: type_name(field.type) for field in self._schema if field.name != "id"}
            write_manifest(self._folder, {**self._facts, "columns": columns, "files": files})
            os.rename(self._folder, self.path)
            sync(self.path.parent)
        finally:
            self.abort()
        return self.path

    def abort(self) -> None:
        """Removes what has been written; nothing after `close`."""
        self._close_files()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _close_files(self) -> None:
        files, self._open = self._open, []
        for file in files:
            file.close()

    def _write_rows(self) -> None:
        import pyarrow as pa

        if self._schema is None:  # no items at all
            self._schema = pa.schema([("id", pa.string())])
        if self._arrow is None:
            sink = pa.OSFile(str(self._folder / "items.arrow"), "wb")
            self._arrow = pa.ipc.new_file(sink, self._schema)
            self._open += [self._arrow, sink]
        if self._rows:
            table = pa.concat_tables(self._rows).combine_chunks()
            self._arrow.write_table(table, max_chunksize=BATCH)
        self._rows = []

    def __enter__(self) -> "ItemsWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()


def write_items(
    folder: str | Path,
    codes: UInt8[np.ndarray, "n bytes"],
    table: Any,
    *,
    thumbs: Sequence[bytes] | None = None,
    **facts: Any,
) -> Path:
    """Writes a folder of codes in one go; `facts` (model=..., searched_by=..., ...) and errors are those of ItemsWriter."""
    codes = check_packed("codes", codes)
    with ItemsWriter(folder, bits=codes.shape[1] * 8, **facts) as writer:
        writer.add(codes, table, thumbs)
    return writer.path


def duplicate_rows(keys: UInt64[np.ndarray, " n"], items: Items) -> list[str]:
    """The ids that are there more than once."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    same = np.flatnonzero(ordered[1:] == ordered[:-1])
    if not len(same):
        return []
    rows = order[np.unique(np.concatenate([same, same + 1]))]
    ids = items.ids_at(np.sort(rows))  # equal keys are not yet equal ids
    return [name for name, count in Counter(ids).items() if count > 1]

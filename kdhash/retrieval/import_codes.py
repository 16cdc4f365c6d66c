"""Codes from other programs: a `.npy` file, with ids and metadata beside it, becomes a folder of codes."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from kdhash.retrieval.codes import pack_codes
from kdhash.retrieval.items import BATCH, BIT_ORDER, ItemsWriter

BIT_ORDERS = (BIT_ORDER, "lsb-first")


def import_codes(
    codes: str | Path,
    folder: str | Path,
    *,
    ids: str | Path | None = None,
    metadata: str | Path | None = None,
    bit_order: str = BIT_ORDER,
) -> Path:
    """Writes the folder of codes `folder` from a `.npy` file; block by block, so that memory does not grow with it.

    codes: packed uint8 [n, bits/8], or -1/+1 or real values [n, bits] of which the sign counts (0 is +1), or bool [n, bits].
    ids: a UTF-8 text file, one id a line; without it the column 'id' of the metadata, or '0', '1', ...  metadata: a Parquet
    file, a row an item.  bit_order: of packed codes; 'lsb-first' ones are turned round. Raises FileNotFoundError,
    FileExistsError, and ValueError naming the file for arrays that are no codes and for ids or metadata of another number.
    """
    source = Path(codes)
    if bit_order not in BIT_ORDERS:
        raise ValueError(f"bit_order: expected {' or '.join(BIT_ORDERS)}, got {bit_order!r}")
    try:
        array = np.load(source, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{source}: no array as np.save writes it ({error})") from None
    if not isinstance(array, np.ndarray) or array.ndim != 2:
        raise ValueError(
            f"{source}: expected codes [n, bits/8] or [n, bits], got {getattr(array, 'shape', 'several arrays')}"
        )
    names = None if ids is None else _Lines(Path(ids))
    facts = None if metadata is None else _Rows(Path(metadata))
    if names and facts and "id" in facts.names:
        raise ValueError(
            f"{metadata} has a column 'id', and {ids} gives ids too: give one of them, or rename the column"
        )
    bits = array.shape[1] * (8 if array.dtype == np.uint8 else 1)
    place = {"kind": "codes", "path": str(source)}
    with ItemsWriter(folder, bits=bits, source=place) as writer:
        for first in range(0, len(array), BATCH):
            block = np.asarray(array[first : first + BATCH])
            table = _table(names, facts, first, len(block), len(array))
            writer.add(_packed(block, source, bit_order), table)
        for side in (names, facts):
            if side is not None and side.left():
                raise ValueError(
                    f"{side.path}: more than the {len(array):,} rows that {source} has codes for"
                )
    return writer.path


class _Lines:
    """The ids of a text file, some at a time."""

    def __init__(self, path: Path):
        self.path = path
        self._lines = self._read()

    def _read(self) -> Iterator[str]:
        with open(self.path, encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, 1):
                name = line.removesuffix("\n").removesuffix("\r")
                if not name:
                    raise ValueError(f"{self.path}, line {number}: an empty id")
                yield name

    def take(self, count: int) -> list[str]:
        return list(itertools.islice(self._lines, count))

    def left(self) -> bool:
        return next(self._lines, None) is not None


class _Rows:
    """The rows of a Parquet file, some at a time."""

    def __init__(self, path: Path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        try:
            file = pq.ParquetFile(path)
        except pa.ArrowInvalid as error:
            raise ValueError(f"{path} is no Parquet file ({error})") from None
        self.names = file.schema_arrow.names
        self._waiting = pa.Table.from_batches([], file.schema_arrow)
        self._batches = file.iter_batches(BATCH)

    def take(self, count: int) -> Any:
        import pyarrow as pa

        while self._waiting.num_rows < count and (batch := next(self._batches, None)) is not None:
            self._waiting = pa.concat_tables([self._waiting, pa.Table.from_batches([batch])])
        taken, self._waiting = self._waiting.slice(0, count), self._waiting.slice(count)
        return taken

    def left(self) -> bool:
        return self._waiting.num_rows > 0 or next(self._batches, None) is not None


def _table(names: _Lines | None, facts: _Rows | None, first: int, count: int, total: int) -> Any:
    import pyarrow as pa

    table = None if facts is None else facts.take(count)
    chosen = None if names is None else names.take(count)
    for side, length in ((names, len(chosen or ())), (facts, 0 if table is None else table.num_rows)):
        if side is not None and length < count:
            raise ValueError(f"{side.path}: {first + length:,} rows for {total:,} codes")
    if chosen is None and table is not None and "id" in table.column_names:
        return table
    column = pa.array(chosen or [str(number) for number in range(first, first + count)], pa.string())
    return pa.table({"id": column}) if table is None else table.add_column(0, "id", column)


def _packed(block: np.ndarray, source: Path, bit_order: str) -> UInt8[np.ndarray, "n bytes"]:
    if block.dtype == np.uint8:
        if block.size >= 64 and block.max() <= 1:
            raise ValueError(
                f"{source}: uint8 of 0 and 1 only; packed codes are np.packbits(codes, axis=1), bits are codes.astype(bool)"
            )
        if bit_order == "lsb-first":
            return np.packbits(np.unpackbits(block, axis=1, bitorder="little"), axis=1)
        return np.ascontiguousarray(block)
    if block.dtype == bool:
        block = np.where(block, np.int8(1), np.int8(-1))
    elif len(block) > 1 and block.dtype.kind in "if" and block.min() >= 0:
        raise ValueError(
            f"{source}: no value is below 0, so that all codes would be alike; for bits 0 and 1 save codes.astype(bool)"
        )
    try:
        return pack_codes(block)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None

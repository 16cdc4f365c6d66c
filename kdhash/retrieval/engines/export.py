"""An index folder's items into a table of a database, and a table brought up to date with its index."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from kdhash.retrieval.engines.tables import TableEngine

if TYPE_CHECKING:
    from kdhash.retrieval.index import Index

BLOCK = 2**17  # items in memory at a time


class Exported(NamedTuple):
    """What `export_index` did."""

    added: int
    deleted: int


def export_index(
    index: Index,
    engine: TableEngine,
    *,
    columns: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Adds the live items that the table does not have, with their numbers, and deletes those that the index no longer has.

    Numbers are never given twice, so that this brings the table of an earlier export up to date.  columns: metadata columns
    beside 'id' (default: all); the table of an earlier export has its own.  progress: called with items looked at and items in
    all. Needs 8 bytes an item of the table and memory for 131,072 items. Raises ValueError for a table of other codes and for
    a column that is not there, DatabaseError.
    """
    if engine.bits != index.bits:
        raise ValueError(
            f"{index.path} has codes of {index.bits} bits, the table {engine.table!r} of {engine.bits}"
        )
    if engine.model != index.model:
        raise ValueError(
            f"the codes of {index.path} are of the model {index.model or 'unknown'}, those of the table {engine.table!r} of "
            f"{engine.model or 'unknown'}: they cannot be compared"
        )
    have = engine.numbers()
    schema = _schema(index, columns)
    gone, added, seen = np.ones(len(have), bool), 0, 0
    for numbers, codes, table in _blocks(index, schema):
        places = np.minimum(np.searchsorted(have, numbers), max(0, len(have) - 1))
        there = have[places] == numbers if len(have) else np.zeros(len(numbers), bool)
        gone[places[there]] = False
        engine.add(numbers[~there], codes[~there], table.filter(~there))
        added += int((~there).sum())
        seen += len(numbers)
        if progress is not None:
            progress(seen, len(index))
    return Exported(added, engine.delete(have[gone]))


def _schema(index: Index, columns: Sequence[str] | None) -> Any:
    import pyarrow as pa

    names = list(index.columns) if columns is None else [name for name in columns if name != "id"]
    fields = [pa.field("id", pa.string())]
    for name in names:
        if name not in index.columns:
            raise ValueError(
                f"no column {name!r} in {index.path}; its columns are id, {', '.join(index.columns)}"
            )
        kinds = [s.table.schema.field(name).type for s in index.segments if name in s.table.column_names]
        fields.append(pa.field(name, next((kind for kind in kinds if kind != pa.null()), pa.null())))
    return pa.schema(fields)


def _blocks(
    index: Index, schema: Any
) -> Iterator[tuple[Int64[np.ndarray, " n"], UInt8[np.ndarray, "n bytes"], Any]]:
    """(numbers, codes, columns) of the live items, a few at a time."""
    import pyarrow as pa

    for segment in index.segments:
        for first in range(0, segment.count, BLOCK):
            rows = np.arange(first, min(first + BLOCK, segment.count))
            table = segment.table.slice(first, len(rows))
            if segment.deleted is not None:
                live = ~segment.deleted[rows]
                rows, table = rows[live], table.filter(live)
            arrays = [
                table[field.name].cast(field.type)
                if field.name in table.column_names
                else pa.nulls(len(rows), field.type)  # a column that a segment does not have is empty there
                for field in schema
            ]
            yield segment.numbers_at(rows), segment.codes[rows], pa.Table.from_arrays(arrays, schema=schema)

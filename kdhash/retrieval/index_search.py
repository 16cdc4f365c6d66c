"""Searching an index: its segments are the blocks of one exact scan, or an approximate engine beside them answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from kdhash.retrieval.found import NOTHING, Found

if TYPE_CHECKING:
    from kdhash.retrieval.filters import Filter
    from kdhash.retrieval.index import Index, Segment

ENGINES = ("exact", "ivf")


def search_index(
    index: Index,
    codes: UInt8[np.ndarray, "queries bytes"],
    k: int | None,
    radius: int | None,
    where: Filter | None,
    engine: str,
) -> Found:
    """`Index.search`, of checked codes."""
    if k is None and radius is None:
        raise ValueError("k and radius are both None: give one, so that there is an end")
    if k is not None and k < 1:
        raise ValueError(f"k: expected 1 or more items, or None for all within a radius, got {k}")
    if radius is not None and radius < 0:
        raise ValueError(f"radius: expected 0 bits or more, got {radius}")
    if engine not in ENGINES:
        raise ValueError(f"engine: {engine!r} is unknown; an index has {' and '.join(ENGINES)}")
    if where is not None:
        where.check({"id": "string", **index.columns})
    if engine == "ivf":
        from kdhash.retrieval.engines.index_ivf import search_ivf

        return search_ivf(index, codes, k, radius, where)
    skip = [skipped(segment, where) for segment in index.segments]
    blocks = [segment.codes for segment in index.segments]
    return _exact(index, codes, k, radius, blocks, skip)


def skipped(segment: Segment, where: Filter | None) -> Bool[np.ndarray, " n"] | None:
    """Which rows take no part: those deleted, and those that a filter does not let pass. None where all do."""
    if where is None:
        return segment.deleted
    # a column that a segment does not have is empty there
    import pyarrow as pa

    there = set(segment.table.column_names)
    table = segment.table.select(["id", *(name for name in where.columns - {"id"} if name in there)])
    for name in where.columns - there:
        table = table.append_column(name, pa.nulls(segment.count))
    passed = where.mask(table)
    return ~passed if segment.deleted is None else ~passed | segment.deleted


def _exact(
    index: Index, codes: np.ndarray, k: int | None, radius: int | None, blocks: list[Any], skip: list[Any]
) -> Found:
    from kdhash.retrieval.nearest import nearest, within

    if k is not None:
        found = nearest(codes, blocks, k, radius=radius, skip=skip)
        width = int(found.counts.max(initial=0))
        there = np.arange(width) < found.counts[:, None]
        numbers = np.full(there.shape, -1, np.int64)
        numbers[there] = numbers_at(index, found.numbers[:, :width][there])
        return Found(found.distances[:, :width], numbers, found.counts)
    matches = within(codes, blocks, int(radius or 0), skip=skip)
    counts = np.diff(matches.offsets)
    there = np.arange(int(counts.max(initial=0))) < counts[:, None]
    distances = np.full(there.shape, NOTHING, np.uint16)
    numbers = np.full(there.shape, -1, np.int64)
    # both sides go query by query
    distances[there], numbers[there] = matches.distances, numbers_at(index, matches.positions)
    return Found(distances, numbers, counts)


def numbers_at(index: Index, positions: Int64[np.ndarray, " m"]) -> Int64[np.ndarray, " m"]:
    """Positions counted over all segments -> the items' numbers."""
    ends = np.cumsum([segment.count for segment in index.segments], dtype=np.int64)
    owner = np.searchsorted(ends, positions, "right")
    numbers = np.empty(len(positions), np.int64)
    for place in np.unique(owner):
        segment, mine = index.segments[place], owner == place
        numbers[mine] = segment.numbers_at(positions[mine] - (ends[place] - segment.count))
    return numbers

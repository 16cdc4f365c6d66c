"""Exact search: the k nearest codes, or all within a Hamming radius, in one block of packed codes or many."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8, UInt16, UInt64

from kdhash.retrieval.blocks import ALL, Piece, Tile, divide, kept_items, pieces_of, tiles_of
from kdhash.retrieval.codes import check_packed
from kdhash.retrieval.found import NOTHING, Found
from kdhash.retrieval.hamming import (
    check_bits,
    check_code_pair,
    kernels,
    map_query_blocks,
    numpy_distances,
    query_and_database_words,
    query_words_of,
    resolve_k,
    threads,
)

_QUERIES = 64  # in a block: the database is read once for all of them
_CANDIDATES = 2**19  # of all queries of a block, 8 bytes each
_FEW = 8  # queries a thread; with fewer, threads share out the database
_LARGE = 2**24  # bytes of codes for which it pays to start threads where there are few queries
_NUMPY_ITEMS = 2**15


class Matches(NamedTuple):
    """All items within a radius of each query, by distance, then by position; of query i from offsets[i] to offsets[i + 1]."""

    offsets: Int64[np.ndarray, " queries+1"]
    distances: UInt16[np.ndarray, " matches"]
    """Hamming distance in bits"""
    positions: Int64[np.ndarray, " matches"]
    """of the items, counted over all blocks"""


def nearest(
    query: UInt8[np.ndarray, "queries bytes"],
    blocks: Sequence[UInt8[np.ndarray, "n bytes"]],
    k: int | None,
    *,
    radius: int | None = None,
    skip: Sequence[Bool[np.ndarray, " n"] | None] = (),
) -> Found:
    """The k nearest items of each query over all blocks; `numbers` are positions, counted over all blocks.

    By distance, then by position: the stable order. k of None, 0 or above the number of items: all of them. radius: only
    items within so many bits (inclusive). skip: for each block None, or True where an item takes no part. Blocks of 64-bit
    codes, memory-mapped ones too, are read where they lie; others are widened 512 KiB at a time. Besides codes and result a
    search holds at most 5 MiB a thread (16 k bytes where that is more), and a bit an item where there is a skip. Raises
    ValueError for arrays that are not packed codes of one length, a negative k or radius, and a skip that does not fit.
    """
    queries, pieces, limit = _prepare(query, blocks, radius, skip)
    k = resolve_k(k, sum(map(len, blocks)))
    parts = _share_out(len(queries), pieces)
    found = [_nothing(len(queries), k) for _ in parts]

    def fill(rows: slice, part: int) -> None:
        _fill_nearest(queries[rows], tiles_of(parts[part]), limit, Found(*(c[rows] for c in found[part])))

    if k:
        _map_units(fill, len(queries), len(parts), max(1, min(_QUERIES, _CANDIDATES // (2 * k))))
    return found[0] if len(found) == 1 else _merge(found, k)


def within(
    query: UInt8[np.ndarray, "queries bytes"],
    blocks: Sequence[UInt8[np.ndarray, "n bytes"]],
    radius: int,
    *,
    skip: Sequence[Bool[np.ndarray, " n"] | None] = (),
) -> Matches:
    """All items within radius bits (inclusive) of each query, by distance, then by position. For blocks and skip see `nearest`.

    Two passes, one to count and one to fill, so that no more memory is needed than the result takes (10 bytes a match) and
    8 (radius + 1) bytes a query. Raises ValueError as `nearest` does.
    """
    queries, pieces, limit = _prepare(query, blocks, radius, skip)
    if kernels() is None:
        return _numpy_within(queries, pieces, limit)
    from kdhash.retrieval.nearest_kernels import scan_within

    parts = _share_out(len(queries), pieces)
    places = np.zeros((len(parts), len(queries), limit), np.int64)
    distances, positions = np.empty(0, np.uint16), np.empty(0, np.int64)

    def scan(rows: slice, part: int, fill: bool) -> None:
        for words, keep, position in tiles_of(parts[part]):
            scan_within(queries[rows], words, keep, position, places[part, rows], fill, distances, positions)

    _map_units(lambda rows, part: scan(rows, part, False), len(queries), len(parts), _QUERIES)
    # the order of the result: by query, distance, part
    ends = places.transpose(1, 2, 0).cumsum().reshape(len(queries), limit, len(parts))
    offsets = np.concatenate([[0], ends[:, -1, -1]])
    places[:] = ends.transpose(2, 0, 1) - places
    distances, positions = np.empty(offsets[-1], np.uint16), np.empty(offsets[-1], np.int64)
    _map_units(lambda rows, part: scan(rows, part, True), len(queries), len(parts), _QUERIES)
    return Matches(offsets, distances, positions)


def search(
    query: UInt8[np.ndarray, "queries bytes"], database: UInt8[np.ndarray, "items bytes"], k: int
) -> tuple[UInt16[np.ndarray, "queries k"], Int32[np.ndarray, "queries k"]]:
    """The k nearest database items of each query -> (distances in bits, database positions).

    In the stable order: by distance, then by database position. k above the number of items gives all of
    them; k = 0 gives all too. Exact; selection by counting distances, linear in the number of items. Raises
    ValueError for a negative k and for arrays that are not packed codes of one length.
    """
    query, database = check_code_pair(query, database)
    k = resolve_k(k, len(database))
    query_words, database_words = query_and_database_words(query, database)
    distances = np.empty((len(query), k), np.uint16)
    indices = np.empty((len(query), k), np.int32)

    def fill(rows: slice) -> None:
        distances[rows], indices[rows] = select(query_words[rows], database_words, k)

    map_query_blocks(fill, len(query), _QUERIES)
    return distances, indices


def select(
    query_words: UInt64[np.ndarray, "queries words"],
    database_words: UInt64[np.ndarray, "words items"],
    k: int,
) -> tuple[UInt16[np.ndarray, "queries k"], Int32[np.ndarray, "queries k"]]:
    """`search` on the calling thread, on words as `query_and_database_words` gives them."""
    compiled = kernels()
    if compiled is not None and 2 * k > database_words.shape[1]:  # most items are wanted: count them all
        distances = np.empty((len(query_words), k), np.uint16)
        indices = np.empty((len(query_words), k), np.int32)
        compiled.select_nearest(query_words, database_words, distances, indices)
        return distances, indices
    found = _nothing(len(query_words), k)
    if k:
        _fill_nearest(query_words, [Tile(database_words, ALL, 0)], len(database_words) * 64 + 1, found)
    return found.distances, found.numbers.astype(np.int32)


def _prepare(
    query: np.ndarray, blocks: Sequence[np.ndarray], radius: int | None, skip: Sequence[np.ndarray | None]
) -> tuple[np.ndarray, list[Piece], int]:
    """(words of the queries, checked pieces of the blocks, the distance below which items are wanted)."""
    query = check_bits(check_packed("query", query))
    bits = query.shape[1] * 8
    if radius is not None and radius < 0:
        raise ValueError(f"radius: expected a number of bits from 0 on, got {radius}")
    limit = (bits if radius is None else min(radius, bits)) + 1
    return query_words_of(query), pieces_of(blocks, skip, query.shape[1]), limit


def _share_out(queries: int, pieces: list[Piece]) -> list[list[Piece]]:
    """The database in one part; in one a thread where it is large and the queries are too few to go round."""
    size = sum(piece.codes.size for piece in pieces)
    return divide(pieces, threads() if queries < _FEW * threads() and size >= _LARGE else 1)


def _map_units(function: Callable[[slice, int], None], queries: int, parts: int, block: int) -> None:
    """function(rows of queries, part of the database) for all of both, in threads."""
    block = max(1, min(block, -(-queries * parts // threads())))
    starts = range(0, queries, block)
    units = [(slice(first, first + block), part) for first in starts for part in range(parts)]
    map_query_blocks(lambda place: function(*units[place.start]), len(units), 1)


def _nothing(queries: int, k: int) -> Found:
    distances = np.full((queries, k), NOTHING, np.uint16)
    return Found(distances, np.full((queries, k), -1, np.int64), np.zeros(queries, np.int64))


def _fill_nearest(queries: np.ndarray, tiles: Iterable[Tile], limit: int, found: Found) -> None:
    """Searches on the calling thread. found [queries, k], all `_nothing`, receives the k nearest that are nearer than limit."""
    if kernels() is None:
        row, near, places = _numpy_scan(queries, tiles, limit, found.distances.shape[1])
        found.counts[:] = np.bincount(row, minlength=len(queries))
        found.distances[row, _ranks(row)], found.numbers[row, _ranks(row)] = near, places
        return
    from kdhash.retrieval.nearest_kernels import GROUP, order_nearest, scan_nearest

    k = found.distances.shape[1]
    state = np.zeros((len(queries), 3), np.int64)
    state[:, 0] = limit
    counts = np.zeros((len(queries), limit), np.int64)
    candidates = np.empty((len(queries), 2 * k + GROUP), np.uint64)  # touched only as far as it is filled
    for words, keep, position in tiles:
        scan_nearest(queries, words, keep, position, k, state, counts, candidates)
    order_nearest(state, counts, candidates, *found)


def _merge(parts: Sequence[Found], k: int) -> Found:
    """The k nearest of all parts, which follow each other in the database."""
    distances, numbers = (np.concatenate(columns, axis=1) for columns in list(zip(*parts, strict=True))[:2])
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    counts = np.minimum(sum(part.counts for part in parts), k)
    return Found(np.take_along_axis(distances, order, 1), np.take_along_axis(numbers, order, 1), counts)


def _numpy_scan(
    queries: np.ndarray, tiles: Iterable[Tile], limit: int, k: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(row of the query, distance, position) of the k nearest items that are nearer than limit, or of all; in that order."""
    limits = np.full(len(queries), limit, np.uint16)
    hits = np.empty(0, np.int64), np.empty(0, np.uint16), np.empty(0, np.int64)
    waiting = [hits]
    for words, keep, position in tiles:
        kept = kept_items(keep, words.shape[1])
        for first in range(0, words.shape[1], _NUMPY_ITEMS):
            distances = numpy_distances(queries, words[:, first : first + _NUMPY_ITEMS])
            if keep.size:
                distances[:, ~kept[first : first + _NUMPY_ITEMS]] = NOTHING
            sample = distances[:, : 2 * k + 4096] if k else distances[:, :0]
            if k and len(waiting[0][0]) == 0 and sample.shape[1] > k:
                # so that the first tile does not hit with everything
                farthest = np.partition(sample, k - 1, axis=1)[:, k - 1]
                limits = np.minimum(limits - 1, farthest) + np.uint16(1)
            # in one dimension NumPy looks for the few hits faster
            row, column = np.divmod(np.flatnonzero(distances < limits[:, None]), distances.shape[1])
            waiting.append((row, distances[row, column], column + position + first))
            if k:
                waiting = [_sorted_hits(waiting, k)]
                row, near, _ = waiting[0]
                last = np.flatnonzero(_ranks(row) == k - 1)
                limits[row[last]] = near[last]
    return waiting[0] if k else _sorted_hits(waiting, None)


def _sorted_hits(
    parts: Sequence[tuple[np.ndarray, ...]], k: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    row, near, places = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.lexsort((places, near, row))
    if k is not None:
        order = order[_ranks(row[order]) < k]
    return row[order], near[order], places[order]


def _ranks(row: np.ndarray) -> np.ndarray:
    """0, 1, 2, ... for the entries of each row; rows ascend."""
    counts = np.bincount(row)
    return np.arange(len(row)) - np.repeat(counts.cumsum() - counts, counts)


def _numpy_within(queries: np.ndarray, pieces: list[Piece], limit: int) -> Matches:
    counts, columns = [np.zeros(1, np.int64)], [(np.empty(0, np.uint16), np.empty(0, np.int64))]
    for first in range(0, len(queries), _QUERIES):
        block = queries[first : first + _QUERIES]
        row, near, places = _numpy_scan(block, tiles_of(pieces), limit, None)
        counts.append(np.bincount(row, minlength=len(block)))
        columns.append((near, places))
    near, places = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    return Matches(np.concatenate(counts).cumsum(), near, places)

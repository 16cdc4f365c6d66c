"""Near duplicates: all pairs of items within a Hamming radius, and the groups that such pairs join."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64, UInt8, UInt16
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kdhash.retrieval.blocks import Piece, kept_items, pieces_of, tiles_of
from kdhash.retrieval.nearest import within
from kdhash.retrieval.pair_join import METHODS, PairBatch, join_pairs

_BATCH = 2**18  # pairs of items
_MATCHES = 2**20  # wanted at a time, where new items are compared with all
# Nanoseconds an item: to compare a new item with it, and to sort it and join it with all others.
_SCAN, _JOIN = 0.2, 1000.0


class Groups(NamedTuple):
    """Groups of near duplicates, the largest first, then by first member; of group i from offsets[i] to offsets[i + 1]."""

    offsets: Int64[np.ndarray, " groups+1"]
    positions: Int64[np.ndarray, " members"]
    """ascending in each group"""
    distances: UInt16[np.ndarray, " members"]
    """Hamming distance to the group's first member in bits; along a chain of pairs it can exceed the radius"""


class _Identical(NamedTuple):
    """Items by code: those with code i are order[starts[i]:starts[i + 1]], positions that ascend."""

    words: np.ndarray
    """uint64 [words, codes]: the different codes"""
    order: np.ndarray
    starts: np.ndarray


def near_pairs(
    blocks: Sequence[UInt8[np.ndarray, "n bytes"]],
    radius: int,
    *,
    skip: Sequence[Bool[np.ndarray, " n"] | None] = (),
    new: Bool[np.ndarray, " items"] | None = None,
    method: str = "auto",
) -> Iterator[PairBatch]:
    """All pairs of items within radius bits (inclusive), as positions counted over all blocks; in no particular order.

    skip: for each block None, or True where an item takes no part. new: only pairs with at least one of these items; where
    they are few, they are compared with all items, and nothing is done again for the old ones. method: 'all' or 'buckets' (see
    `pair_join`), 'scan' (each new item against all), or 'auto'; the pairs are the same. Only distinct codes are compared;
    pairs of identical ones, of which there may be very many, are made as they are asked for. Memory does not grow with the
    number of pairs: about 130 bytes an item of 64 bits ('scan': 10) and 10 MiB a thread. Raises ValueError for blocks, skip
    and new that do not fit together, a negative radius and another method.
    """
    pieces, fresh, method = _prepare(blocks, radius, skip, new, method)
    if method == "scan":
        own = _group_identical(pieces, fresh)
        for code, matches, distances in _scan(own, blocks, radius, skip):
            for match, member, _ in _cells(np.diff(own.starts)[code], np.ones(len(code), np.int64)):
                first, second = own.order[own.starts[code[match]] + member], matches[match]
                # not the item itself, and two new items once
                wanted = (first != second) & (~fresh[second] | (first < second))
                yield from _ordered(first, second, distances[match], wanted)
        return
    same = _group_identical(pieces, np.ones(len(fresh), bool))
    sizes = np.diff(same.starts)
    several = np.flatnonzero(sizes > 1)
    yield from _pairs_of(PairBatch(several, several, np.zeros(len(several), np.uint16)), same, fresh)
    for edges in join_pairs(same.words, _bits(blocks), radius, method):
        yield from _pairs_of(edges, same, fresh)


def near_groups(
    blocks: Sequence[UInt8[np.ndarray, "n bytes"]],
    radius: int,
    *,
    skip: Sequence[Bool[np.ndarray, " n"] | None] = (),
    new: Bool[np.ndarray, " items"] | None = None,
    method: str = "auto",
) -> Groups:
    """The groups that the pairs of `near_pairs` join: connected components with at least two items.

    Arguments, memory and errors as there. Two members need not be within the radius of each other: a chain of pairs is enough.
    """
    pieces, fresh, method = _prepare(blocks, radius, skip, new, method)
    if method == "scan":
        own = _group_identical(pieces, fresh)
        labels, touched = np.arange(len(fresh)), np.zeros(len(fresh), bool)
        for code, matches, _ in _scan(own, blocks, radius, skip):
            # an item is among its own matches, and so are all others with its code
            labels = _join(labels, own.order[own.starts[code]], matches)
            touched[matches] = True
        positions = np.flatnonzero(touched)
        return _groups(blocks, positions, labels[positions])
    same = _group_identical(pieces, np.ones(len(fresh), bool))
    linked = (
        np.logical_or.reduceat(fresh[same.order], same.starts[:-1]) if len(same.order) else np.empty(0, bool)
    )
    has_new = linked.copy()
    labels = np.arange(len(linked))
    for first, second, _ in join_pairs(same.words, _bits(blocks), radius, method):
        wanted = has_new[first] | has_new[second]
        first, second = first[wanted], second[wanted]
        linked[first] = linked[second] = True
        labels = _join(labels, first, second)
    # old items of one code are no pair; they are together only where a new item brings them together
    sizes = np.diff(same.starts)
    return _groups(blocks, same.order[np.repeat(linked, sizes)], np.repeat(labels[linked], sizes[linked]))


def _prepare(
    blocks: Sequence[np.ndarray],
    radius: int,
    skip: Sequence[np.ndarray | None],
    new: np.ndarray | None,
    method: str,
) -> tuple[list[Piece], np.ndarray, str]:
    """(pieces of the blocks, bool [items]: which are new, method, where 'auto' no longer means 'scan')."""
    pieces = pieces_of(blocks, skip, blocks[0].shape[-1] if len(blocks) else 1)
    items = sum(map(len, blocks))
    if radius < 0:
        raise ValueError(f"radius: expected a number of bits from 0 on, got {radius}")
    if method not in (*METHODS, "scan"):
        raise ValueError(f"method: expected one of {', '.join(METHODS)}, scan; got {method!r}")
    fresh = np.ones(items, bool) if new is None else new
    if fresh.dtype != bool or fresh.shape != (items,):
        raise ValueError(f"new: expected bool [{items}], got {fresh.dtype} {fresh.shape}")
    if method == "auto" and new is not None:
        words = -(-_bits(blocks) // 64)
        method = "scan" if np.count_nonzero(fresh) * words * _SCAN < _JOIN else "auto"
    return pieces, fresh, method


def _bits(blocks: Sequence[np.ndarray]) -> int:
    return blocks[0].shape[1] * 8 if len(blocks) else 8


def _group_identical(pieces: list[Piece], chosen: np.ndarray) -> _Identical:
    """The items that are chosen (bool [all items]) and not left out, by code."""
    masks = [kept_items(keep, len(codes)) & chosen[at : at + len(codes)] for codes, keep, at in pieces]
    positions = np.concatenate(
        [np.flatnonzero(mask) + piece.position for mask, piece in zip(masks, pieces, strict=True)]
        or [np.empty(0, np.int64)]
    )
    words = np.empty((-(-pieces[0].codes.shape[1] // 8) if pieces else 1, len(positions)), np.uint64)
    filled = 0
    for tile in tiles_of(pieces):
        last = tile.position + tile.words.shape[1]
        there = positions[filled : np.searchsorted(positions, last)] - tile.position
        words[:, filled : filled + len(there)] = tile.words[:, there]
        filled += len(there)
    order = np.argsort(words[0], kind="stable") if len(words) == 1 else np.lexsort(words)
    words = np.take(words, order, axis=1)
    changes = (words[:, 1:] != words[:, :-1]).any(axis=0)
    first = np.flatnonzero(np.concatenate([np.ones(min(1, len(order)), bool), changes]))
    return _Identical(np.take(words, first, axis=1), positions[order], np.append(first, len(order)))


def _scan(
    own: _Identical, blocks: Sequence[np.ndarray], radius: int, skip: Sequence[np.ndarray | None]
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(index of a code of own, position of an item within radius, distance) for every such match, in batches."""
    codes = np.ascontiguousarray(own.words.T).view(np.uint8)[:, : _bits(blocks) // 8]
    first, size = 0, 1
    while first < len(codes):
        offsets, distances, positions = within(codes[first : first + size], blocks, radius, skip=skip)
        found = np.diff(offsets)
        yield np.repeat(np.arange(first, first + len(found)), found), positions, distances
        first += size
        # as many codes at a time as their matches allow
        size = max(1, min(4 * size, 256, int(_MATCHES / max(1.0, found.mean()))))


def _pairs_of(edges: PairBatch, same: _Identical, fresh: np.ndarray) -> Iterator[PairBatch]:
    """Pairs of items for pairs of codes; a code paired with itself gives the pairs of the items that have it."""
    sizes = np.diff(same.starts)
    for edge, row, column in _cells(sizes[edges.first], sizes[edges.second]):
        a, b = edges.first[edge], edges.second[edge]
        first, second = same.order[same.starts[a] + row], same.order[same.starts[b] + column]
        wanted = ((a != b) | (row < column)) & (fresh[first] | fresh[second])
        yield from _ordered(first, second, edges.distances[edge], wanted)


def _cells(rows: np.ndarray, columns: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(table, row, column) of all cells of tables with rows[i] x columns[i] cells, a batch at a time."""
    ends = np.cumsum(rows * columns)
    for first in range(0, int(ends[-1]) if len(ends) else 0, _BATCH):
        cell = np.arange(first, min(first + _BATCH, int(ends[-1])))
        table = np.searchsorted(ends, cell, "right")
        row, column = np.divmod(cell - ends[table] + rows[table] * columns[table], columns[table])
        yield table, row, column


def _ordered(
    first: np.ndarray, second: np.ndarray, distances: np.ndarray, wanted: np.ndarray
) -> Iterator[PairBatch]:
    first, second = first[wanted], second[wanted]
    if len(first):
        yield PairBatch(np.minimum(first, second), np.maximum(first, second), distances[wanted])


def _join(labels: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The labels of components after first[i] and second[i] have been joined; a label is the index of one of its nodes."""
    a, b = labels[first], labels[second]
    new = a != b
    if not new.any():
        return labels
    nodes, ends = np.unique(np.stack([a[new], b[new]]), return_inverse=True)
    a, b = ends.reshape(2, -1)
    graph = coo_array((np.ones(len(a), bool), (a, b)), shape=(len(nodes), len(nodes)))
    component = connected_components(graph, directed=False)[1]
    renamed = np.arange(len(labels))
    renamed[nodes] = nodes[np.unique(component, return_index=True)[1]][component]
    return renamed[labels]


def _groups(blocks: Sequence[np.ndarray], positions: np.ndarray, labels: np.ndarray) -> Groups:
    """Groups of the items at these positions, by label, without those that are alone."""
    sizes = np.bincount(labels)
    together = sizes[labels] > 1
    positions, labels = positions[together], labels[together]
    first = np.full(len(sizes), np.iinfo(np.int64).max)
    np.minimum.at(first, labels, positions)
    order = np.lexsort((positions, first[labels], -sizes[labels]))
    positions, labels = positions[order], labels[order]
    starts = np.flatnonzero(np.diff(labels, prepend=-1))
    codes = _codes_at(blocks, positions)
    differs = np.repeat(codes[starts], sizes[labels[starts]], axis=0)
    distances = np.bitwise_count(np.bitwise_xor(codes, differs, out=differs)).sum(axis=1, dtype=np.uint16)
    return Groups(np.append(starts, len(positions)), positions, distances)


def _codes_at(blocks: Sequence[np.ndarray], positions: np.ndarray) -> np.ndarray:
    codes = np.empty((len(positions), _bits(blocks) // 8), np.uint8)
    ends = np.cumsum([len(block) for block in blocks])
    owner = np.searchsorted(ends, positions, "right")
    for i in np.unique(owner):
        at = np.flatnonzero(owner == i)
        codes[at] = blocks[i][positions[at] - (ends[i] - len(blocks[i]))]
    return codes

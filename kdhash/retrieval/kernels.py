"""Numba kernels over 64-bit words. Import only through `hamming.kernels`: Numba may be absent.

They release the GIL and carry no parallel loop of their own: `hamming.map_query_blocks` runs them in threads.
A Numba parallel region would abort the process when two threads of a server search at the same time.
"""

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

# Distances of one tile stay in the first-level cache between the two passes over them.
_TILE = 4096


@intrinsic
def popcount(_context, word):
    """LLVM's population count of a uint64: vectorised where the processor can."""

    def generate(_context, builder, _signature, arguments):
        return builder.ctpop(arguments[0])

    return types.uint64(types.uint64), generate


@njit(nogil=True, cache=True)
def _fill_distances(query, database, first, out):
    """Distances (uint16) of one query [words] to the items from `first` on of database [words, n]."""
    for w in range(query.size):
        word = query[w]
        # one-dimensional slices are known to be contiguous, which vectorisation needs
        part = database[w][first : first + out.size]
        if w == 0:
            for i in range(out.size):
                out[i] = popcount(part[i] ^ word)  # type: ignore[call-arg]
        else:
            for i in range(out.size):
                out[i] += popcount(part[i] ^ word)  # type: ignore[call-arg]


@njit(nogil=True, cache=True)
def _add_histogram(cells, counts):
    """Count uint16 cells into four partial histograms [4, size]: equal neighbours need not wait."""
    zeroth, first, second, third = counts[0], counts[1], counts[2], counts[3]
    one, mask = np.uint32(1), np.uint64(0xFFFF)
    tail = cells.size - cells.size % 4
    for quad in cells[:tail].view(np.uint64):
        zeroth[quad & mask] += one
        first[(quad >> np.uint64(16)) & mask] += one
        second[(quad >> np.uint64(32)) & mask] += one
        third[quad >> np.uint64(48)] += one
    for cell in cells[tail:]:
        zeroth[cell] += one


@njit(nogil=True, cache=True)
def fill_distance_matrix(queries, database, out):
    """out[q, i] (uint16): Hamming distance of queries [q, words] and database [words, n]."""
    for q in range(queries.shape[0]):
        _fill_distances(queries[q], database, 0, out[q])


@njit(nogil=True, cache=True)
def count_cells(queries, database, query_tags, database_tags, same_class, stride, out):
    """Per query, the number of items for each (shared labels, distance): out uint32 [q, cells].

    stride is bits + 1; the cell of an item is shared * stride + distance. Labels come either as tag bits
    (query_tags [q, words], database_tags [words, n]) or as a database ordered by class, of which the rows
    same_class[q, 0] to same_class[q, 1] share the query's label.
    """
    items = database.shape[1]
    cells = np.empty(_TILE, np.uint16)
    partial = np.empty((4, out.shape[1]), np.uint32)
    step = np.uint16(stride)
    for q in range(queries.shape[0]):
        partial[:] = 0
        for first in range(0, items, _TILE):
            tile = cells[: min(_TILE, items - first)]
            _fill_distances(queries[q], database, first, tile)
            for w in range(query_tags.shape[1]):
                tags = query_tags[q, w]
                part = database_tags[w][first : first + tile.size]
                for i in range(tile.size):
                    tile[i] += np.uint16(popcount(part[i] & tags)) * step  # type: ignore[call-arg]
            start = max(same_class[q, 0] - first, 0)
            for i in range(start, min(same_class[q, 1] - first, tile.size)):
                tile[i] += step
            _add_histogram(tile, partial)
        for cell in range(out.shape[1]):
            out[q, cell] = partial[0, cell] + partial[1, cell] + partial[2, cell] + partial[3, cell]


@njit(nogil=True, cache=True)
def select_nearest(queries, database, distances, indices):
    """The k nearest items in the order (distance, position), by counting: no sort.

    distances uint16 [q, k] and indices int32 [q, k] are filled; k is at most the number of items.
    """
    items = database.shape[1]
    k = indices.shape[1]
    bits = database.shape[0] * 64
    row = np.empty(items, np.uint16)
    partial = np.empty((4, bits + 1), np.uint32)
    place = np.empty(bits + 1, np.int64)
    for q in range(queries.shape[0]):
        _fill_distances(queries[q], database, 0, row)
        partial[:] = 0
        _add_histogram(row, partial)
        farthest = 0
        nearer = np.intp(0)
        for distance in range(bits + 1):
            place[distance] = nearer
            if nearer < k:
                farthest = distance
            for lane in range(4):
                nearer += np.intp(partial[lane, distance])
        for i in range(items):
            distance = row[i]
            if distance <= farthest:
                rank = place[distance]
                if rank < k:
                    place[distance] = rank + 1
                    distances[q, rank] = distance
                    indices[q, rank] = i

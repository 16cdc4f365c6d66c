"""Numba kernels that find the nearest items, or all within a radius. Like `kernels`: Numba may be absent, no parallel loops.

The database lies word by word, uint64 [words, n]. 64 items are compared at once, in vectors that LLVM fits to the processor;
most groups of 64 hold nothing near enough, and for those the loop does no more than find that out.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from kdhash.retrieval.kernels import popcount

GROUP = 64
_LANES = 8
_CHUNKS = GROUP // _LANES
# Words of the database that stay in the second-level cache while all queries of a block pass over them.
_TILE_WORDS = 8192

_instruction: Any = intrinsic  # its first argument is the compiler's, which mypy cannot know
_I8, _I32, _I64 = ir.IntType(8), ir.IntType(32), ir.IntType(64)
_VECTOR, _SMALL = ir.VectorType(_I64, _LANES), ir.VectorType(ir.IntType(16), _LANES)


@_instruction
def _lowest_bit(_context, mask):
    """The place of the lowest 1 in a uint64 that is not 0."""

    def generate(_context, builder, _signature, arguments):
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint64(types.uint64), generate


@_instruction
def _compare_group(_context, query, database, first, limit, near):
    """A uint64 of which bit i says whether item first + i of database [words, n] is nearer than limit to query [words].

    Where one of them is, near (uint16 [64]) receives all 64 distances.
    """

    def generate(context, builder, signature, arguments):
        def array(i):
            return context.make_array(signature.args[i])(context, builder, arguments[i])

        query, database, near = array(0), array(1), array(4)
        words, items = (builder.extract_value(database.shape, axis) for axis in range(2))
        ctpop = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(_VECTOR, [_VECTOR]), "llvm.ctpop.v8i64"
        )

        def chunk(pointer, place, kind):
            part = builder.gep(pointer, [ir.Constant(_I64, place * _LANES)])
            return builder.bitcast(part, kind.as_pointer())

        def differing_bits(word):
            wanted = _splat(builder, builder.load(builder.gep(query.data, [word])))
            start = builder.gep(database.data, [builder.add(builder.mul(word, items), arguments[2])])
            parts = (builder.load(chunk(start, i, _VECTOR), align=8) for i in range(_CHUNKS))
            return [builder.call(ctpop, [builder.xor(part, wanted)]) for part in parts]

        sums = [cgutils.alloca_once(builder, _VECTOR) for _ in range(_CHUNKS)]
        for place, value in zip(sums, differing_bits(ir.Constant(_I64, 0)), strict=True):
            builder.store(value, place)
        with cgutils.for_range(builder, words, start=ir.Constant(_I64, 1)) as loop:
            for place, value in zip(sums, differing_bits(loop.index), strict=True):
                builder.store(builder.add(builder.load(place), value), place)
        distances = [builder.load(place) for place in sums]

        limits = _splat(builder, arguments[3])
        least = distances
        while len(least) > 1:
            pairs = zip(least[::2], least[1::2], strict=True)
            least = [builder.select(builder.icmp_unsigned("<", a, b), a, b) for a, b in pairs]
        some = builder.bitcast(builder.icmp_unsigned("<", least[0], limits), _I8)
        mask = cgutils.alloca_once_value(builder, ir.Constant(_I64, 0))
        with builder.if_then(builder.icmp_unsigned("!=", some, ir.Constant(_I8, 0)), likely=False):
            total = ir.Constant(_I64, 0)
            for i, distance in enumerate(distances):
                bits = builder.bitcast(builder.icmp_unsigned("<", distance, limits), _I8)
                shift = ir.Constant(_I64, i * _LANES)
                total = builder.or_(total, builder.shl(builder.zext(bits, _I64), shift))
                builder.store(builder.trunc(distance, _SMALL), chunk(near.data, i, _SMALL), align=2)
            builder.store(total, mask)
        return builder.load(mask)

    if database.layout != "C":  # the pointers above count on it
        raise TypeError("database: expected a contiguous array")
    return types.uint64(query, database, types.intp, types.uint64, near), generate


def _splat(builder, value):
    """A vector whose lanes are all `value`."""
    nothing = ir.Constant(_VECTOR, ir.Undefined)
    first = builder.insert_element(nothing, value, ir.Constant(_I32, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_I32, _LANES), [0] * _LANES))


@njit(nogil=True, cache=True)
def _next_near(query, database, keep, group, last, limit, near):
    """The next group from `group` on with an item nearer than limit that keep does not leave out -> (its place, its mask).

    The place is `last` or more where there is none before it. near (uint16 [64]) receives the distances of its items.
    """
    nothing = np.uint64(0)
    whole = min(last, database.shape[1] - GROUP + 1)
    while group < whole:
        allowed = keep[group // GROUP] if keep.size > 0 else ~nothing
        if allowed != nothing:
            mask = allowed & _compare_group(query, database, group, limit, near)
            if mask != nothing:
                if group + GROUP > last:
                    mask &= (np.uint64(1) << np.uint64(last - group)) - np.uint64(1)
                if mask != nothing:
                    return group, mask
        group += GROUP
    mask = nothing
    if group < last:
        for i in range(last - group):
            distance = nothing
            for w in range(query.size):
                distance += popcount(database[w, group + i] ^ query[w])  # type: ignore[call-arg]
            near[i] = distance
            mask |= np.uint64(distance < limit) << np.uint64(i)
        if keep.size > 0:
            mask &= keep[group // GROUP]
        if mask == nothing:
            group = last
    return group, mask


@njit(nogil=True, cache=True)
def _tile_items(database):
    return max(GROUP, _TILE_WORDS // database.shape[0] // GROUP * GROUP)


@njit(nogil=True, cache=True)
def scan_nearest(queries, database, keep, position, k, state, counts, candidates):
    """Goes on with the search for the k nearest of each query [q, words], in the next items, database [words, n].

    keep: uint64 [ceil(n / 64)], a bit an item, lowest first; empty: all items. position: of the first item.
    What a search remembers of each query, from call to call:
        state int64 [q, 3]: the limit (items must be nearer; k of them are at most so far away), how many candidates are
            nearer than the limit, and how many there are
        counts int64 [q, radii]: items taken so far, by distance
        candidates uint64 [q, k + 64 or more]: position << 16 | distance, in order of position
    """
    near = np.empty(GROUP, np.uint16)
    step = _tile_items(database)
    for first in range(0, database.shape[1], step):
        last = min(first + step, database.shape[1])
        for q in range(queries.shape[0]):
            limit, nearer, size = np.uint64(state[q, 0]), state[q, 1], np.uint64(state[q, 2])
            query, count, taken = queries[q], counts[q], candidates[q]
            group, mask = _next_near(query, database, keep, first, last, limit, near)
            while group < last:
                if size + np.uint64(GROUP) > np.uint64(taken.size):
                    size = _drop_far(taken, size, limit, k - nearer)
                start = np.uint64(position + group)
                while mask != 0:
                    i = _lowest_bit(mask)
                    mask &= mask - np.uint64(1)
                    distance = np.uint64(near[i])
                    taken[size] = ((start + i) << np.uint64(16)) | distance
                    size += np.uint64(1)
                    count[distance] += 1
                    nearer += 1
                while nearer >= k:
                    limit -= np.uint64(1)
                    nearer -= count[limit]
                group, mask = _next_near(query, database, keep, group + GROUP, last, limit, near)
            state[q, 0], state[q, 1], state[q, 2] = limit, nearer, size


@njit(nogil=True, cache=True)
def _drop_far(candidates, size, limit, ties):
    """Keeps the candidates nearer than limit and the first `ties` at it, in order; returns how many."""
    kept, left = np.uint64(0), np.uint64(ties)
    for i in range(size):
        candidate = candidates[i]
        distance = candidate & np.uint64(0xFFFF)
        tie = np.uint64(distance == limit) & np.uint64(left > 0)
        candidates[kept] = candidate  # no branch: what is dropped is overwritten by the next one
        kept += np.uint64(distance < limit) | tie
        left -= tie
    return kept


@njit(nogil=True, cache=True)
def order_nearest(state, counts, candidates, distances, positions, found):
    """The end of a search: candidates in the order (distance, position), into distances uint16 and positions int64 [q, k].

    found int64 [q] receives how many there are of each query; what lies beyond is left as it was.
    """
    k = distances.shape[1]
    place = np.empty(counts.shape[1], np.int64)
    for q in range(found.size):
        total = 0
        for distance in range(counts.shape[1]):
            place[distance] = total
            total += counts[q, distance]
        found[q] = min(total, k)
        for i in range(state[q, 2]):
            near = candidates[q, i] & np.uint64(0xFFFF)
            rank = place[near]
            if rank < k:
                place[near] = rank + 1
                distances[q, rank] = near
                positions[q, rank] = candidates[q, i] >> np.uint64(16)


@njit(nogil=True, cache=True)
def scan_within(queries, database, keep, position, places, fill, distances, positions):
    """All items of database [words, n] nearer to a query [q, words] than places has columns; keep, position as above.

    Counts them by distance in places (int64 [q, radius + 1]). With fill, places say where the next item of each distance
    belongs in distances (uint16) and positions (int64).
    """
    near = np.empty(GROUP, np.uint16)
    limit = np.uint64(places.shape[1])
    step = _tile_items(database)
    for first in range(0, database.shape[1], step):
        last = min(first + step, database.shape[1])
        for q in range(queries.shape[0]):
            query, place = queries[q], places[q]
            group, mask = _next_near(query, database, keep, first, last, limit, near)
            while group < last:
                while mask != 0:
                    i = _lowest_bit(mask)
                    mask &= mask - np.uint64(1)
                    distance = near[i]
                    if fill:
                        distances[place[distance]] = distance
                        positions[place[distance]] = np.int64(i) + position + group
                    place[distance] += 1
                group, mask = _next_near(query, database, keep, group + GROUP, last, limit, near)


@njit(nogil=True, cache=True)
def join_strips(words, strips, earlier, keep, limit, cursor, first, second, distances):
    """Pairs of items nearer than limit, within words uint64 [words, n].

    strips int64 [s, 3]: rows from, to, and where the run ends of whose later items each row is compared with.  earlier uint64
    [m, words]: a pair that agrees in all bits of one of these masks is left out.  keep is empty.  cursor int64 [4]: strip,
    block of rows, tile and row to go on with, at first 0 and three times the first row. Fills first, second (int64) and
    distances (uint16) until they might not hold a further tile; returns how many pairs. At the end cursor[0] is s.
    """
    near = np.empty(GROUP, np.uint16)
    query = np.empty(words.shape[0], np.uint64)
    step = _tile_items(words)
    size = 0
    strip, block, tile, row = cursor[0], cursor[1], cursor[2], cursor[3]
    while strip < strips.shape[0]:
        last_row, end = strips[strip, 1], strips[strip, 2]
        block_end, tile_end = min(block + GROUP, last_row), min(tile + step, end)
        while row < block_end:
            start = max(row + 1, tile)
            if size + max(tile_end - start, 0) > first.size:
                cursor[0], cursor[1], cursor[2], cursor[3] = strip, block, tile, row
                return size
            for w in range(query.size):
                query[w] = words[w, row]
            group, mask = _next_near(query, words, keep, start, tile_end, limit, near)
            while group < tile_end:
                while mask != 0:
                    i = _lowest_bit(mask)
                    mask &= mask - np.uint64(1)
                    other = group + np.int64(i)
                    if not _agree_on_one(query, words, other, earlier):
                        first[size], second[size], distances[size] = row, other, near[i]
                        size += 1
                group, mask = _next_near(query, words, keep, group + GROUP, tile_end, limit, near)
            row += 1
        # the next tile for the same rows, or the next rows, or the next strip
        tile = tile_end
        if tile >= end:
            block = tile = block_end
            if block >= last_row:
                strip += 1
                if strip < strips.shape[0]:
                    block = tile = strips[strip, 0]
        row = block
    cursor[0] = strip
    return size


@njit(nogil=True, cache=True)
def _agree_on_one(query, words, item, masks):
    for m in range(masks.shape[0]):
        differs = np.uint64(0)
        for w in range(query.size):
            differs |= (query[w] ^ words[w, item]) & masks[m, w]
        if differs == 0:
            return True
    return False

"""The compiled programs of the engine `accelerator`.

The codes of a device are uint32 [words, group, columns]: item `column * group + row` is at [:, row, column]. A scan keeps, of
each group (column), only the smallest distance: elementwise work that XLA fuses, and group times fewer values to select from.

The k nearest items lie in the k groups with the smallest minima: were one of them in another group, k groups would each have an
item before it. Groups are runs of items, so that this holds for the order (distance, item) as well. Those k groups alone are
then looked at item by item.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int32

AXIS = "items"
EXACT = 2**24  # float32 holds every whole number below
LONG = 64  # from so many values for each of the k on, they are looked at in groups
ROWS = 32  # rows of a group that one fused step looks at
PRODUCTS = 2**24  # products of one step: 64 MiB


@functools.cache
def nearest_program(mesh: Mesh, bits: int, k: int, formulation: str, masked: bool) -> Any:
    """(query uint32 [q, words], database, mask bool [group, columns] or None, items int32) -> distances and items, int32 [q, k].

    In the order (distance, item); bits + 1 where there are fewer than k. database and mask are divided over the mesh by columns.
    """

    def of_shard(query, database, mask, items):
        return _nearest_in_shard(query, database, mask, items, bits, k, formulation)

    database, mask = PartitionSpec(None, None, AXIS), PartitionSpec(None, AXIS) if masked else PartitionSpec()
    shards = jax.shard_map(
        of_shard,
        mesh=mesh,
        in_specs=(PartitionSpec(), database, mask, PartitionSpec()),
        out_specs=PartitionSpec(None, AXIS),
    )

    def nearest(query, database, mask, items):
        distances, places = shards(query, database, mask, items)
        # side by side in the order of the devices: equal distances stay in the order of the items
        distances, order = smallest(distances, k, bits + 2)
        return distances, jnp.take_along_axis(places, order, axis=1)

    return jax.jit(nearest)


@functools.cache
def count_program(mesh: Mesh, masked: bool) -> Any:
    """(query, database, mask, items, radius int32) -> int32 [q]: how many items lie within the radius."""

    def of_shard(query, database, mask, items, radius):
        columns = database.shape[2]

        def add(row, total):
            distances = _row_distances(query, database, row)
            place = (lax.axis_index(AXIS) * columns + jnp.arange(columns)) * database.shape[1] + row
            there = (distances <= radius) & (place < items)
            if mask is not None:
                there &= lax.dynamic_index_in_dim(mask, row, keepdims=False)
            return total + there.sum(axis=1, dtype=jnp.int32)

        start = lax.pcast(jnp.zeros(len(query), jnp.int32), AXIS, to="varying")
        return lax.psum(lax.fori_loop(0, database.shape[1], add, start), AXIS)

    database, mask = PartitionSpec(None, None, AXIS), PartitionSpec(None, AXIS) if masked else PartitionSpec()
    return jax.jit(
        jax.shard_map(
            of_shard,
            mesh=mesh,
            in_specs=(PartitionSpec(), database, mask, PartitionSpec(), PartitionSpec()),
            out_specs=PartitionSpec(),
        )
    )


def smallest(
    values: Int32[Array, "queries n"], k: int, limit: int
) -> tuple[Int32[Array, "queries k"], Int32[Array, "queries k"]]:
    """The k smallest values (0 to limit - 1) of each row and where they are, in the order (value, place)."""
    n = values.shape[1]
    size = 1 << round(math.log2(n / k) / 2)
    if n >= LONG * k or (limit * n > EXACT and 4 * size * k <= n):
        return _smallest_in_groups(values, k, limit, size)
    places = jnp.arange(n, dtype=jnp.int32)
    if limit * n <= EXACT:
        # No two keys are equal, so that no top_k has ties to break, and float32 is the dtype that XLA selects fast.
        keys = (values * n + places).astype(jnp.float32)
        best = -lax.top_k(-keys, k)[0].astype(jnp.int32)
        return best // n, best % n
    ordered = lax.sort((values, jnp.broadcast_to(places, values.shape)), num_keys=2)
    return ordered[0][:, :k], ordered[1][:, :k]


def _smallest_in_groups(values, k: int, limit: int, size: int):
    """`smallest`, by the minima of groups of `size` neighbours: as the scan does it."""
    values = jnp.pad(values, ((0, 0), (0, -values.shape[1] % size)), constant_values=limit - 1)
    groups = values.reshape(len(values), -1, size)
    chosen = jnp.sort(smallest(groups.min(axis=2), k, limit)[1], axis=1)
    candidates = jnp.take_along_axis(groups, chosen[:, :, None], axis=1).reshape(len(values), k * size)
    best, place = smallest(candidates, k, limit)
    return best, jnp.take_along_axis(chosen, place // size, axis=1) * size + place % size


def _nearest_in_shard(query, database, mask, items, bits: int, k: int, formulation: str):
    """distances and items, int32 [q, min(k, items of a shard)], of this device's columns."""
    _, group, columns = database.shape
    nothing = bits + 1
    first = lax.axis_index(AXIS) * columns
    chosen = min(k, columns)
    if chosen < columns:
        minima = _group_minima(query, database, mask, bits, formulation)
        minima = jnp.where((first + jnp.arange(columns)) * group < items, minima, nothing)
        # candidates stay in the order of items
        column = jnp.sort(smallest(minima, chosen, nothing + 1)[1], axis=1)
    else:
        column = lax.pcast(jnp.arange(columns)[None], AXIS, to="varying")
    distances = _distances(query[:, :, None, None], jnp.moveaxis(database[:, :, column], 1, -1))
    places = (first + column)[:, :, None] * group + jnp.arange(group)
    there = places < items
    if mask is not None:
        there &= jnp.moveaxis(mask[:, column], 0, -1)
    distances = jnp.where(there, distances, nothing).reshape(len(query), chosen * group)
    distances, order = smallest(distances, min(k, chosen * group), nothing + 1)
    places = jnp.broadcast_to(places, (len(query), chosen, group)).reshape(len(query), -1)
    return distances, jnp.take_along_axis(places, order, axis=1)


def _distances(query, words):
    """int32: differing bits of query [q, words, ...] and words [words, q or 1, ...]."""
    return sum(lax.population_count(query[:, w] ^ words[w]).astype(jnp.int32) for w in range(len(words)))


def _row_distances(query, database, row):
    """int32 [q, columns]: distances to the items of one row."""
    return _distances(query[:, :, None], lax.dynamic_index_in_dim(database, row, 1, keepdims=False)[:, None])


def _group_minima(query, database, mask, bits: int, formulation: str) -> Int32[Array, "queries columns"]:
    """The smallest distance in every group."""
    words, group, columns = database.shape
    if formulation == "matmul":
        rows = max(1, min(group, PRODUCTS // (len(query) * columns)))
        rows = 1 << (rows.bit_length() - 1)
    else:
        rows = min(group, ROWS)
    # both hold -1 and +1, and float32 their sums; the first is the one that a CPU multiplies fast
    dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
    queries = signs(query.T, dtype) if formulation == "matmul" else None

    def step(number, best):
        part = lax.dynamic_slice_in_dim(database, number * rows, rows, axis=1)
        passing = None if mask is None else lax.dynamic_slice_in_dim(mask, number * rows, rows)
        if queries is not None:
            best = jnp.minimum(best, _least_by_products(queries, part, passing, bits + 1))
        else:
            for row in range(rows):
                distances = _distances(query[:, :, None], part[:, row][:, None])
                if passing is not None:
                    distances = jnp.where(passing[row], distances, bits + 1)
                best = jnp.minimum(best, distances)
        return best

    start = lax.pcast(jnp.full((len(query), columns), bits + 1, jnp.int32), AXIS, to="varying")
    return lax.fori_loop(0, group // rows, step, start)


def _least_by_products(queries, part, passing, nothing: int) -> Int32[Array, "queries columns"]:
    """The smallest distance of each column of part [words, rows, columns], by products with queries -1/+1 [bits, q]."""
    _, rows, columns = part.shape
    database = signs(part, queries.dtype).reshape(len(queries), rows * columns)
    products = lax.dot_general(
        queries, database, (((0,), (0,)), ((), ())), preferred_element_type=jnp.float32
    )
    distances = ((len(queries) - products) / 2).astype(jnp.int32).reshape(-1, rows, columns)
    if passing is not None:
        distances = jnp.where(passing, distances, nothing)
    return distances.min(axis=1)


def signs(words, dtype):
    """-1/+1 [words * 32, ...] of uint32 [words, ...]."""
    shift = jnp.arange(32, dtype=jnp.uint32).reshape(1, 32, *[1] * (words.ndim - 1))
    bits = ((words[:, None] >> shift) & 1).astype(jnp.int8) * 2 - 1
    return bits.reshape(-1, *words.shape[1:]).astype(dtype)


def to_words(codes: np.ndarray) -> np.ndarray:
    """Packed codes uint8 [n, bytes] -> uint32 [n, words]; missing bytes are zero on both sides of a comparison."""
    if codes.shape[1] % 4:
        codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % 4)))
    return np.ascontiguousarray(codes).view(np.uint32)

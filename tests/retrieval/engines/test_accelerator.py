import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

from kdhash.retrieval.engines import accelerator, accelerator_programs, make_engine
from kdhash.retrieval.engines.accelerator import default_group
from kdhash.retrieval.filters import parse_filter
from kdhash.retrieval.nearest import nearest, within


def codes_with_ties(n, bits, seed=0):
    rng = np.random.default_rng(seed)
    few = rng.integers(0, 256, (5, bits // 8), np.uint8)
    return few[rng.integers(0, 5, n)] ^ (1 << rng.integers(0, 8, (n, bits // 8))).astype(np.uint8)


@pytest.mark.parametrize(
    ("formulation", "devices", "n", "bits"),
    [("popcount", 8, 3001, 64), ("matmul", 1, 700, 24), ("matmul", 2, 700, 256)],
)
def test_many_groups(formulation, devices, n, bits):
    """Most groups are never looked at: the nearest must be among those that are."""
    codes = codes_with_ties(n, bits)
    engine = make_engine(
        "accelerator", bits, formulation=formulation, group=4, query_block=8, devices=jax.devices()[:devices]
    )
    width = np.random.default_rng(1).integers(0, 9, n)
    engine.add(np.arange(n) + 2**33, codes, pa.table({"width": width}))
    queries = codes_with_ties(11, bits, seed=2)  # two blocks, the second padded
    found = engine.search(queries, 16)
    exact = nearest(queries, [codes], 16)
    np.testing.assert_array_equal(found.distances, exact.distances)
    np.testing.assert_array_equal(found.numbers, exact.numbers + 2**33)
    found = engine.search(queries, 16, where=parse_filter("width = 3"))
    exact = nearest(queries, [codes], 16, skip=[width != 3])
    np.testing.assert_array_equal(found.numbers, exact.numbers + 2**33)
    found = engine.search(queries, None, bits // 5)
    assert found.counts.tolist() == np.diff(within(queries, [codes], bits // 5).offsets).tolist()


@pytest.mark.parametrize(
    ("n", "k", "limit"),
    [
        (40, 25, 9),  # float32 keys
        (1000, 3, 9),  # groups
        (1000, 3, 2**23),  # groups, since float32 keys would not be exact
        (40, 25, 2**23),  # a sort, since groups would be too small
    ],
)
def test_smallest_is_the_stable_order(n, k, limit):
    values = np.random.default_rng(0).integers(0, 9, (3, n)).astype(np.int32)
    order = np.argsort(values, axis=1, kind="stable")[:, :k]
    found, places = jax.jit(accelerator_programs.smallest, static_argnums=(1, 2))(values, k, limit)
    np.testing.assert_array_equal(places, order)
    np.testing.assert_array_equal(found, np.take_along_axis(values, order, 1))


@pytest.mark.parametrize("bits", [8, 64, 256, 2048])
@pytest.mark.parametrize("items", [1, 1000, 10**6, 10**8])
def test_groups_let_float32_hold_the_keys(bits, items):
    group = default_group(items, bits)
    assert group & (group - 1) == 0
    assert 32 <= group <= 4096
    if group < 4096:
        assert items / group * (bits + 2) <= accelerator_programs.EXACT


def test_products_of_signs_are_exact_in_bfloat16():
    words = np.random.default_rng(0).integers(0, 2**32, (8, 5), dtype=np.uint32)  # 256 bits, 5 codes
    signs = accelerator_programs.signs(jnp.asarray(words), jnp.bfloat16)
    products = jnp.einsum("bi,bj->ij", signs, signs, preferred_element_type=jnp.float32)
    distances = np.bitwise_count(words[:, :, None] ^ words[:, None]).sum(axis=0)
    np.testing.assert_array_equal((256 - products) / 2, distances)


def test_memory_is_bounded_by_smaller_blocks_of_queries(monkeypatch):
    codes = codes_with_ties(600, 32)
    engine = make_engine("accelerator", 32, group=8, devices=jax.devices()[:1])
    engine.add(np.arange(600), codes)
    sizes = []
    program = accelerator_programs.nearest_program
    monkeypatch.setattr(accelerator, "CANDIDATES", 16 * 8 * 2)

    def watched(*arguments):
        run = program(*arguments)
        return lambda query, *others: sizes.append(len(query)) or run(query, *others)

    monkeypatch.setattr(accelerator_programs, "nearest_program", watched)
    found = engine.search(codes[:7], 16)
    assert sizes == [2, 2, 2, 1]
    np.testing.assert_array_equal(found.numbers, nearest(codes[:7], [codes], 16).numbers)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formulation": "sums"}, "formulation: 'sums' is unknown; there are popcount, matmul"),
        ({"query_block": 100}, "query_block: expected a power of two, got 100"),
        ({"group": 0}, "group: expected a power of two, got 0"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_engine("accelerator", 64, **options)

import threading

import numpy as np
import pytest

from kdhash.retrieval import nearest as module
from kdhash.retrieval.hamming import hamming_distances
from kdhash.retrieval.nearest import nearest, within


def make_codes(rng, n, bits, kind="uniform"):
    """Packed codes: uniform, clustered (few centres, 5 % of the bits flipped), few (8 different codes), equal, or ordered
    so that the nearest come last (every threshold is lowered to the end)."""
    if kind == "equal":
        return np.full((n, bits // 8), 0b01010101, np.uint8)
    if kind == "few":
        return rng.integers(0, 256, (8, bits // 8), np.uint8)[rng.integers(0, 8, n)]
    if kind == "clustered":
        centres = rng.random((5, bits)) < 0.5
        return np.packbits(centres[rng.integers(0, 5, n)] ^ (rng.random((n, bits)) < 0.05), axis=1)
    codes = rng.integers(0, 256, (n, bits // 8), np.uint8)
    if kind == "falling":
        codes = codes[np.argsort(-np.bitwise_count(codes).sum(axis=1, dtype=np.int64), kind="stable")]
    return codes


def cut(codes, *places):
    return np.split(codes, places)


def reference(query, blocks, skip=(), radius=None):
    """Per query (distances, positions) of all wanted items, in the stable order, from the whole matrix."""
    everything = np.concatenate(blocks)
    distances = np.bitwise_count(query[:, None] ^ everything[None]).sum(axis=2)
    wanted = np.ones(len(everything), bool)
    if skip:
        wanted = np.concatenate(
            [np.ones(len(b), bool) if s is None else ~s for b, s in zip(blocks, skip, strict=True)]
        )
    rows = []
    for row in distances:
        order = np.argsort(row, kind="stable")
        order = order[wanted[order] & (row[order] <= (row.max(initial=0) if radius is None else radius))]
        rows.append((row[order], order))
    return rows


def check_nearest(query, blocks, k, radius=None, skip=()):
    found = nearest(query, blocks, k, radius=radius, skip=skip)
    width = min(k or 10**9, sum(map(len, blocks)))
    assert found.distances.dtype == np.uint16
    assert found.numbers.dtype == found.counts.dtype == np.int64
    assert found.distances.shape == found.numbers.shape == (len(query), width)
    for row, (distances, positions) in enumerate(reference(query, blocks, skip, radius)):
        count = min(width, len(positions))
        assert found.counts[row] == count
        np.testing.assert_array_equal(found.numbers[row, :count], positions[:count])
        np.testing.assert_array_equal(found.distances[row, :count], distances[:count])
        assert (found.numbers[row, count:] == -1).all()
        assert (found.distances[row, count:] == 65535).all()


def check_within(query, blocks, radius, skip=()):
    matches = within(query, blocks, radius, skip=skip)
    expected = reference(query, blocks, skip, radius)
    assert matches.distances.dtype == np.uint16
    assert matches.positions.dtype == matches.offsets.dtype == np.int64
    np.testing.assert_array_equal(np.diff(matches.offsets), [len(positions) for _, positions in expected])
    np.testing.assert_array_equal(matches.distances, np.concatenate([row[0] for row in expected]))
    np.testing.assert_array_equal(matches.positions, np.concatenate([row[1] for row in expected]))


@pytest.mark.parametrize("bits", [8, 16, 24, 32, 48, 64, 72, 128, 192, 256, 264])
def test_every_length_of_code_in_several_blocks(backend, bits):
    rng = np.random.default_rng(bits)
    query, codes = make_codes(rng, 7, bits), make_codes(rng, 300, bits, "clustered")
    query[0] = codes[200]
    blocks = cut(codes, 64, 64, 65, 129, 200)
    skip = [None, None, np.array([True]), None, rng.random(71) < 0.5, None]
    check_nearest(query, blocks, 30, skip=skip)
    check_within(query, blocks, bits // 4, skip)


@pytest.mark.parametrize("kind", ["uniform", "clustered", "few", "equal", "falling"])
@pytest.mark.parametrize("k", [1, 2, 63, 100, 1500, 2500, 0])
def test_ties_and_k(backend, kind, k):
    rng = np.random.default_rng(k)
    query, codes = make_codes(rng, 5, 64, kind), make_codes(rng, 2000, 64, kind)
    query[:2] = codes[:2]
    check_nearest(query, cut(codes, 1999), k)
    check_nearest(query, [codes], k, radius=25)


@pytest.mark.parametrize("bits", [16, 64, 128])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 4095, 4096, 4097, 8191, 8192, 8193])
def test_sizes_around_groups_and_tiles(backend, bits, n):
    rng = np.random.default_rng(n)
    query, codes = make_codes(rng, 3, bits, "clustered"), make_codes(rng, n, bits, "clustered")
    query[0] = codes[-1]
    check_nearest(query, [codes], 10)
    check_within(query, [codes], bits // 8)


def test_widened_in_several_steps(backend, monkeypatch):
    monkeypatch.setattr("kdhash.retrieval.blocks._WIDENED", 2048)
    monkeypatch.setattr(module, "_NUMPY_ITEMS", 100)
    rng = np.random.default_rng(3)
    for bits in (24, 32, 128):
        query, codes = make_codes(rng, 4, bits), make_codes(rng, 1500, bits, "clustered")
        skip = [rng.random(700) < 0.3, rng.random(800) < 0.9]
        check_nearest(query, cut(codes, 700), 40, skip=skip)
        check_within(query, cut(codes, 700), bits // 3, skip)


@pytest.mark.parametrize("share", [0.5, 0.99, 1.0])
def test_skip(backend, share):
    rng = np.random.default_rng(0)
    query, codes = make_codes(rng, 4, 64), make_codes(rng, 1000, 64)
    skip = [rng.random(400) < share, rng.random(600) < share]
    check_nearest(query, cut(codes, 400), 20, skip=skip)
    check_nearest(query, cut(codes, 400), 2000, radius=30, skip=skip)
    check_within(query, cut(codes, 400), 30, skip)


@pytest.mark.parametrize("radius", [0, 1, 20, 64, 1000])
def test_radius_is_inclusive(backend, radius):
    rng = np.random.default_rng(1)
    codes = make_codes(rng, 900, 64)
    codes[500] = codes[3]
    check_nearest(codes[:5], [codes], 50, radius=radius)
    check_within(codes[:5], [codes], radius)


def test_nothing_to_search_or_nothing_sought(backend):
    none, some = np.zeros((0, 8), np.uint8), np.zeros((3, 8), np.uint8)
    for query, blocks, width in ((some, [], 0), (some, [none], 0), (none, [some], 3)):
        found = nearest(query, blocks, 5)
        assert found.distances.shape == found.numbers.shape == (len(query), width)
        assert found.counts.tolist() == [0] * len(query)
        matches = within(query, blocks, 64)
        assert matches.offsets.tolist() == [0] * (len(query) + 1)
        assert len(matches.distances) == len(matches.positions) == 0


@pytest.mark.parametrize("bits", [32, 64, 128])
def test_mapped_unaligned_and_strided_blocks(backend, tmp_path, bits):
    rng = np.random.default_rng(bits)
    codes = make_codes(rng, 500, bits)
    np.save(tmp_path / "codes.npy", codes)
    mapped = np.load(tmp_path / "codes.npy", mmap_mode="r")
    shifted = np.frombuffer(b"\0" + codes.tobytes(), np.uint8)[1:].reshape(codes.shape)
    assert shifted.ctypes.data % 2
    blocks = [mapped, shifted, mapped[::2], np.asfortranarray(codes)]
    check_nearest(codes[:3], blocks, 30)
    check_within(codes[:3], blocks, bits // 3)


def test_mapped_codes_of_64_bits_are_not_copied(backend, tmp_path):
    codes = make_codes(np.random.default_rng(0), 200, 64)
    np.save(tmp_path / "codes.npy", codes)
    mapped = np.load(tmp_path / "codes.npy", mmap_mode="r")
    [tile] = module.tiles_of(module.pieces_of([mapped], (), 8))
    assert np.shares_memory(tile.words, mapped)
    assert not tile.words.flags.writeable


@pytest.mark.parametrize("queries", [1, 3, 150])
def test_threads_share_out_queries_or_the_database(monkeypatch, queries):
    numba = pytest.importorskip("numba")
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("one core only")
    monkeypatch.setenv("KDHASH_HAMMING", "numba")
    monkeypatch.setattr(module, "_LARGE", 0)
    rng = np.random.default_rng(queries)
    query, codes = make_codes(rng, queries, 64), make_codes(rng, 3001, 64, "clustered")
    blocks = cut(codes, 100, 1000)
    skip = [None, rng.random(900) < 0.5, rng.random(2001) < 0.5]
    before = numba.get_num_threads()
    try:
        numba.set_num_threads(2)
        pieces = module.pieces_of(blocks, skip, 8)
        assert len(module._share_out(queries, pieces)) == (2 if queries < 16 else 1)
        check_nearest(query, blocks, 50, skip=skip)
        check_nearest(query, blocks, 3001, skip=skip)
        check_within(query, blocks, 25, skip)
    finally:
        numba.set_num_threads(before)


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_divide_keeps_every_item_and_its_skip(parts):
    rng = np.random.default_rng(parts)
    blocks = [make_codes(rng, n, 16) for n in (5, 700, 64, 1, 200)]
    skip = [rng.random(len(block)) < 0.5 for block in blocks]
    lists = module.divide(module.pieces_of(blocks, skip, 2), parts)
    assert 1 <= len(lists) <= parts
    pieces = [piece for part in lists for piece in part]
    np.testing.assert_array_equal(np.concatenate([piece.codes for piece in pieces]), np.concatenate(blocks))
    kept = [
        np.unpackbits(piece.keep.view(np.uint8), bitorder="little")[: len(piece.codes)].astype(bool)
        for piece in pieces
    ]
    np.testing.assert_array_equal(np.concatenate(kept), ~np.concatenate(skip))
    starts = np.cumsum([0] + [len(piece.codes) for piece in pieces])[:-1]
    assert [piece.position for piece in pieces] == starts.tolist()


def test_searches_from_several_threads_at_once(backend):
    rng = np.random.default_rng(3)
    query, codes = make_codes(rng, 70, 64), make_codes(rng, 900, 64)
    expected = nearest(query, [codes], 10).numbers
    results: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: results.append(nearest(query, [codes], 10).numbers)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_thousands_of_bits_at_their_greatest_distance(backend):
    query = np.zeros((1, 8191), np.uint8)
    found = nearest(query, [~query, query], 2)
    assert found.distances.tolist() == [[0, 65528]]
    assert found.numbers.tolist() == [[1, 0]]
    np.testing.assert_array_equal(hamming_distances(query, ~query), [[65528]])


@pytest.mark.parametrize(
    ("query", "blocks", "settings", "message"),
    [
        (np.ones((2, 8)), [np.ones((2, 8), np.uint8)], {}, "query: expected packed codes"),
        (np.ones((2, 8), np.uint8), [np.ones((2, 8))], {}, "block 0: expected packed codes"),
        (np.ones((2, 8), np.uint8), [np.ones((2, 4), np.uint8)], {}, "block 0 has codes of 32 bits, not of 64"),
        (np.ones((2, 8), np.uint8), [np.ones((2, 8), np.uint8)], {"k": -1}, "k: expected a positive"),
        (np.ones((2, 8), np.uint8), [np.ones((2, 8), np.uint8)], {"radius": -1}, "radius: expected a number of bits"),
        (np.ones((2, 8), np.uint8), [np.ones((2, 8), np.uint8)], {"skip": [None, None]}, "got 2 for 1 blocks"),
        (
            np.ones((2, 8), np.uint8),
            [np.ones((2, 8), np.uint8)],
            {"skip": [np.zeros(3, bool)]},
            r"skip of block 0: expected bool \[2\], got bool \(3,\)",
        ),
        (np.ones((1, 2**13), np.uint8), [np.ones((1, 2**13), np.uint8)], {}, "at most 65,528 bits"),
    ],
)  # fmt: skip
def test_errors(query, blocks, settings, message):
    with pytest.raises(ValueError, match=message):
        nearest(query, blocks, **{"k": 1} | settings)

import subprocess
import sys
import threading

import numpy as np
import pytest

from kdhash.retrieval import hamming, hamming_distances, pack_codes, search


def random_codes(rng, n, bits):
    return rng.choice(np.array([-1, 1], np.int8), (n, bits))


def reference_distances(query, database):
    return (query[:, None] != database[None]).sum(axis=2)


@pytest.mark.parametrize("bits", [8, 16, 24, 40, 64, 72, 120, 128, 192, 256, 1024])
def test_distances(backend, bits):
    rng = np.random.default_rng(bits)
    query, database = random_codes(rng, 9, bits), random_codes(rng, 130, bits)
    database[0], database[1] = query[0], -query[0]
    got = hamming_distances(pack_codes(query), pack_codes(database))
    assert got.dtype == np.uint16
    np.testing.assert_array_equal(got, reference_distances(query, database))
    assert got[0, 0] == 0
    assert got[0, 1] == bits


@pytest.mark.parametrize("bits", [8, 16, 64, 72, 256])
@pytest.mark.parametrize("k", [1, 7, 129, 130, 1000, 0])
def test_search_is_the_stable_order(backend, bits, k):
    rng = np.random.default_rng(bits)
    query, database = random_codes(rng, 21, bits), random_codes(rng, 130, bits)
    database[40:90] = database[:50]
    exact = reference_distances(query, database)
    order = np.argsort(exact, axis=1, kind="stable")[:, : k or None]
    distances, indices = search(pack_codes(query), pack_codes(database), k)
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_array_equal(distances, np.take_along_axis(exact, order, axis=1))
    assert indices.dtype == np.int32


def test_search_over_many_tiles(backend):
    rng = np.random.default_rng(5)
    query, database = random_codes(rng, 3, 32), random_codes(rng, 10_007, 32)
    order = np.argsort(reference_distances(query, database), axis=1, kind="stable")
    np.testing.assert_array_equal(search(pack_codes(query), pack_codes(database), 250)[1], order[:, :250])


def test_oracle_top_100(backend, oracle):
    values = oracle("metrics")
    for case in ("c0", "c1", "c2", "c3"):
        query, database = (pack_codes(values[f"{case}.{side}_codes"]) for side in ("query", "db"))
        np.testing.assert_array_equal(search(query, database, 100)[1], values[f"{case}.top100_ids"])


def test_read_only_sliced_and_memory_mapped_codes(backend, tmp_path):
    rng = np.random.default_rng(1)
    packed = pack_codes(random_codes(rng, 50, 128))
    expected = search(packed[:5].copy(), packed[::2].copy(), 4)[1]
    np.save(tmp_path / "codes.npy", packed)
    mapped = np.load(tmp_path / "codes.npy", mmap_mode="r")
    np.testing.assert_array_equal(search(mapped[:5], mapped[::2], 4)[1], expected)
    # one byte into a buffer: words that are not aligned
    shifted = np.frombuffer(b"\0" + packed.tobytes(), np.uint8)[1:].reshape(packed.shape)
    np.testing.assert_array_equal(search(shifted[:5], shifted[::2], 4)[1], expected)


def test_empty_sides(backend):
    none, some = np.zeros((0, 8), np.uint8), np.zeros((3, 8), np.uint8)
    assert search(none, some, 2)[1].shape == (0, 2)
    assert search(some, none, 2)[1].shape == (3, 0)
    assert hamming_distances(none, some).shape == (0, 3)


@pytest.mark.parametrize(
    ("query", "database", "k", "message"),
    [
        (np.ones((2, 8)), np.ones((2, 8), np.uint8), 1, "query: expected packed codes"),
        (np.ones((2, 8), np.uint8), np.ones((2, 8), np.int8), 1, "database: expected packed codes"),
        (np.ones((2, 8), np.uint8), np.ones((2, 4), np.uint8), 1, "64 bits, database of 32"),
        (np.ones((2, 8), np.uint8), np.ones((2, 8), np.uint8), -1, "k: expected a positive"),
        (np.ones((1, 2**13), np.uint8), np.ones((1, 2**13), np.uint8), 1, "at most 65,528 bits"),
    ],
)
def test_errors(query, database, k, message):
    with pytest.raises(ValueError, match=message):
        search(query, database, k)


def test_backend_setting(monkeypatch):
    monkeypatch.setenv("KDHASH_HAMMING", "numpy")
    assert hamming.kernels() is None
    monkeypatch.setenv("KDHASH_HAMMING", "cuda")
    with pytest.raises(ValueError, match="KDHASH_HAMMING: expected auto, numba or numpy, got 'cuda'"):
        hamming.kernels()
    monkeypatch.setattr(hamming, "_import_kernels", lambda: None)
    monkeypatch.setenv("KDHASH_HAMMING", "auto")
    assert hamming.kernels() is None
    monkeypatch.setenv("KDHASH_HAMMING", "numba")
    with pytest.raises(ImportError, match="pip install numba"):
        hamming.kernels()


def test_works_where_numba_cannot_be_imported():
    program = (
        "import sys; sys.modules['numba'] = None\n"
        "import numpy as np\n"
        "from kdhash.retrieval import evaluate, search\n"
        "codes = np.arange(40, dtype=np.uint8).reshape(5, 8)\n"
        "assert search(codes, codes, 1)[1].ravel().tolist() == [0, 1, 2, 3, 4]\n"
        "assert 0 < evaluate(codes, codes, np.arange(5), np.arange(5))['map@all'] <= 1\n"
        "assert 'jax' not in sys.modules\n"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_thread_count_is_respected_and_changes_nothing(monkeypatch):
    numba = pytest.importorskip("numba")
    monkeypatch.setenv("KDHASH_HAMMING", "numba")
    packed = pack_codes(random_codes(np.random.default_rng(2), 300, 64))
    before = numba.get_num_threads()
    seen = {}
    try:
        for threads in {1, min(2, numba.config.NUMBA_NUM_THREADS)}:
            numba.set_num_threads(threads)
            names = set(hamming.map_query_blocks(lambda _: threading.get_ident(), 1000, 1))
            assert len(names) <= threads
            seen[threads] = search(packed, packed, 20)
    finally:
        numba.set_num_threads(before)
    first, *others = seen.values()
    for other in others:
        np.testing.assert_array_equal(first, other)


def test_searches_from_several_threads_at_once(backend):
    packed = pack_codes(random_codes(np.random.default_rng(3), 400, 64))
    expected = search(packed, packed, 10)[1]
    results: list[np.ndarray] = []
    threads = [
        threading.Thread(target=lambda: results.append(search(packed, packed, 10)[1])) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 6
    for result in results:
        np.testing.assert_array_equal(result, expected)


def test_an_error_in_a_block_surfaces():
    def fail(rows):
        raise RuntimeError(f"rows {rows.start}")

    with pytest.raises(RuntimeError, match="rows 0"):
        hamming.map_query_blocks(fail, 10, 2)

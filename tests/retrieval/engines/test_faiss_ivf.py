import numpy as np
import pytest

from kdhash.retrieval.engines import ivf, make_engine, open_engine
from kdhash.retrieval.filters import parse_filter
from kdhash.retrieval.mapped import DamagedFile
from kdhash.retrieval.nearest import nearest


def clustered(n, seed=0, centres=40, share=0.04):
    rng = np.random.default_rng(seed)
    middle = np.random.default_rng(99).random((centres, 64)) < 0.5
    return np.packbits(middle[rng.integers(0, centres, n)] ^ (rng.random((n, 64)) < share), axis=1)


def filled(codes, **options):
    engine = make_engine("faiss_ivf", 64, **options)
    engine.add(np.arange(len(codes)) + 2**35, codes)
    return engine


def test_recall_is_what_was_asked_for_and_reported():
    codes, queries = clustered(6000), clustered(50, seed=1)
    engine = filled(codes, lists=64, recall=0.95)
    assert engine.recall is None
    assert engine.probes is None
    found = engine.search(queries, 100)
    assert engine.recall >= 0.95
    assert engine.probes < 64
    exact = nearest(queries, [codes], 100).distances
    hits = [(row <= last).sum() / 100 for row, last in zip(found.distances, exact[:, -1], strict=True)]
    assert engine.measure_recall(queries) == pytest.approx(np.mean(hits))
    assert np.mean(hits) > 0.9


def test_codes_without_clusters_need_more_lists():
    even = np.random.default_rng(0).integers(0, 256, (6000, 8), np.uint8)
    sides = [filled(codes, lists=64, recall=0.95) for codes in (clustered(6000), even)]
    for engine in sides:
        engine.build()
        assert engine.recall >= 0.95
    assert sides[0].probes < sides[1].probes


def test_with_all_lists_it_is_exact():
    codes, queries = clustered(2000), clustered(20, seed=1)
    engine = filled(codes, lists=16, recall=1.0)
    engine.build()
    engine._index.nprobe = 16
    np.testing.assert_array_equal(
        engine.search(queries, 30).distances, nearest(queries, [codes], 30).distances
    )
    assert engine.measure_recall(queries, 30) == 1


def test_recall_of_counts_ties_and_not_the_query_itself():
    exact = np.array([[0, 2, 3, 3, 5], [0, 1, 1, 1, 1]], np.uint16)
    found = np.array([[0, 3, 5, 5, 7], [0, 1, 1, 1, 1]], np.uint16)
    np.testing.assert_allclose(ivf.recall_of(found, exact, False), [4 / 5, 1])
    np.testing.assert_allclose(ivf.recall_of(found, exact, True), [3 / 4, 1])
    np.testing.assert_allclose(ivf.recall_of(found[:, :2], exact, True), [1 / 4, 1 / 4])
    assert ivf.recall_of(exact[:, :1], exact[:, :1], True).tolist() == [1, 1]


def test_items_that_come_later_are_found_and_lists_are_made_anew_when_these_are_many():
    codes, more = clustered(6000), clustered(20_000, seed=3)
    engine = filled(codes, lists=16)
    engine.search(codes[:1], 1)
    first = engine._index
    engine.add(np.arange(1000), more[:1000])
    assert engine.search(more[:50], 1).distances.max() == 0
    assert engine._index is first
    assert engine.delete(np.arange(500)) == 500
    assert not np.isin(engine.search(more[:50], 20).numbers, np.arange(500)).any()
    engine.add(np.arange(10_000, 29_000), more[1000:])
    engine.search(codes[:1], 1)
    assert engine._index is not first


def test_a_filtered_search_is_exact():
    import pyarrow as pa

    codes, queries = np.random.default_rng(0).integers(0, 256, (3000, 8), np.uint8), clustered(9)
    engine = make_engine("faiss_ivf", 64, lists=64, recall=0.1)
    keep = np.arange(3000) % 5 == 2
    engine.add(np.arange(3000), codes, pa.table({"part": np.arange(3000) % 5}))
    found = engine.search(queries, 30, where=parse_filter("part = 2"))
    np.testing.assert_array_equal(found.numbers, nearest(queries, [codes], 30, skip=[~keep]).numbers)


def test_lists_are_saved(tmp_path):
    codes = clustered(5000)
    engine = filled(codes, lists=32)
    found = engine.search(codes[:9], 20)
    engine.save(tmp_path / "saved")
    opened = open_engine(tmp_path / "saved")
    assert (opened.recall, opened.probes) == (engine.recall, engine.probes)
    np.testing.assert_array_equal(opened.search(codes[:9], 20).distances, found.distances)
    file = tmp_path / "saved" / "ivf.faiss"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(DamagedFile, match="ivf.faiss has changed since it was written"):
        ivf.read_ivf(file)
    file.write_bytes(content[:-3])
    with pytest.raises(DamagedFile, match="ivf.faiss is truncated"):
        ivf.read_ivf(file)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"recall": 0}, "recall: expected a share from 0 to 1, got 0"),
        ({"recall": 1.5}, "recall: expected a share from 0 to 1, got 1.5"),
        ({"lists": 0}, "lists: expected 1 or more, got 0"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make_engine("faiss_ivf", 64, **options)


def test_lists_without_items_are_refused():
    with pytest.raises(ValueError, match="no items: add some"):
        make_engine("faiss_ivf", 64).build()


@pytest.mark.parametrize(
    ("items", "lists"), [(0, 1), (4095, 1), (4096, 64), (10**6, 1024), (10**7, 4096), (10**10, 2**16)]
)
def test_number_of_lists(items, lists):
    assert ivf.lists_for(items) == lists

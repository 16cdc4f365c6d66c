import tracemalloc

import numpy as np
import pytest

from kdhash.retrieval import (
    average_precision,
    count_by_distance,
    evaluate,
    mean_average_precision,
    ndcg_at_k,
    pack_codes,
    precision_at_k,
    precision_at_many_k,
    precision_within_radius,
    recall_at_k,
)


def problem(queries=12, items=300, bits=64, classes=5, seed=0, several=False):
    """Random codes around one centre a class, and class indices or a 0/1 matrix."""
    rng = np.random.default_rng(seed)
    centres = rng.choice([-1, 1], (classes, bits))
    labels = [rng.integers(0, classes, n) for n in (queries, items)]
    codes = [centres[side] * np.where(rng.random((len(side), bits)) < 0.3, -1, 1) for side in labels]
    if several:
        labels = [(rng.random((n, classes)) < 0.3).astype(np.int8) for n in (queries, items)]
    return pack_codes(codes[0]), pack_codes(codes[1]), *labels


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("bits", [8, 24, 64, 72, 128, 256])
def test_counts_by_brute_force(backend, bits, several):
    query, database, query_labels, database_labels = problem(bits=bits, several=several)
    distance = np.bitwise_count(query[:, None] ^ database).sum(axis=2)
    shared = (
        query_labels @ database_labels.T
        if several
        else (query_labels[:, None] == database_labels).astype(int)
    )
    counts = count_by_distance(query, database, query_labels, database_labels)
    for radius in range(bits + 1):
        np.testing.assert_array_equal(counts.items[:, radius], (distance == radius).sum(axis=1))
        np.testing.assert_array_equal(
            counts.hits[:, radius], ((distance == radius) & (shared > 0)).sum(axis=1)
        )
        gains = np.where(distance == radius, 2.0**shared - 1, 0).sum(axis=1)
        np.testing.assert_allclose(counts.gains[:, radius], gains)
    for number in range(counts.by_shared.shape[1]):
        np.testing.assert_array_equal(counts.by_shared[:, number], (shared == number).sum(axis=1))


@pytest.mark.parametrize(("classes", "several"), [(2, False), (150, False), (150, True)])
def test_both_paths_agree_on_several_tiles_and_more_than_64_classes(monkeypatch, classes, several):
    pytest.importorskip("numba")
    arguments = problem(queries=20, items=9001, bits=48, classes=classes, several=several)
    results = []
    for name in ("numba", "numpy"):
        monkeypatch.setenv("KDHASH_HAMMING", name)
        results.append(count_by_distance(*arguments))
    for compiled, plain in zip(*results, strict=True):
        np.testing.assert_array_equal(compiled, plain)


def test_more_cells_than_16_bits_hold(backend):
    query, database, *_ = problem(bits=2048, queries=3, items=40)
    labels = np.ones((3, 40), np.int8), np.ones((40, 40), np.int8)
    counts = count_by_distance(query, database, *labels)
    np.testing.assert_array_equal(counts.by_shared[:, 40], [40, 40, 40])
    np.testing.assert_array_equal(counts.hits, counts.items)


def test_both_forms_of_single_labels_agree(backend):
    query, database, query_labels, database_labels = problem()
    one_hot = np.eye(5, dtype=bool)
    indices = evaluate(query, database, query_labels, database_labels, ks=(20, 0))
    matrix = evaluate(query, database, one_hot[query_labels], one_hot[database_labels], ks=(20, 0))
    assert indices.keys() == matrix.keys()
    for name, value in indices.items():
        np.testing.assert_allclose(value, matrix[name], atol=1e-14)


def test_queries_without_a_relevant_item_count_as_zero(backend):
    query, database, query_labels, database_labels = problem()
    query_labels = query_labels.copy()
    query_labels[:6] = -7
    for ties in ("expected", "stable"):
        for k in (1, 10, 0):
            for denominator in ("hits", "min", "all"):
                values = average_precision(
                    query, database, query_labels, database_labels, k, ties=ties, denominator=denominator
                )
                assert (values[:6] == 0).all()
                assert values[6:].sum() > 0 or k == 1
                mean = mean_average_precision(
                    query, database, query_labels, database_labels, k, ties=ties, denominator=denominator
                )
                np.testing.assert_allclose(mean, values.sum() / 12)
            for metric in (recall_at_k, ndcg_at_k, precision_at_k):
                assert (metric(query, database, query_labels, database_labels, k, ties=ties)[:6] == 0).all()


def test_nothing_relevant_at_all(backend):
    query, database, query_labels, database_labels = problem()
    got = evaluate(query, database, query_labels, database_labels + 100)
    assert all(np.all(value == 0) for name, value in got.items() if name not in ("curve_radius", "curve_k"))


def test_k_beyond_the_database_means_all(backend):
    arguments = problem()
    for metric in (average_precision, precision_at_k, recall_at_k, ndcg_at_k):
        for ties in ("expected", "stable"):
            whole = metric(*arguments, None, ties=ties)
            np.testing.assert_array_equal(metric(*arguments, 0, ties=ties), whole)
            np.testing.assert_array_equal(metric(*arguments, 300, ties=ties), whole)
            np.testing.assert_array_equal(metric(*arguments, 10_000, ties=ties), whole)
    np.testing.assert_array_equal(
        precision_at_many_k(*arguments, [300]), precision_at_many_k(*arguments, [0])
    )


def test_a_perfect_and_a_hopeless_search(backend):
    codes = pack_codes(np.repeat([[1], [-1]], 64, axis=1))
    labels = np.array([0, 1])
    got = evaluate(codes, codes, labels, labels, ks=(1, 0))
    for name in ("map@all", "map@1", "map@1_min", "map@1_stable", "precision@1", "recall@1", "ndcg@all"):
        assert got[name] == 1, name
    got = evaluate(codes, codes, labels, labels[::-1], ks=(1, 0))
    np.testing.assert_allclose(got["map@all"], 0.5, rtol=1e-15)
    assert got["map@1"] == got["precision_radius2"] == 0


def test_one_tie_group_is_half_a_metric(backend):
    """All codes equal: with one hit among two items the expected AP is (1 + 1/2) / 2."""
    codes = np.zeros((2, 8), np.uint8)
    got = average_precision(codes[:1], codes, np.array([0]), np.array([0, 1]))
    np.testing.assert_allclose(got, 0.75)
    assert average_precision(codes[:1], codes, np.array([0]), np.array([0, 1]), ties="stable")[0] == 1


def test_expected_values_do_not_depend_on_the_order_of_the_database(backend):
    query, database, query_labels, database_labels = problem(bits=8, items=500)
    order = np.random.default_rng(3).permutation(500)
    for k in (7, 100, 0):
        np.testing.assert_allclose(
            average_precision(query, database, query_labels, database_labels, k),
            average_precision(query, database[order], query_labels, database_labels[order], k),
            atol=1e-14,
        )


def test_radius_beyond_the_bits_is_everything(backend):
    arguments = problem()
    everything = precision_at_k(*arguments)
    np.testing.assert_allclose(precision_within_radius(*arguments, 64), everything)
    np.testing.assert_allclose(precision_within_radius(*arguments, 1000), everything)


def test_no_matrix_of_all_pairs_is_made(backend):
    arguments = problem(queries=400, items=20_000)
    count_by_distance(*arguments)
    tracemalloc.start()
    count_by_distance(*arguments)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # two bytes a pair would be 16 MB; NumPy works on 16 queries at a time, in 8-byte cells
    assert peak < 9e6


def with_changes(**changes):
    names = ("query", "database", "query_labels", "database_labels")
    return tuple((dict(zip(names, problem(), strict=True)) | changes).values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query": np.ones((12, 8))}, "query: expected packed codes"),
        ({"query": np.ones((12, 4), np.uint8)}, "codes of 32 bits, database of 64"),
        ({"query": np.ones((0, 8), np.uint8), "query_labels": np.ones(0, int)}, "query: no codes"),
        ({"database": np.ones((0, 8), np.uint8), "database_labels": np.ones(0, int)}, "database: no codes"),
        ({"query_labels": np.ones(11, int)}, r"query_labels: expected \[12\]"),
        ({"database_labels": np.ones((300, 2, 2), int)}, r"database_labels: expected \[300\]"),
        ({"query_labels": np.ones(12)}, "query_labels: class indices must be integers"),
        ({"query_labels": np.full((12, 3), 2)}, "query_labels: a label matrix holds 0 and 1 only"),
        ({"query_labels": np.ones((12, 3), int)}, "same form and number of classes"),
        ({"query_labels": np.ones((12, 0), int)}, "query_labels: expected"),
        (
            {"query_labels": np.ones((12, 300), int), "database_labels": np.ones((300, 300), int)},
            "at most 255",
        ),
    ],
)
def test_errors_name_the_argument(changes, message):
    with pytest.raises(ValueError, match=message):
        average_precision(*with_changes(**changes))


def test_errors_of_the_words_and_numbers():
    arguments = problem()
    with pytest.raises(ValueError, match="ties: expected one of"):
        average_precision(*arguments, ties="random")
    with pytest.raises(ValueError, match="ties: expected one of"):
        ndcg_at_k(*arguments, ties="relevant_first")
    with pytest.raises(ValueError, match="denominator: expected one of"):
        average_precision(*arguments, denominator="R", ties="stable")
    with pytest.raises(ValueError, match="k: expected a positive"):
        average_precision(*arguments, -1)
    with pytest.raises(ValueError, match="k: expected a positive"):
        evaluate(*arguments, ks=(-1,))
    with pytest.raises(ValueError, match="radius: expected 0 bits or more"):
        precision_within_radius(*arguments, -1)

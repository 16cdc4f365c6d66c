import numpy as np
import pytest

from kdhash.retrieval import float_map
from kdhash.retrieval.features import _descending


def plain_map(similarity, relevant, k):
    """mAP@k in stable descending order, one query at a time."""
    values = []
    for row, hits in zip(similarity, relevant, strict=True):
        ranked = hits[np.argsort(-row, kind="stable")][:k]
        found = ranked.cumsum()
        values.append((ranked * found / np.arange(1, len(ranked) + 1)).sum() / max(found[-1], 1))
    return np.mean(values)


@pytest.mark.parametrize("several", [False, True])
def test_against_a_plain_loop(backend, several):
    rng = np.random.default_rng(0)
    # small whole numbers: cosines are the same in any order of summation, and many are equal
    query, database = rng.integers(0, 2, (70, 6)).astype(float), rng.integers(0, 2, (500, 6)).astype(float)
    query[0] = database[0] = 0
    if several:
        labels = [(rng.random((n, 9)) < 0.2).astype(np.int8) for n in (70, 500)]
        relevant = (labels[0] @ labels[1].T > 0).astype(int)
    else:
        labels = [rng.integers(0, 4, n) for n in (70, 500)]
        relevant = (labels[0][:, None] == labels[1]).astype(int)
    unit = [
        (side / np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-8)).astype(np.float32)
        for side in (query, database)
    ]
    similarity = unit[0] @ unit[1].T
    got = float_map(query, database, *labels, ks=(10, 0, 10_000))
    assert list(got) == ["map@10", "map@all", "map@10000"]
    np.testing.assert_allclose(got["map@10"], plain_map(similarity, relevant, 10), atol=2e-3)
    np.testing.assert_allclose(got["map@all"], plain_map(similarity, relevant, 500), atol=2e-3)
    assert got["map@10000"] == got["map@all"]


def test_distinct_similarities_exactly(backend):
    rng = np.random.default_rng(1)
    query, database = rng.normal(size=(40, 16)), rng.normal(size=(300, 16))
    labels = rng.integers(0, 3, 40), rng.integers(0, 3, 300)
    unit = [side / np.linalg.norm(side, axis=1, keepdims=True) for side in (query, database)]
    relevant = (labels[0][:, None] == labels[1]).astype(int)
    got = float_map(query, database, *labels, ks=(25, 0))
    np.testing.assert_allclose(got["map@25"], plain_map(unit[0] @ unit[1].T, relevant, 25), atol=1e-12)
    np.testing.assert_allclose(got["map@all"], plain_map(unit[0] @ unit[1].T, relevant, 300), atol=1e-12)


def test_order_is_stable_and_descending_for_every_kind_of_float():
    rng = np.random.default_rng(2)
    values = np.concatenate(
        [rng.normal(size=200), [0.0, -0.0, 0.0, -0.0, 1, 1, -1, -1, 1e-40, -1e-40], rng.integers(-3, 3, 200)]
    ).astype(np.float32)[None]
    np.testing.assert_array_equal(_descending(values), np.argsort(-values, axis=1, kind="stable"))


def test_scale_does_not_matter():
    rng = np.random.default_rng(3)
    query, database = rng.normal(size=(20, 8)), rng.normal(size=(90, 8))
    labels = rng.integers(0, 3, 20), rng.integers(0, 3, 90)
    scaled = database * 2.0 ** rng.integers(-9, 9, (90, 1))
    assert float_map(query, database, *labels) == float_map(query, scaled, *labels)


@pytest.mark.parametrize(
    ("query", "database", "message"),
    [
        (np.ones((2, 3)), np.ones((2, 4)), "query_features have 3 columns, database_features 4"),
        (np.ones(3), np.ones((2, 3)), "query_features: expected"),
        (np.ones((2, 3)), np.ones((0, 3)), "database_features: expected"),
        (
            np.ones((2, 3)),
            np.array([[0, 1, 2], [np.inf, 1, 2.0]]),
            "database_features: NaN or infinity in row 1",
        ),
    ],
)
def test_errors(query, database, message):
    with pytest.raises(ValueError, match=message):
        float_map(query, database, np.ones(len(query), int), np.ones(len(database), int))

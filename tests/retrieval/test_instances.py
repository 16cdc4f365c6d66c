"""Instance-level recall against every order of small tied lists, and against a plain ranking where nothing ties."""

import itertools

import numpy as np
import pytest

from kdhash.retrieval import hamming_distances, instance_recall, pack_codes

RNG = np.random.default_rng(0)


def over_all_orders(distances, own, k):
    """The share of all orders that respect the distances in which one of the query's own is among the first k."""
    found = [
        any(own[i] for i in order[:k])
        for order in itertools.permutations(range(len(distances)))
        if all(distances[a] <= distances[b] for a, b in itertools.pairwise(order))
    ]
    return np.mean(found)


def test_ties_are_resolved_exactly():
    query, database = (pack_codes(RNG.choice([-1, 1], (count, 8))) for count in (5, 7))
    database[[1, 4]] = database[0]
    database[5] = database[2]
    owners, owned = np.arange(5), np.array([0, 1, 1, 2, 3, 0, 2])
    distances = hamming_distances(query, database)
    found = instance_recall(query, database, owners, owned, (1, 2, 5, 7))
    for k in (1, 2, 5, 7):
        expected = [
            over_all_orders(row, owned == owner, k) for row, owner in zip(distances, owners, strict=True)
        ]
        assert found[f"recall@{k}"] == pytest.approx(np.mean(expected), abs=1e-12)
    assert found["recall@7"] == pytest.approx(0.8)  # the last query owns nothing


def test_one_caption_of_five_is_enough():
    captions = RNG.choice([-1, 1], (40, 5, 64))
    pictures = captions[:, 3]  # each picture has the code of one of its captions
    owners = np.arange(40)
    to_text = (pack_codes(pictures), pack_codes(captions.reshape(200, 64)), owners, np.repeat(owners, 5))
    assert instance_recall(*to_text) == {"recall@1": 1.0, "recall@5": 1.0, "recall@10": 1.0}
    to_picture = (to_text[1], to_text[0], to_text[3], to_text[2])
    assert 0.2 <= instance_recall(*to_picture)["recall@1"] < 0.4


def test_owners_that_do_not_fit_are_an_error():
    codes = pack_codes(RNG.choice([-1, 1], (4, 16)))
    with pytest.raises(ValueError, match="query_labels"):
        instance_recall(codes, codes, np.arange(3), np.arange(4))

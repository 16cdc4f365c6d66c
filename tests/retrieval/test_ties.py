"""The closed forms against enumeration of every order of tied items, and against high precision."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest

from kdhash.retrieval import average_precision, ndcg_at_k, precision_at_k, recall_at_k
from kdhash.retrieval.counts import DistanceCounts
from kdhash.retrieval.expected import _place_sums, expected_average_precision


def all_orders(distances):
    """Every order of the items in which no nearer item comes after a farther one."""
    groups = [np.flatnonzero(distances == value) for value in np.unique(distances)]
    for parts in itertools.product(*(itertools.permutations(group) for group in groups)):
        yield np.array([item for part in parts for item in part])


def plain_ap(relevant, k, denominator):
    total = hits = 0.0
    for rank, hit in enumerate(relevant[:k], 1):
        hits += hit
        total += hit * hits / rank
    below = {"hits": hits, "min": min(k, relevant.sum()), "all": relevant.sum()}[denominator]
    return total / below if below else 0.0


def plain_ndcg(gains, k):
    discounts = 1 / np.log2(np.arange(2, k + 2))
    ideal = (np.sort(gains)[::-1][:k] * discounts).sum()
    return (gains[:k] * discounts).sum() / ideal if ideal else 0.0


def tiny_problem(seed):
    """One query of all-zero bits and seven items whose distances collide; up to two of three labels each."""
    rng = np.random.default_rng(seed)
    distances = np.sort(rng.choice([0, 1, 3, 8], 7, p=[0.15, 0.45, 0.3, 0.1]))
    rng.shuffle(distances)
    database = np.array([[(1 << int(d)) - 1] for d in distances], np.uint8)
    labels = (rng.random((7, 3)) < 0.4).astype(np.int8)
    query_labels = np.array([[1, 1, 0]], np.int8)
    return distances, (np.zeros((1, 1), np.uint8), database, query_labels, labels)


@pytest.mark.parametrize("seed", range(6))
def test_expectations_by_enumeration(backend, seed):
    distances, arguments = tiny_problem(seed)
    shared = (arguments[3] @ arguments[2][0]).astype(int)
    relevant, gains = (shared > 0).astype(int), 2.0**shared - 1
    orders = list(all_orders(distances))
    for k in range(1, 8):
        for denominator in ("hits", "min", "all"):
            values = [plain_ap(relevant[order], k, denominator) for order in orders]
            got = average_precision(*arguments, k, denominator=denominator)
            np.testing.assert_allclose(got, np.mean(values), atol=1e-13)
            if denominator != "hits":
                best = average_precision(*arguments, k, denominator=denominator, ties="relevant_first")
                worst = average_precision(*arguments, k, denominator=denominator, ties="relevant_last")
                np.testing.assert_allclose([best[0], worst[0]], [max(values), min(values)], atol=1e-13)
        found = np.mean([relevant[order][:k].sum() for order in orders])
        np.testing.assert_allclose(precision_at_k(*arguments, k), found / k, atol=1e-13)
        np.testing.assert_allclose(recall_at_k(*arguments, k), found / max(relevant.sum(), 1), atol=1e-13)
        ndcg = np.mean([plain_ndcg(gains[order], k) for order in orders])
        np.testing.assert_allclose(ndcg_at_k(*arguments, k), ndcg, atol=1e-13)


@pytest.mark.parametrize("seed", range(6))
def test_stable_order(backend, seed):
    distances, arguments = tiny_problem(seed)
    shared = (arguments[3] @ arguments[2][0]).astype(int)[np.argsort(distances, kind="stable")]
    for k in range(1, 8):
        for denominator in ("hits", "min", "all"):
            got = average_precision(*arguments, k, ties="stable", denominator=denominator)
            np.testing.assert_allclose(got, plain_ap((shared > 0).astype(int), k, denominator), atol=1e-13)
        got = ndcg_at_k(*arguments, k, ties="stable")
        np.testing.assert_allclose(got, plain_ndcg(2.0**shared - 1, k), atol=1e-13)


@pytest.mark.parametrize("before", [0, 1, 30, 63, 64, 65, 1000, 10**6, 10**8])
@pytest.mark.parametrize("places", [0, 1, 2, 40, 700])
def test_sums_over_places_keep_their_digits(before, places):
    first, later = _place_sums(np.array([before]), np.array([places]))
    exact_first = math.fsum(1 / (before + j) for j in range(1, places + 1))
    exact_later = math.fsum((j - 1) / (before + j) for j in range(1, places + 1))
    np.testing.assert_allclose(first, exact_first, rtol=1e-13, atol=1e-18)
    np.testing.assert_allclose(later, exact_later, rtol=0, atol=2e-14 * max(places, 1))


def test_a_large_group_cut_by_k_in_rational_arithmetic():
    """3,000 tied items, 1,000 of them hits, after 30 places with 10 hits; cut at place 90."""
    before, found, items, hits, k = 30, 10, 3000, 1000, 90
    inside = k - before
    base = sum(Fraction(i, 3 * i) for i in range(1, found + 1))
    first = sum(Fraction(1, before + j) for j in range(1, inside + 1))
    later = sum(Fraction(j - 1, before + j) for j in range(1, inside + 1))
    exact = Fraction(0)
    for x in range(inside + 1):
        chance = Fraction(math.comb(hits, x) * math.comb(items - hits, inside - x), math.comb(items, inside))
        total = base + Fraction(x, inside) * ((found + 1) * first + Fraction(x - 1, inside - 1) * later)
        exact += chance * total / (found + x)
    # 30 groups of one item come first: a hit at every third place
    group_items = np.array([[1] * before + [items]])
    group_hits = np.array([[1 if i % 3 == 2 else 0 for i in range(before)] + [hits]])
    counts = DistanceCounts(group_items, group_hits, group_hits.astype(float), np.zeros((1, 2), np.int64))
    np.testing.assert_allclose(expected_average_precision(counts, k), float(exact), rtol=1e-13)

"""Metrics as exact expectations over all orders of items at equal distance, from distance counts.

Source: McSherry and Najork, "Computing Information Retrieval Performance Measures Efficiently in the Presence
of Tied Scores", ECIR 2008. For a group of n tied items, r of them relevant, after t places with H hits, place
t + j holds a hit with probability r/n, and then has an expected precision of (H + 1 + (j-1)(r-1)/(n-1)) / (t
+ j).
"""

import numpy as np
from jaxtyping import Float64, Int64

from kdhash.retrieval.counts import DistanceCounts
from kdhash.retrieval.hamming import map_query_blocks
from kdhash.retrieval.labels import gain_of

# Queries at a time: their tables stay in the second-level cache.
_BLOCK = 256
# Elements of one working array of the average over hypergeometric outcomes: 16 MiB each.
_CHUNK = 2**21


def expected_average_precision(
    counts: DistanceCounts, k: int, denominator: str = "hits"
) -> Float64[np.ndarray, " queries"]:
    """Expected AP@k of each query, 1 <= k <= items; denominators as in `metrics.average_precision`."""

    def block(rows: slice) -> np.ndarray:
        return _average_precision(DistanceCounts(*(table[rows] for table in counts)), k, denominator)

    return np.concatenate(map_query_blocks(block, len(counts.items), _BLOCK))


def _average_precision(counts: DistanceCounts, k: int, denominator: str) -> np.ndarray:
    items, hits = counts.items, counts.hits
    places_before = items.cumsum(axis=1) - items
    hits_before = hits.cumsum(axis=1) - hits
    inside = np.clip(k - places_before, 0, items)
    share = hits / np.maximum(items, 1)
    growth = (hits - 1) / np.maximum(items - 1, 1)
    first, later = _place_sums(places_before, inside)
    sums = share * ((hits_before + 1) * first + growth * later)
    cut = (inside > 0) & (inside < items)
    found = np.where(cut, 0, np.where(inside > 0, hits, 0)).sum(axis=1)
    if denominator != "hits" or not cut.any():
        return divide_precisions(sums.sum(axis=1), found, hits.sum(axis=1), k, denominator)

    uncut = np.where(cut, 0, sums).sum(axis=1)
    result = safe_divide(uncut, found)
    at = np.nonzero(cut)
    result[at[0]] = _average_over_cut(
        uncut[at[0]], hits_before[at], items[at], hits[at], inside[at], first[at], later[at]
    )
    return result


def _average_over_cut(
    base: np.ndarray,
    hits_before: np.ndarray,
    items: np.ndarray,
    hits: np.ndarray,
    inside: np.ndarray,
    first: np.ndarray,
    later: np.ndarray,
) -> np.ndarray:
    """AP over the hits found, when the cut at k falls inside a tie group: here the denominator is random too.

    The number x of the group's hits among its `inside` places is hypergeometric; given x, they are spread
    evenly over those places, and the closed form holds with (x, inside) for (r, n).
    """
    lowest = np.maximum(0, inside - (items - hits))
    span = int((np.minimum(hits, inside) - lowest).max()) + 1
    result = np.empty(len(base))
    step = max(1, _CHUNK // span)
    for start in range(0, len(base), step):
        part = slice(start, start + step)
        n, r, m, low, found = (a[part, None] for a in (items, hits, inside, lowest, hits_before))
        x = low + np.arange(span)
        # log p(x + 1) - log p(x); beyond the support the numerator is 0 or negative
        up, down = (r - x) * (m - x), (x + 1) * (n - r - m + x + 1)
        with np.errstate(divide="ignore"):
            steps = np.log(np.maximum(up, 0)) - np.log(down)
        logs = np.concatenate([np.zeros_like(base[part, None]), steps[:, :-1].cumsum(axis=1)], axis=1)
        weights = np.exp(logs - logs.max(axis=1, keepdims=True))
        growth = (x - 1) / np.maximum(m - 1, 1)
        sums = base[part, None] + x / m * ((found + 1) * first[part, None] + growth * later[part, None])
        result[part] = (weights * safe_divide(sums, found + x)).sum(axis=1) / weights.sum(axis=1)
    return result


def extreme_average_precision(
    counts: DistanceCounts, k: int, denominator: str = "hits", *, relevant_first: bool
) -> Float64[np.ndarray, " queries"]:
    """AP@k of each query with the hits of every tie group before its other items, or after them."""
    places_before = counts.items.cumsum(axis=1) - counts.items
    hits_before = counts.hits.cumsum(axis=1) - counts.hits
    start = places_before if relevant_first else places_before + counts.items - counts.hits
    inside = np.clip(k - start, 0, counts.hits)
    # the j-th hit of a group stands at place start + j and has precision (H + j) / (start + j)
    first, later = _place_sums(start, inside)
    return divide_precisions(
        ((hits_before + 1) * first + later).sum(axis=1),
        inside.sum(axis=1),
        counts.hits.sum(axis=1),
        k,
        denominator,
    )


def divide_precisions(
    total: np.ndarray, found: np.ndarray, relevant: np.ndarray, k: int, denominator: str
) -> Float64[np.ndarray, " queries"]:
    """Sums of precision at hits -> AP, given the hits up to k and the relevant items at any rank."""
    denominators = {"hits": found, "min": np.minimum(relevant, k), "all": relevant}
    return safe_divide(total, denominators[denominator])


def _place_sums(before: np.ndarray, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of 1/(t + j) and of (j - 1)/(t + j) over j = 1..places, t = before.

    Differences of harmonic numbers. From 64 on they are taken through log1p and the asymptotic series:
    subtracting two tabulated values would lose digits that the second sum multiplies by t.
    """
    table = np.concatenate([[0.0], np.cumsum(1 / np.arange(1, 65))])
    after = before + places
    small = table[np.minimum(after, 64)] - table[np.minimum(before, 64)]
    low, high = np.maximum(before, 64), np.maximum(after, 64)
    first = small + np.log1p((high - low) / low) + _series(high) - _series(low)
    return first, places - (before + 1) * first


def _series(n: np.ndarray) -> np.ndarray:
    """What the n-th harmonic number adds to log n + Euler's constant, to 1e-16 from n = 64 on."""
    square = 1.0 / (n.astype(np.float64) ** 2)
    return 0.5 / n - square * (1 / 12 - square * (1 / 120 - square / 252))


def expected_hits(counts: DistanceCounts, k: int) -> Float64[np.ndarray, " queries"]:
    """Expected number of hits among the first k ranks of each query."""
    before = counts.items.cumsum(axis=1) - counts.items
    inside = np.clip(k - before, 0, counts.items)
    return (inside * counts.hits / np.maximum(counts.items, 1)).sum(axis=1)


def expected_ndcg(counts: DistanceCounts, k: int) -> Float64[np.ndarray, " queries"]:
    """Expected NDCG@k: every item's gain is the mean of its tie group; 0 where the ideal is 0."""
    discounts = _discount_sums(int(counts.items.sum(axis=1).max(initial=0)))
    before = counts.items.cumsum(axis=1) - counts.items
    after = np.minimum(before + counts.items, k)
    weight = discounts[after] - discounts[np.minimum(before, k)]
    dcg = (counts.gains / np.maximum(counts.items, 1) * weight).sum(axis=1)
    return safe_divide(dcg, ideal_dcg(counts.by_shared, k))


def ideal_dcg(by_shared: Int64[np.ndarray, "queries shared"], k: int) -> Float64[np.ndarray, " queries"]:
    """DCG@k of the best order: the k greatest gains of the whole database."""
    best_first = by_shared[:, ::-1]
    after = best_first.cumsum(axis=1)
    discounts = _discount_sums(int(after.max(initial=0)))
    weight = discounts[np.minimum(after, k)] - discounts[np.minimum(after - best_first, k)]
    return weight @ gain_of(np.arange(by_shared.shape[1]))[::-1]


def _discount_sums(places: int) -> np.ndarray:
    """Sums of 1/log2(place + 1) over the first 0, 1, ..., `places` places."""
    return np.concatenate([[0.0], np.cumsum(1 / np.log2(np.arange(2, places + 2)))])


def safe_divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """numerator / denominator, and 0 where the denominator is 0."""
    return np.where(denominator > 0, numerator / np.maximum(denominator, np.finfo(np.float64).tiny), 0.0)

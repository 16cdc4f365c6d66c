"""Instance-level recall: is one of the query's own items found, among the first k?"""

import numpy as np
from jaxtyping import Int, UInt8

from kdhash.retrieval.counts import count_by_distance
from kdhash.retrieval.hamming import resolve_k


def instance_recall(
    query: UInt8[np.ndarray, "queries bytes"],
    database: UInt8[np.ndarray, "items bytes"],
    query_labels: Int[np.ndarray, " queries"],
    database_labels: Int[np.ndarray, " items"],
    ks: tuple[int, ...] = (1, 5, 10),
) -> dict[str, float]:
    """{'recall@k': 0-1}: the share of queries with at least one item of their own label among the first k.

    A label is whose item it is. That is the captioning field's recall@k (Karpathy and Fei-Fei, CVPR 2015): a picture with
    five captions owns five texts, and one of them is enough. Items at equal distance stand in random order; this is the
    exact expectation. Raises ValueError for a negative k, and for codes and labels that do not fit together.
    """
    counts = count_by_distance(query, database, query_labels, database_labels)
    places = {k: resolve_k(k, len(database)) for k in ks}
    items, hits = counts.items.astype(np.int64), counts.hits.astype(np.int64)
    return {f"recall@{k}": float(_found(items, hits, place).mean()) for k, place in places.items()}


def _found(items: np.ndarray, hits: np.ndarray, k: int) -> np.ndarray:
    """The probability of each query to have a hit among its first k, from items and hits [queries, distances]."""
    before = np.cumsum(items, axis=1) - items
    drawn = np.clip(k - before, 0, items)  # of each distance's items, so many are among the first k
    # none of the hits is drawn: C(items - hits, drawn) / C(items, drawn)
    others = items - hits
    possible = drawn <= others
    chance = _log_choose(np.where(possible, others, drawn), drawn) - _log_choose(items, drawn)
    return 1 - np.where(possible, np.exp(chance), 0.0).prod(axis=1)


def _log_choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
    from scipy.special import gammaln  # at call time: a third of a second that a search does not need

    return gammaln(n + 1) - gammaln(k + 1) - gammaln(n - k + 1)

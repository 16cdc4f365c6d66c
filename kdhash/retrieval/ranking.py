"""Metrics of one definite order of results, such as the stable one (by distance, then database position)."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from kdhash.retrieval.expected import divide_precisions, safe_divide
from kdhash.retrieval.labels import gain_of


class RankedHits(NamedTuple):
    """The hits of a block of queries, listed by query, then by rank."""

    row: Int64[np.ndarray, " hits"]
    """query of the block"""
    rank: Int64[np.ndarray, " hits"]
    """place in the order of results, from 1"""
    number: Int64[np.ndarray, " hits"]
    """the how-manieth hit of its query, from 1"""
    gain: Float64[np.ndarray, " hits"]
    """2**shared labels - 1"""
    queries: int
    """rows of the block, those without a hit included"""


def ranked_hits(shared: UInt8[np.ndarray, "queries k"]) -> RankedHits:
    """The hits in an order of results, given the number of labels each result shares with its query."""
    # one flat pass over booleans is several times faster than np.nonzero of the matrix
    flat = np.flatnonzero(shared.ravel() > 0)
    row, column = np.divmod(flat, shared.shape[1])
    first_of_row = np.searchsorted(row, np.arange(len(shared)))
    number = np.arange(1, len(row) + 1) - first_of_row[row]
    return RankedHits(row, column + 1, number, gain_of(shared.ravel()[flat]), len(shared))


def ranked_average_precision(
    hits: RankedHits, relevant: Int64[np.ndarray, " queries"], k: int, denominator: str = "hits"
) -> Float64[np.ndarray, " queries"]:
    """AP@k of each query, `relevant` being its hits at any rank. See `metrics.average_precision`."""
    total = _sum_to_rank(hits, hits.number / hits.rank, k)
    return divide_precisions(total, ranked_hit_count(hits, k), relevant, k, denominator)


def ranked_hit_count(hits: RankedHits, k: int) -> Float64[np.ndarray, " queries"]:
    """Number of hits among the first k ranks of each query."""
    return _sum_to_rank(hits, np.ones(len(hits.rank)), k)


def ranked_ndcg(
    hits: RankedHits, ideal: Float64[np.ndarray, " queries"], k: int
) -> Float64[np.ndarray, " queries"]:
    """NDCG@k of each query, given the DCG of its best order; 0 where that is 0."""
    return safe_divide(_sum_to_rank(hits, hits.gain / np.log2(hits.rank + 1), k), ideal)


def _sum_to_rank(hits: RankedHits, values: np.ndarray, k: int) -> np.ndarray:
    return np.bincount(hits.row, np.where(hits.rank <= k, values, 0), minlength=hits.queries)

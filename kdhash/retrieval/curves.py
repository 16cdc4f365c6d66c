"""Curves over Hamming radii and over cut-offs, from distance counts."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from kdhash.retrieval.counts import DistanceCounts, count_by_distance
from kdhash.retrieval.expected import expected_hits, safe_divide
from kdhash.retrieval.hamming import resolve_k


class RadiusCurve(NamedTuple):
    """Everything within distance r counts as retrieved, r = 0..bits. Precision and recall are in 0-1."""

    retrieved: Int64[np.ndarray, "queries radii"]
    hits: Int64[np.ndarray, "queries radii"]
    precision_macro: Float64[np.ndarray, " radii"]
    """mean over all queries, 0 for an empty result"""
    precision_macro_nonempty: Float64[np.ndarray, " radii"]
    """mean over the queries with a result, 0 if there is none"""
    precision_micro: Float64[np.ndarray, " radii"]
    """all hits / all retrieved"""
    recall_macro: Float64[np.ndarray, " radii"]
    """mean over all queries, 0 for those without a relevant item"""
    recall_micro: Float64[np.ndarray, " radii"]
    """all hits / all relevant"""


def radius_curve(
    query: UInt8[np.ndarray, "queries bytes"],
    database: UInt8[np.ndarray, "items bytes"],
    query_labels: np.ndarray,
    database_labels: np.ndarray,
) -> RadiusCurve:
    """The precision-recall curve of hash lookup: one point per Hamming radius 0..bits.

    Packed codes; labels are class indices [n] or a 0/1 matrix [n, classes]. Ties do not matter here. Raises
    ValueError for codes or labels that do not fit together.
    """
    return radius_curve_of(count_by_distance(query, database, query_labels, database_labels))


def radius_curve_of(counts: DistanceCounts) -> RadiusCurve:
    """`radius_curve` from distance counts."""
    retrieved, hits = counts.items.cumsum(axis=1), counts.hits.cumsum(axis=1)
    relevant = hits[:, -1]
    queries = len(hits)
    precision = safe_divide(hits, retrieved)
    return RadiusCurve(
        retrieved=retrieved,
        hits=hits,
        precision_macro=precision.sum(axis=0) / queries,
        precision_macro_nonempty=safe_divide(precision.sum(axis=0), (retrieved > 0).sum(axis=0)),
        precision_micro=safe_divide(hits.sum(axis=0), retrieved.sum(axis=0)),
        recall_macro=safe_divide(hits, relevant[:, None]).sum(axis=0) / queries,
        recall_micro=safe_divide(hits.sum(axis=0), relevant.sum()),
    )


def precision_within_radius(
    query: UInt8[np.ndarray, "queries bytes"],
    database: UInt8[np.ndarray, "items bytes"],
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    radius: int = 2,
) -> Float64[np.ndarray, " queries"]:
    """Share of hits (0-1) among the items within `radius` bits of each query; 0 where there is no such item.

    Packed codes; labels are class indices [n] or a 0/1 matrix [n, classes]. Raises ValueError for codes or
    labels that do not fit together and for a negative radius.
    """
    counts = count_by_distance(query, database, query_labels, database_labels)
    return precision_within_radius_of(counts, radius)


def precision_within_radius_of(counts: DistanceCounts, radius: int) -> Float64[np.ndarray, " queries"]:
    """`precision_within_radius` from distance counts."""
    if radius < 0:
        raise ValueError(f"radius: expected 0 bits or more, got {radius}")
    near = slice(0, radius + 1)
    return safe_divide(counts.hits[:, near].sum(axis=1), counts.items[:, near].sum(axis=1))


def precision_at_many_k(
    query: UInt8[np.ndarray, "queries bytes"],
    database: UInt8[np.ndarray, "items bytes"],
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    ks: Sequence[int],
) -> Float64[np.ndarray, " ks"]:
    """The P@N curve: mean over queries of the expected precision (0-1) among the first k ranks, for each k.

    Expected over all orders of items at equal distance. Packed codes; labels are class indices [n] or a 0/1
    matrix [n, classes]. A k of 0, or above the number of items, means all of them. Raises ValueError for a
    negative k and for codes or labels that do not fit together.
    """
    counts = count_by_distance(query, database, query_labels, database_labels)
    return precision_at_many_k_of(counts, [resolve_k(k, len(database)) for k in ks])


def precision_at_many_k_of(counts: DistanceCounts, ks: Sequence[int]) -> Float64[np.ndarray, " ks"]:
    """`precision_at_many_k` from distance counts; every k is at least 1 and at most the database."""
    return np.array([(expected_hits(counts, k) / k).mean() for k in ks])

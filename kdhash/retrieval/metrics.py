"""Retrieval metrics of packed codes, one definition each.

A database item is relevant to a query when the two share at least one label. Labels are class indices (int
[n]) or a 0/1 matrix ([n, classes]). Results are ordered by Hamming distance. Items at equal distance are in
random order for ties='expected' (the value is the exact expectation: McSherry and Najork, ECIR 2008) and in
the order of the database for ties='stable'. k is a number of ranks; None and 0, and more than there are
items, mean all. Every value is in 0-1.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
from jaxtyping import Float64, UInt8

from kdhash.retrieval.counts import DistanceCounts, count_by_distance
from kdhash.retrieval.curves import precision_at_many_k_of, precision_within_radius_of, radius_curve_of
from kdhash.retrieval.expected import (
    expected_average_precision,
    expected_hits,
    expected_ndcg,
    extreme_average_precision,
    ideal_dcg,
    safe_divide,
)
from kdhash.retrieval.hamming import map_query_blocks, query_and_database_words, resolve_k
from kdhash.retrieval.labels import check_labels, shared_labels
from kdhash.retrieval.nearest import select
from kdhash.retrieval.ranking import (
    RankedHits,
    ranked_average_precision,
    ranked_hit_count,
    ranked_hits,
    ranked_ndcg,
)

Codes = UInt8[np.ndarray, "n bytes"]
Result = TypeVar("Result")
PerQuery = Float64[np.ndarray, " queries"]

# Queries whose whole ranking is held at a time by one thread.
_RANKING_BLOCK = 32
# The cut-offs at which the literature draws P@N.
CURVE_KS = (1, 10, 50, *range(100, 1001, 100))


def average_precision(
    query: Codes,
    database: Codes,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    k: int | None = 0,
    *,
    ties: str = "expected",
    denominator: str = "hits",
) -> PerQuery:
    """AP@k of each query: the sum of precision(rank) over the hits at ranks 1..k, divided by

    'hits'  the hits among the first k ranks, as the published hashing programs do (DeepHash's CalcTopMap,
            BRCD, CIBHash, DJSRH). With expected ties it is the quotient that is averaged: where k cuts a
            tie group, the denominator is random too.
    'min'   min(k, relevant items of the database).
    'all'   all relevant items of the database (TREC's AP).
    The three agree for k = all. ties='relevant_first' and 'relevant_last' give the value of those two orders:
    with 'min' and 'all' the bounds over all orders of tied items. 0 where the denominator is 0. Raises
    ValueError for other words, a negative k, and codes or labels that do not fit together.
    """
    _check_word("ties", ties, ("expected", "stable", "relevant_first", "relevant_last"))
    _check_word("denominator", denominator, ("hits", "min", "all"))
    counts = count_by_distance(query, database, query_labels, database_labels)
    k = resolve_k(k, len(database))
    if ties in ("relevant_first", "relevant_last"):
        return extreme_average_precision(counts, k, denominator, relevant_first=ties == "relevant_first")
    if ties == "expected":
        return expected_average_precision(counts, k, denominator)
    relevant = counts.hits.sum(axis=1)
    parts = _map_ranked(
        lambda hits, rows: ranked_average_precision(hits, relevant[rows], k, denominator),
        (query, database, query_labels, database_labels, k),
    )
    return np.concatenate(parts)


def mean_average_precision(
    query: Codes,
    database: Codes,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    k: int | None = 0,
    *,
    ties: str = "expected",
    denominator: str = "hits",
) -> float:
    """mAP@k (0-1): `average_precision` averaged over all queries; without a relevant item it is 0."""
    per_query = average_precision(
        query, database, query_labels, database_labels, k, ties=ties, denominator=denominator
    )
    return float(per_query.mean())


def precision_at_k(
    query: Codes,
    database: Codes,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    k: int | None = 0,
    *,
    ties: str = "expected",
) -> PerQuery:
    """Hits among the first k ranks / k, per query. Raises ValueError as `average_precision` does."""
    _check_word("ties", ties)
    k = resolve_k(k, len(database))
    return _hits_at_k(query, database, query_labels, database_labels, k, ties)[0] / k


def recall_at_k(
    query: Codes,
    database: Codes,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    k: int | None = 0,
    *,
    ties: str = "expected",
) -> PerQuery:
    """Hits among the first k ranks / relevant items of the database, per query; 0 for a query without any.

    Raises ValueError as `average_precision` does.
    """
    _check_word("ties", ties)
    k = resolve_k(k, len(database))
    return safe_divide(*_hits_at_k(query, database, query_labels, database_labels, k, ties))


def ndcg_at_k(
    query: Codes,
    database: Codes,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    k: int | None = 0,
    *,
    ties: str = "expected",
) -> PerQuery:
    """NDCG@k per query: gain 2**(shared labels) - 1, discount 1/log2(rank + 1), ideal over all items.

    0 for a query without a relevant item. Source: Jarvelin and Kekalainen, TOIS 2002, with the exponential
    gain of Burges et al., ICML 2005. Raises ValueError as `average_precision` does.
    """
    _check_word("ties", ties)
    counts = count_by_distance(query, database, query_labels, database_labels)
    k = resolve_k(k, len(database))
    if ties == "expected":
        return expected_ndcg(counts, k)
    ideal = ideal_dcg(counts.by_shared, k)
    parts = _map_ranked(
        lambda hits, rows: ranked_ndcg(hits, ideal[rows], k),
        (query, database, query_labels, database_labels, k),
    )
    return np.concatenate(parts)


def evaluate(
    query_packed: Codes,
    database_packed: Codes,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    *,
    ks: Sequence[int] = (1000, 0),
    curve_ks: Sequence[int] = CURVE_KS,
    radius: int = 2,
    stable: bool = True,
) -> dict[str, float | np.ndarray]:
    """All metrics of one search, from one pass over the pairs, and one more over full rankings if `stable`.

    Means over queries, in 0-1, with @k spelt @all for k = 0:
      map@k                 expected ties, denominator 'hits': the literature's mAP with its ties resolved
      map@k_min, map@k_all  the same with the other denominators; left out for k = 0, where all agree
      precision@k, recall@k, ndcg@k            expected ties
      map@k_stable ('hits'), precision@k_stable, recall@k_stable, ndcg@k_stable
                            database order within ties; left out with stable=False
      precision_radius<r>   share of hits within `radius` bits, 0 where nothing is
    and arrays:
      curve_radius, curve_precision_macro, curve_precision_macro_nonempty, curve_precision_micro,
      curve_recall_macro, curve_recall_micro   by Hamming radius 0..bits, see RadiusCurve
      curve_k, curve_precision_at_k            the P@N curve, expected ties, at the `curve_ks` that the
                                               database has
    Queries without a relevant item count as 0 everywhere. Raises ValueError for a negative k, a negative
    radius, and codes or labels that do not fit together.
    """
    ranks = {_name_of(k): resolve_k(k, len(database_packed)) for k in ks}
    counts = count_by_distance(query_packed, database_packed, query_labels, database_labels)
    relevant = counts.hits.sum(axis=1)
    values: dict[str, Any] = {}
    for name, k in ranks.items():
        values[f"map@{name}"] = expected_average_precision(counts, k)
        if name != "all":
            values[f"map@{name}_min"] = expected_average_precision(counts, k, "min")
            values[f"map@{name}_all"] = expected_average_precision(counts, k, "all")
        hits = expected_hits(counts, k)
        values |= {f"precision@{name}": hits / k, f"recall@{name}": safe_divide(hits, relevant)}
        values[f"ndcg@{name}"] = expected_ndcg(counts, k)
    if stable and ranks:
        ideals = {k: ideal_dcg(counts.by_shared, k) for k in ranks.values()}

        def measure(hits: RankedHits, rows: slice) -> dict[str, np.ndarray]:
            block = {}
            for name, k in ranks.items():
                found = ranked_hit_count(hits, k)
                block[f"map@{name}_stable"] = ranked_average_precision(hits, relevant[rows], k)
                block[f"precision@{name}_stable"] = found / k
                block[f"recall@{name}_stable"] = safe_divide(found, relevant[rows])
                block[f"ndcg@{name}_stable"] = ranked_ndcg(hits, ideals[k][rows], k)
            return block

        searched = (query_packed, database_packed, query_labels, database_labels, max(ranks.values()))
        blocks = _map_ranked(measure, searched)
        values |= {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}
    values[f"precision_radius{radius}"] = precision_within_radius_of(counts, radius)
    means: dict[str, float | np.ndarray] = {name: float(value.mean()) for name, value in values.items()}
    return means | _curves(counts, curve_ks)


def _curves(counts: DistanceCounts, curve_ks: Sequence[int]) -> dict[str, np.ndarray]:
    curve = radius_curve_of(counts)
    kept = [k for k in curve_ks if 0 < k <= counts.items[0].sum()]
    return {
        "curve_radius": np.arange(counts.items.shape[1]),
        "curve_precision_macro": curve.precision_macro,
        "curve_precision_macro_nonempty": curve.precision_macro_nonempty,
        "curve_precision_micro": curve.precision_micro,
        "curve_recall_macro": curve.recall_macro,
        "curve_recall_micro": curve.recall_micro,
        "curve_k": np.array(kept, np.int64),
        "curve_precision_at_k": precision_at_many_k_of(counts, kept),
    }


def _hits_at_k(
    query: Codes, database: Codes, query_labels: np.ndarray, database_labels: np.ndarray, k: int, ties: str
) -> tuple[np.ndarray, np.ndarray]:
    """(hits among the first k ranks, relevant items of the database) of each query."""
    counts = count_by_distance(query, database, query_labels, database_labels)
    relevant = counts.hits.sum(axis=1)
    if ties == "expected":
        return expected_hits(counts, k), relevant
    searched = (query, database, query_labels, database_labels, k)
    return np.concatenate(_map_ranked(lambda hits, _: ranked_hit_count(hits, k), searched)), relevant


def _map_ranked(
    measure: Callable[[RankedHits, slice], Result],
    searched: tuple[Codes, Codes, np.ndarray, np.ndarray, int],
) -> list[Result]:
    """measure(hits of a block of queries in stable order, the block's rows), for every block."""
    query, database, query_labels, database_labels, k = searched
    labels = check_labels(query_labels, database_labels, len(query), len(database))
    query_words, database_words = query_and_database_words(query, database)

    def block(rows: slice) -> Result:
        _, positions = select(query_words[rows], database_words, k)
        return measure(ranked_hits(shared_labels(labels, rows, positions)), rows)

    return map_query_blocks(block, len(query), _RANKING_BLOCK)


def _check_word(name: str, word: str, allowed: tuple[str, ...] = ("expected", "stable")) -> None:
    if word not in allowed:
        raise ValueError(f"{name}: expected one of {', '.join(allowed)}; got {word!r}")


def _name_of(k: int) -> str:
    return str(k) if k else "all"

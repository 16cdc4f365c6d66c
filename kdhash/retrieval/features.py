"""Exact search with real-valued features: the upper line that codes are compared with."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float32, Num

from kdhash.retrieval.hamming import map_query_blocks, resolve_k
from kdhash.retrieval.labels import check_labels, shared_labels
from kdhash.retrieval.ranking import ranked_average_precision, ranked_hits

# Queries whose similarities to the whole database are held at a time by one thread.
_BLOCK = 32


def float_map(
    query_features: Num[np.ndarray, "queries width"],
    database_features: Num[np.ndarray, "items width"],
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    ks: Sequence[int] = (1000, 0),
) -> dict[str, float]:
    """mAP@k (0-1) of exact cosine search -> {"map@1000": ..., "map@all": ...}, k = 0 meaning all.

    AP divides by the hits among the first k ranks, as `metrics.average_precision` does by default; equal
    similarities (float32) keep the order of the database. Norms have a floor of 1e-8, so that a zero vector
    has cosine 0 with everything. A few float32 rows of the queries x items matrix are in memory at a time.
    Raises ValueError for features of unlike widths or with non-finite values, and for labels that do not fit.
    """
    query = _unit_rows("query_features", query_features)
    database = _unit_rows("database_features", database_features)
    if query.shape[1] != database.shape[1]:
        raise ValueError(
            f"query_features have {query.shape[1]} columns, database_features {database.shape[1]}: "
            "extract both alike"
        )
    labels = check_labels(query_labels, database_labels, len(query), len(database))
    ranks = {str(k) if k else "all": resolve_k(k, len(database)) for k in ks}

    def block(rows: slice) -> np.ndarray:
        order = _descending(query[rows] @ database.T)
        shared = shared_labels(labels, rows, order)
        hits = ranked_hits(shared)
        relevant = (shared > 0).sum(axis=1)
        return np.stack([ranked_average_precision(hits, relevant, k) for k in ranks.values()], axis=1)

    values = np.concatenate(map_query_blocks(block, len(query), _BLOCK))
    return {f"map@{name}": float(column.mean()) for name, column in zip(ranks, values.T, strict=True)}


def _unit_rows(name: str, features: np.ndarray) -> Float32[np.ndarray, "n width"]:
    features = np.asarray(features, np.float32)
    if features.ndim != 2 or len(features) == 0:
        raise ValueError(f"{name}: expected [n, width] with n > 0, got shape {features.shape}")
    if not np.isfinite(features).all():
        raise ValueError(
            f"{name}: NaN or infinity in row {int(np.argmin(np.isfinite(features).all(axis=1)))}"
        )
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-8)


def _descending(similarity: Float32[np.ndarray, "queries items"]) -> np.ndarray:
    """Positions in stable descending order, row by row.

    One integer holds a value's order and its position: NumPy sorts 64-bit integers several times faster than
    it sorts float positions stably, and no two of these are equal.
    """
    # adding 0 turns -0 into +0, which compare as equal; flipped magnitudes put negative floats in integer
    # order
    bits = (0.0 - similarity + 0.0).view(np.int32)
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64) << 32
    keys |= np.arange(similarity.shape[1])
    keys.sort(axis=1)
    return keys & 0xFFFFFFFF

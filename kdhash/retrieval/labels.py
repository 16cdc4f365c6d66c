"""Labels of queries and database, and how many of them two items share."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8


class LabelPair(NamedTuple):
    """Checked labels of both sides.

    Single label: int64 [n], equal or not. Several: their 0/1 matrix as uint64 words, [queries, words] and
    [words, items]. most_shared is the largest number of labels that a pair can share.
    """

    query: np.ndarray
    database: np.ndarray
    most_shared: int

    @property
    def single(self) -> bool:
        return self.query.ndim == 1


def check_labels(
    query_labels: np.ndarray, database_labels: np.ndarray, queries: int, items: int
) -> LabelPair:
    """Labels as class indices (int [n]) or as a 0/1 matrix ([n, classes]), the same form on both sides.

    Class indices are compared for equality and nothing else. Raises ValueError naming the side for another
    rank or dtype, another length than the codes have, entries beside 0 and 1, and unequal numbers of classes.
    """
    query, database = np.asarray(query_labels), np.asarray(database_labels)
    for name, labels, count in (("query_labels", query, queries), ("database_labels", database, items)):
        if labels.ndim not in (1, 2) or len(labels) != count or labels.shape[1:] == (0,):
            raise ValueError(f"{name}: expected [{count}] or [{count}, classes], got shape {labels.shape}")
        if labels.ndim == 1 and labels.dtype.kind not in "iu":
            raise ValueError(f"{name}: class indices must be integers, got {labels.dtype}")
        if labels.ndim == 2 and not ((labels == 0) | (labels == 1)).all():
            raise ValueError(
                f"{name}: a label matrix holds 0 and 1 only; pass class indices as shape [{count}]"
            )
    if query.shape[1:] != database.shape[1:]:
        raise ValueError(
            f"query_labels {query.shape} and database_labels {database.shape}: "
            "expected the same form and number of classes"
        )
    if query.ndim == 1:
        return LabelPair(query.astype(np.int64), database.astype(np.int64), 1)
    most = min(int(side.astype(bool).sum(axis=1).max(initial=0)) for side in (query, database))
    if most > 255:
        raise ValueError(
            f"query_labels, database_labels: up to {most} labels shared; at most 255 are counted"
        )
    return LabelPair(_bits_of(query), np.ascontiguousarray(_bits_of(database).T), most)


def _bits_of(matrix: np.ndarray) -> np.ndarray:
    padded = np.pad(matrix.astype(bool), ((0, 0), (0, -matrix.shape[1] % 64)))
    return np.packbits(padded, axis=1).view(np.uint64)


def shared_labels(
    labels: LabelPair, rows: slice, positions: Int[np.ndarray, "rows k"] | slice
) -> UInt8[np.ndarray, "rows k"]:
    """Labels that the queries `rows` share with the items at their `positions` (a slice: alike for all)."""
    query = labels.query[rows]
    if labels.single:
        return (labels.database[positions] == query[:, None]).view(np.uint8)
    total = np.bitwise_count(labels.database[0][positions] & query[:, 0, None])
    for word in range(1, len(labels.database)):
        total += np.bitwise_count(labels.database[word][positions] & query[:, word, None])
    return np.asarray(total)


def gain_of(shared: np.ndarray | int) -> np.ndarray:
    """NDCG's gain of an item that shares so many labels with the query: 2**shared - 1."""
    return np.exp2(shared, dtype=np.float64) - 1

"""What every tie-aware metric is made of: per query, the items and the hits at each Hamming distance."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64, UInt8

from kdhash.retrieval.hamming import (
    check_code_pair,
    kernels,
    map_query_blocks,
    numpy_distances,
    query_and_database_words,
)
from kdhash.retrieval.labels import LabelPair, check_labels, gain_of, shared_labels


class DistanceCounts(NamedTuple):
    """Per query, by Hamming distance 0 to bits (`radii` = bits + 1 columns)."""

    items: Int64[np.ndarray, "queries radii"]
    """database items at this distance"""
    hits: Int64[np.ndarray, "queries radii"]
    """those that share a label with the query"""
    gains: Float64[np.ndarray, "queries radii"]
    """sum of 2**shared - 1 over the items at this distance"""
    by_shared: Int64[np.ndarray, "queries shared"]
    """database items that share 0, 1, ... labels with the query, at any distance"""


def count_by_distance(
    query: UInt8[np.ndarray, "queries bytes"],
    database: UInt8[np.ndarray, "items bytes"],
    query_labels: np.ndarray,
    database_labels: np.ndarray,
) -> DistanceCounts:
    """One pass over all pairs of packed codes; no queries x items matrix is made.

    Labels are class indices [n] or a 0/1 matrix [n, classes]; an item is a hit when it shares at least one
    with the query. Raises ValueError for codes or labels that do not fit together and for an empty side.
    """
    query, database = check_code_pair(query, database)
    for name, codes in (("query", query), ("database", database)):
        if len(codes) == 0:
            raise ValueError(f"{name}: no codes, so there is nothing to measure")
    labels = check_labels(query_labels, database_labels, len(query), len(database))
    stride = query.shape[1] * 8 + 1
    query_words, database_words = query_and_database_words(query, database)
    compiled = kernels()
    # the kernel keeps a cell number in 16 bits; only thousands of bits with dozens of labels need more
    if compiled is None or stride * (labels.most_shared + 1) > 2**16:

        def count(rows: slice) -> DistanceCounts:
            return _summarise(_numpy_cells(query_words[rows], database_words, labels, rows, stride))

        parts = map_query_blocks(count, len(query), 16)
    else:
        tags, database_tags, same_class, database_words = _kernel_labels(labels, database_words)

        def count(rows: slice) -> DistanceCounts:
            cells = np.empty((rows.stop - rows.start, stride * (labels.most_shared + 1)), np.uint32)
            compiled.count_cells(
                query_words[rows], database_words, tags[rows], database_tags, same_class[rows], stride, cells
            )
            return _summarise(cells.reshape(len(cells), -1, stride))

        parts = map_query_blocks(count, len(query), 256)
    return DistanceCounts(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _kernel_labels(labels: LabelPair, database_words: np.ndarray) -> tuple[np.ndarray, ...]:
    """Tag words, class ranges and the database; with single labels it is put in order of class.

    Counts do not depend on the order of the database, and a range of rows needs no comparison per pair.
    """
    if not labels.single:
        nowhere = np.zeros((len(labels.query), 2), np.int64)
        return labels.query, labels.database, nowhere, database_words
    order = np.argsort(labels.database, kind="stable")
    by_class = labels.database[order]
    same_class = np.stack(
        [np.searchsorted(by_class, labels.query, side) for side in ("left", "right")], axis=1
    )
    database_words = np.take(database_words, order, axis=1)
    database_words.flags.writeable = False
    no_tags = np.empty((len(labels.query), 0), np.uint64), np.empty((0, len(order)), np.uint64)
    return *no_tags, np.ascontiguousarray(same_class, np.int64), database_words


def _numpy_cells(
    query_words: np.ndarray, database_words: np.ndarray, labels: LabelPair, rows: slice, stride: int
) -> np.ndarray:
    shared = shared_labels(labels, rows, slice(None))
    cells = numpy_distances(query_words, database_words) + np.int64(stride) * shared
    size = stride * (labels.most_shared + 1)
    counts = [np.bincount(row, minlength=size) for row in cells]
    return np.stack(counts).reshape(len(cells), -1, stride)


def _summarise(cells: np.ndarray) -> DistanceCounts:
    """Counts [queries, shared, radii] -> the four tables."""
    cells = cells.astype(np.int64)
    gain = gain_of(np.arange(cells.shape[1]))
    return DistanceCounts(
        items=cells.sum(axis=1),
        hits=cells[:, 1:].sum(axis=1),
        gains=np.einsum("qsr,s->qr", cells, gain),
        by_shared=cells.sum(axis=2),
    )

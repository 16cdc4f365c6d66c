"""Retrieval metrics of an index that is served: labels from a metadata column, queries from a folder of codes."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8

from kdhash.retrieval.hamming import resolve_k
from kdhash.retrieval.index import Index
from kdhash.retrieval.items import Items
from kdhash.retrieval.labels import check_labels, shared_labels
from kdhash.retrieval.metrics import evaluate
from kdhash.retrieval.ranking import ranked_average_precision, ranked_hit_count, ranked_hits

MOST_LABELS = 2**31  # bytes of a table of items and labels
BLOCK = 256  # queries at a time that an approximate engine answers


class Side(NamedTuple):
    """Codes of queries or of a database with their labels, a pyarrow array; numbers: of items, ascending."""

    codes: UInt8[np.ndarray, "n bytes"]
    labels: Any
    numbers: Int64[np.ndarray, " n"]


def database_side(index: Index, column: str) -> Side:
    """All live items of an index. Raises ValueError where it has no such column."""
    import pyarrow as pa

    if column not in index.columns:
        raise ValueError(
            f"{index.path} has no column {column!r}; it has {', '.join(index.columns) or 'no metadata'}"
        )
    codes = [np.empty((0, index.bits // 8), np.uint8)]
    labels, numbers = [], [np.empty(0, np.int64)]
    for segment in index.segments:
        live = np.arange(segment.count) if segment.deleted is None else np.flatnonzero(~segment.deleted)
        codes.append(segment.codes[live])
        numbers.append(segment.numbers_at(live))
        if column in segment.table.column_names:
            labels.append(segment.take(live, [column])[column])
        else:
            labels.append(pa.chunked_array([pa.nulls(len(live))]))
    kind = next((part.type for part in labels if not pa.types.is_null(part.type)), pa.string())
    joined = pa.chunked_array([chunk.cast(kind) for part in labels for chunk in part.chunks], kind)
    return Side(np.concatenate(codes), joined.combine_chunks(), np.concatenate(numbers))


def query_side(items: Items, column: str) -> Side:
    """The queries that have a label. Raises ValueError where there is no such column, or no query has a label."""
    import pyarrow as pa

    if column not in items.table.column_names:
        names = [name for name in items.table.column_names if name != "id"]
        raise ValueError(f"{items.path} has no column {column!r}; it has {', '.join(names) or 'no metadata'}")
    labels = items.table[column].combine_chunks()
    rows = np.flatnonzero(labels.is_valid().to_numpy(zero_copy_only=False))
    if not len(rows):
        raise ValueError(f"no query of {items.path} has a value in {column!r}")
    return Side(items.codes[rows], labels.take(pa.array(rows)), rows)


def label_arrays(query: Any, database: Any) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Labels of both sides as `kdhash.retrieval.evaluate` takes them, and the names of those that queries have.

    A text, whole number or truth is one class; where either side has lists, they are several labels each. Labels that no query
    has make nothing relevant, and take no room. Raises ValueError for other kinds of columns, and for too many labels.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    several = any(pa.types.is_list(side.type) for side in (query, database))
    rows, names = zip(*(_flat(side) for side in (query, database)), strict=True)
    classes = pc.unique(names[0].drop_null())
    classes = classes.take(pc.sort_indices(classes))
    columns = [pc.fill_null(pc.index_in(side, value_set=classes), -1).to_numpy() for side in names]
    if not several:
        return columns[0].astype(np.int64), columns[1].astype(np.int64), classes.to_pylist()
    if len(classes) * (len(query) + len(database)) > MOST_LABELS:
        raise ValueError(
            f"{len(classes):,} different labels of {len(database):,} items are too many to be compared"
        )
    tables = []
    for side, row, column in zip((query, database), rows, columns, strict=True):
        table = np.zeros((len(side), max(len(classes), 1)), np.uint8)
        table[row[column >= 0], column[column >= 0]] = 1
        tables.append(table)
    return tables[0], tables[1], classes.to_pylist()


def evaluate_index(
    index: Index, query: Side, database: Side, ks: Sequence[int], engine: str, radius: int
) -> dict[str, Any]:
    """Means over queries, in 0-1: those of `kdhash.retrieval.evaluate` where the engine is 'exact'.

    For an approximate engine, of what it answers, at each k above 0: 'recall_of_exact@k' (the share of the k nearest that it
    finds; one as near as the k-th counts), map@k_stable and precision@k_stable. Also 'queries', 'classes' and
    'queries_without_relevant'.
    """
    query_labels, database_labels, classes = label_arrays(query.labels, database.labels)
    values: dict[str, Any] = {"queries": len(query.codes), "classes": len(classes)}
    if engine == "exact":
        found = evaluate(query.codes, database.codes, query_labels, database_labels, ks=ks, radius=radius)
        values |= {name: value for name, value in found.items() if not isinstance(value, np.ndarray)}
    else:
        for k in dict.fromkeys(resolve_k(k, len(database.codes)) for k in ks if k):
            values |= _approximate(
                index, query.codes, database.numbers, query_labels, database_labels, k, engine
            )
    if query_labels.ndim == 1:
        alone = ~np.isin(query_labels, database_labels)
    else:
        alone = np.max(query_labels * database_labels.any(axis=0), axis=1) == 0
    return values | {"queries_without_relevant": int(alone.sum())}


def _approximate(
    index: Index,
    codes: np.ndarray,
    numbers: np.ndarray,
    query_labels: np.ndarray,
    database_labels: np.ndarray,
    k: int,
    engine: str,
) -> dict[str, float]:
    pair = check_labels(query_labels, database_labels, len(codes), len(numbers))
    recalls, maps, precisions = [], [], []
    for start in range(0, len(codes), BLOCK):
        rows = slice(start, min(start + BLOCK, len(codes)))
        answered = index.search(codes[rows], k=k, engine=engine)
        exact = index.search(codes[rows], k=k)
        there = answered.numbers >= 0
        recalls.append((there & (answered.distances <= exact.distances[:, -1:])).sum(axis=1) / exact.counts)
        places = np.searchsorted(numbers, np.where(there, answered.numbers, numbers[0]))
        shared = shared_labels(pair, rows, places) * there
        hits = ranked_hits(np.ascontiguousarray(shared))
        # the denominator 'hits' does not look at how many are relevant in all
        maps.append(ranked_average_precision(hits, np.ones(shared.shape[0], np.int64), k))
        precisions.append(ranked_hit_count(hits, k) / k)
    means = {"recall_of_exact": recalls, "map": maps, "precision": precisions}
    named = {name: float(np.concatenate(parts).mean()) for name, parts in means.items()}
    return {
        f"recall_of_exact@{k}": named["recall_of_exact"],
        f"map@{k}_stable": named["map"],
        f"precision@{k}_stable": named["precision"],
    }


def overlap(index: Index, items: Items) -> list[tuple[str, str]]:
    """Queries that lie in the index too, with the id that they have there: of the same content (sha256), or, where that is not
    known of both, of the same id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    names = items.table["id"]
    known = "sha256" in items.table.column_names
    contents = items.table["sha256"] if known else pa.chunked_array([pa.nulls(items.count, pa.string())])
    first = dict(zip(contents.to_pylist(), names.to_pylist(), strict=True))
    first.pop(None, None)
    both: list[tuple[str, str]] = []
    for segment in index.segments:
        if known and "sha256" in segment.table.column_names:
            same = pc.is_in(segment.table["sha256"], value_set=contents.combine_chunks().drop_null())
            rows = np.flatnonzero(same.to_numpy())
            rows = rows if segment.deleted is None else rows[~segment.deleted[rows]]
            found = segment.take(rows, ["id", "sha256"]).to_pydict()
            both += [
                (first[content], name) for name, content in zip(found["id"], found["sha256"], strict=True)
            ]
    content_of = dict(zip(names.to_pylist(), contents.to_pylist(), strict=True))
    counted = {name for name, _ in both}
    for name, (number, row) in index.find(content_of).items():
        segment = index.segments[number]
        theirs = None
        if "sha256" in segment.table.column_names:
            theirs = segment.take(np.array([row]), ["sha256"])["sha256"][0].as_py()
        if name not in counted and (theirs is None or content_of[name] is None):
            both.append((name, name))
    return both


def _flat(side: Any) -> tuple[np.ndarray, Any]:
    """(row of each label, labels as texts) of a column."""
    import pyarrow as pa
    import pyarrow.compute as pc

    rows, values = np.arange(len(side)), side
    if pa.types.is_list(side.type):
        rows, values = pc.list_parent_indices(side).to_numpy().astype(np.int64), pc.list_flatten(side)
    kind = values.type
    fit = (pa.types.is_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_null)
    if not any(check(kind) for check in fit):
        raise ValueError(
            f"labels: a column of {side.type} has no classes; give one of texts, or of lists of them"
        )
    return rows, values.cast(pa.string())

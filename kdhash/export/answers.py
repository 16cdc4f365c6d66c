"""What a search found, for people and for programs."""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdhash.export.queries import Query, index_sources
from kdhash.retrieval.filters import Filter
from kdhash.retrieval.index import Index

HIDDEN = (
    "sha256",
    "mtime_ns",
    "bytes",
    "image",
    "split",
)  # columns that a table shows only when it is asked for them
MOST_COLUMNS, CELL = 4, 40


def search(
    index: Index,
    queries: Sequence[Query],
    columns: Sequence[str] | None,
    *,
    k: int | None,
    radius: int | None,
    where: Filter | None,
    engine: str,
) -> list[list[dict[str, Any]]]:
    """For each query, which must have its code, its answers: rank, distance, number, id and `columns` (all of them where None).

    An item whose id is the query is not among its own answers. Raises as `Index.search` and `Index.rows` do.
    """
    codes = np.stack([query.code for query in queries if query.code is not None])
    spare = any(query.number >= 0 for query in queries)
    found = index.search(codes, k=k and k + spare, radius=radius, where=where, engine=engine)
    kept = []
    for row, query in enumerate(queries):
        numbers = found.numbers[row, : found.counts[row]]
        places = np.flatnonzero(numbers != query.number)[:k]
        kept.append((found.distances[row, places].tolist(), numbers[places]))
    table = index.rows(
        np.concatenate([numbers for _, numbers in kept]), None if columns is None else ["id", *columns]
    )
    records = iter(table.to_pylist())
    return [
        [{"rank": rank, "distance": distance, **next(records)} for rank, distance in enumerate(distances, 1)]
        for distances, _ in kept
    ]


def shown_columns(index: Index) -> list[str]:
    """The first few metadata columns that say something to people."""
    return [name for name in index.columns if name not in HIDDEN][:MOST_COLUMNS]


def as_table(results: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """An aligned table: rank, distance in bits, id, columns; those that no result has a value in are left out."""
    shown = [name for name in columns if name == "id" or any(row[name] is not None for row in results)]
    names = ["rank", "bits", "id", *(name for name in shown if name != "id")]
    keys = ["rank", "distance", *names[2:]]
    cells = [[_cell(row[key]) for key in keys] for row in results]
    right = [all(isinstance(row[key], int | float | None) for row in results) for key in keys]
    widths = [max(len(name), *(len(row[at]) for row in cells)) for at, name in enumerate(names)]
    width = shutil.get_terminal_size((160, 24)).columns
    lines = []
    for row in [names, *cells]:
        padded = [
            text.rjust(size) if flush else text.ljust(size)
            for text, size, flush in zip(row, widths, right, strict=True)
        ]
        lines.append("  ".join(padded).rstrip()[: max(width, 60)])
    return "\n".join(lines)


def as_json(record: Any) -> str:
    """One line of JSON; what JSON does not know (times, bytes) becomes text."""
    return json.dumps(record, ensure_ascii=False, default=str)


def file_path(index: Index, name: str) -> str:
    """Where the picture of an id lies, if the index knows and it is there; else the id."""
    for source in reversed(index_sources(index)):
        path = Path(source.get("path") or ".")
        root = path if source.get("kind") == "folder" and path.is_dir() else path.parent
        if source.get("kind") in ("folder", "manifest") and os.path.exists(root / name):
            return str(root / name)
    return name


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    if isinstance(value, float):
        value = f"{value:.6g}"
    text = " ".join(str(value).split())
    return text if len(text) <= CELL else text[: CELL - 3] + "..."

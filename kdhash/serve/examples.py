"""Filters that a user can start from, made of the columns and values that are there."""

from collections import Counter
from typing import Any

import numpy as np

ROWS = 200
SHOWN = 4
LONGEST = 30
# what a picture shows is asked for first, how its file is kept by nobody
FIRST = ("label", "labels", "tags", "split", "width", "height")
NEVER = ("bytes", "mtime_ns", "sha256")


def filter_examples(index: Any) -> list[str]:
    """Up to four filters that find something, such as `label = "dog"`; from the first rows of the index."""
    segment = next((segment for segment in index.segments if segment.count), None)
    if segment is None:
        return []
    table = segment.items.slice(0, ROWS)
    names = [
        name
        for name in index.columns
        if name in table.column_names and name.isidentifier() and name not in NEVER
    ]
    names.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
    examples = (_example(name, index.columns[name], table[name].drop_null().to_pylist()) for name in names)
    return [example for example in examples if example is not None][:SHOWN]


def _example(name: str, kind: str, values: list[Any]) -> str | None:
    if not values:
        return None
    if kind in ("string", "list<string>"):
        words = [word for value in values for word in (value if isinstance(value, list) else [value])]
        [(word, times)] = Counter(words).most_common(1) or [("", 0)]
        if times < 2 or not 0 < len(word) <= LONGEST or '"' in word or "\\" in word:
            return None
        return f'{name} {"=" if kind == "string" else "has"} "{word}"'
    if kind.startswith(("int", "uint", "float", "double")):
        middle = float(f"{np.median(values):.3g}")
        return f"{name} >= {middle:g}" if min(values) < middle <= max(values) else None
    return None

"""Rows of several runs that differ in their seed, put together."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdhash.reproduce import condense

Document = dict[str, Any]  # what condense.py keeps of a run


COSTS = ("encode_ms", "parameters", "multiply_adds")
TAUGHT, BY_SINGLE = "student, taught by ", "student, taught by the best single"
PLAIN, FUSED = "student, no transfer", "student, taught by attention"


class Row(NamedTuple):
    """A row's values, one a seed."""

    name: str
    group: str
    metrics: dict[str, list[float]]
    costs: dict[
        str, list[float]
    ]  # 'encode_ms', 'relative' (to a row of the same run), 'parameters', 'multiply_adds'
    networks: int | None
    views: int | None


class Value(NamedTuple):
    """Mean and standard deviation over seeds; of one seed the deviation is 0, which says nothing."""

    mean: float
    deviation: float
    seeds: int


def read_table(results: Path, table: str) -> list[Document]:
    """All files of a table, by name; none where there is no folder yet."""
    return [condense.read(path) for path in sorted((results / table).glob("*.json"))]


def read_all(results: Path, tables: Sequence[str]) -> list[Document]:
    return [one for table in tables for one in read_table(results, table)]


def of_group(documents: Iterable[Document], group: str) -> list[Document]:
    return [one for one in documents if one["group"] == group]


def pool(documents: Sequence[Document], reference: str = "") -> dict[str, Row]:
    """Rows by name, in the order of the first file. 'relative' is the encode time over that of the row `reference`, each
    measured in the same run: times of different runs are not to be compared."""
    rows: dict[str, Row] = {}
    for document in documents:
        base = next((row.get("encode_ms") for row in document["rows"] if row["name"] == reference), None)
        # Which single teacher is the best can differ from seed to seed.
        alone = {TAUGHT + row["name"] for row in document["rows"] if row.get("networks") == 1}
        alone.add(
            f"{TAUGHT}{document.get('best_single')}"
        )  # of robustness, which has no rows of single teachers
        for found in document["rows"]:
            label = BY_SINGLE if found["name"] in alone else found["name"]
            empty = Row(label, found["group"], {}, {}, found.get("networks"), found.get("views"))
            row = rows.setdefault(label, empty)
            for name, values in found["metrics"].items():
                row.metrics.setdefault(name, []).extend(value for value in values if value is not None)
            costs = {name: found.get(name) for name in COSTS}
            costs["relative"] = costs["encode_ms"] / base if base and costs["encode_ms"] else None
            for name, value in costs.items():
                if value is not None:
                    row.costs.setdefault(name, []).append(value)
    return rows


def value_of(values: Sequence[float]) -> Value:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    return Value(float(np.mean(values)), deviation, len(values))


def difference(one: Row, other: Row, metric: str) -> Value:
    """Seed by seed, so that what a seed does to both alike does not count; a row that no seed changes has one value. Raises
    ValueError for other numbers of seeds."""
    a, b = (row.metrics[metric] for row in (one, other))
    if len(b) == 1:
        b = b * len(a)
    if len(a) != len(b):
        raise ValueError(f"{one.name} has {len(a)} seeds, {other.name} {len(b)}")
    return value_of([x - y for x, y in zip(a, b, strict=True)])


def singles(rows: dict[str, Row], views: int = 1) -> list[Row]:
    """The single teachers that see so many views."""
    return [row for row in rows.values() if row.networks == 1 and row.views == views]

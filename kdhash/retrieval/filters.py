"""Filters on metadata: 'label = "dog" and (width > 300 or tags has "snow") and not split = "query"'.

The language: `kdhash.retrieval.filter_parser`. An item without a value in a column fails every comparison; `not` and `!=`
are exact opposites, so that it passes these. Strings compare by their UTF-8 bytes. `kdhash.retrieval.filter_sql` says the
same in SQL.
"""

import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool

from kdhash.retrieval.filter_parser import (
    And,
    Comparison,
    FilterError,
    Not,
    Value,
    comparisons,
    like_pattern,
    parse,
)

COMPARE = {"=": "equal", "<": "less", "<=": "less_equal", ">": "greater", ">=": "greater_equal"}
KINDS = {str: "a string", bool: "true or false", int: "a number", float: "a number"}


@dataclass(frozen=True)
class Filter:
    """A parsed filter."""

    text: str
    root: Any

    @property
    def columns(self) -> set[str]:
        """The columns that it looks at."""
        return {comparison.column for comparison in comparisons(self.root)}

    def check(self, columns: Mapping[str, str]) -> None:
        """Raises FilterError for a column that is not among `columns` (name -> Arrow type as text), and for a comparison
        that does not suit its type. A column of type 'null' suits everything."""
        for comparison in comparisons(self.root):
            _check(comparison, columns)

    def mask(self, table: Any) -> Bool[np.ndarray, " n"]:
        """Which rows of a pyarrow.Table pass. Raises FilterError as `check` does."""
        from kdhash.retrieval.columns import type_name

        self.check({field.name: type_name(field.type) for field in table.schema})
        return _mask(self.root, table)

    def sql(self, dialect: str, column: Callable[[str], str]) -> tuple[str, dict[str, Value]]:
        """`filter_sql.to_sql`: a condition with named parameters, and the parameters."""
        from kdhash.retrieval.filter_sql import to_sql

        return to_sql(self.root, dialect, column)


def parse_filter(text: str) -> Filter:
    """Reads a filter. Raises FilterError, which says at which character, where it is none."""
    return Filter(text, parse(text))


def _check(comparison: Comparison, columns: Mapping[str, str]) -> None:
    name, at = comparison.column, comparison.at
    if name not in columns:
        near = difflib.get_close_matches(name, columns, 1)
        listed = ", ".join(f"{known} ({kind})" for known, kind in sorted(columns.items()))
        meant = f"; did you mean {near[0]!r}?" if near else "."
        raise FilterError(at, f"no column {name!r}{meant} Columns: {listed}")
    kind = columns[name]
    if kind == "null":
        return
    inner = kind.removeprefix("list<").removesuffix(">")
    if (comparison.sign == "has") != (inner != kind):
        hint = f"compare it with = or in, as in {name} = ..." if inner == kind else f"write {name} has ..."
        raise FilterError(at, f"column {name!r} is {kind}: {hint}")
    if inner == "null":
        return
    expected = _kind(inner)
    if expected is None:
        raise FilterError(
            at, f"column {name!r} is {kind}; filters know strings, numbers, true and false, and lists of them"
        )
    if comparison.sign == "like" and expected != "a string":
        raise FilterError(at, f"column {name!r} is {kind}; like is for strings")
    if comparison.sign in ("<", "<=", ">", ">=") and expected == "true or false":
        raise FilterError(at, f"column {name!r} is {kind}; compare it with = true or = false")
    for value in comparison.values:
        if KINDS[type(value)] != expected:
            shown = str(value).lower() if isinstance(value, bool) else repr(value)
            raise FilterError(at, f"column {name!r} is {kind}; compare it with {expected}, not with {shown}")


def _kind(type_text: str) -> str | None:
    if type_text == "string":
        return "a string"
    if type_text == "bool":
        return "true or false"
    return "a number" if re.fullmatch(r"u?int\d+|halffloat|float|double", type_text) else None


def _mask(node: Any, table: Any) -> Bool[np.ndarray, " n"]:
    if isinstance(node, Not):
        return ~_mask(node.part, table)
    if isinstance(node, Comparison):
        chunks = table[node.column].chunks
        return np.concatenate([np.zeros(0, bool)] + [_compare(node, chunk) for chunk in chunks])
    combine = np.logical_and if isinstance(node, And) else np.logical_or
    return combine.reduce([_mask(part, table) for part in node.parts])


def _compare(node: Comparison, array: Any) -> Bool[np.ndarray, " n"]:
    import pyarrow as pa
    import pyarrow.compute as pc

    value = node.values[0]
    if pa.types.is_null(array.type):
        return np.zeros(len(array), bool)
    if node.sign == "has":
        hits = np.zeros(len(array), bool)
        same = _compare(Comparison(node.column, "=", (value,), node.at), array.flatten())
        hits[pc.list_parent_indices(array).to_numpy()[same]] = True
        return hits
    if node.sign == "in" and not isinstance(value, str):
        return np.logical_or.reduce(
            [_compare(Comparison(node.column, "=", (one,), node.at), array) for one in node.values]
        )
    if node.sign == "in":
        result = pc.is_in(array, value_set=pa.array(node.values, pa.string()))
    elif node.sign == "like":
        result = pc.match_like(array, like_pattern(str(value)))
    else:
        if isinstance(value, float) and pa.types.is_integer(array.type):
            array = array.cast(pa.float64(), safe=False)
        elif pa.types.is_floating(array.type):
            value = float(value)  # Arrow refuses whole numbers above 2**53 here
        elif pa.types.is_uint64(array.type):
            if isinstance(value, int) and value < 0:  # no common type: what is below 0 is below all of them
                return np.full(len(array), node.sign in (">", ">=")) & array.is_valid().to_numpy(False)
            value = pa.scalar(value, pa.uint64())
        result = pc.call_function(COMPARE[node.sign], [array, pa.scalar(value)])
    return result.fill_null(False).to_numpy(zero_copy_only=False)

"""Filters as SQL conditions with parameters."""

from collections.abc import Callable
from typing import Any

from kdhash.retrieval.filter_parser import And, Comparison, Not, Or, Value, like_pattern

DIALECTS = ("clickhouse", "postgres")


def to_sql(root: Any, dialect: str, column: Callable[[str], str]) -> tuple[str, dict[str, Value]]:
    """A filter's root as a condition that is never NULL, and its parameters by name.

    dialect: 'clickhouse' writes parameters as {w0:String} (as clickhouse-connect and chdb do), 'postgres' as %(w0)s (psycopg).
    column: a column's name -> the SQL that reads it, quoted. The condition holds for the rows that `Filter.mask` takes if a
    missing value is NULL there (in ClickHouse Nullable(...), for lists an empty Array) and NaN is stored as NULL. Raises
    ValueError for another dialect.
    """
    if dialect not in DIALECTS:
        raise ValueError(f"dialect: {dialect!r} is unknown; known are {', '.join(DIALECTS)}")
    parameters: dict[str, Value] = {}

    def parameter(value: Value) -> str:
        name = f"w{len(parameters)}"
        parameters[name] = value
        if dialect == "postgres":
            return f"%({name})s"
        kinds: dict[type, str] = {str: "String", bool: "Bool", int: "Int64", float: "Float64"}
        return f"{{{name}:{kinds[type(value)]}}}"

    def condition(node: Any) -> str:
        if isinstance(node, Not):
            return f"NOT {condition(node.part)}"
        if isinstance(node, And | Or):
            word = " AND " if isinstance(node, And) else " OR "
            return f"({word.join(condition(part) for part in node.parts)})"
        text = _comparison(node, dialect, column(node.column), parameter)
        # what is compared with NULL is neither true nor false: here it is false
        return f"ifNull({text}, 0)" if dialect == "clickhouse" else f"coalesce({text}, false)"

    return condition(root), parameters


def _comparison(node: Comparison, dialect: str, column: str, parameter: Callable[[Value], str]) -> str:
    if node.sign == "has":
        value = parameter(node.values[0])
        return f"has({column}, {value})" if dialect == "clickhouse" else f"{value} = ANY({column})"
    if node.sign == "like":
        return f"{column} LIKE {parameter(like_pattern(str(node.values[0])))}"
    if node.sign == "in":
        return f"{column} IN ({', '.join(parameter(value) for value in node.values)})"
    if dialect == "postgres" and node.sign != "=" and isinstance(node.values[0], str):
        column += ' COLLATE "C"'  # by bytes, not by the customs of a language
    return f"{column} {node.sign} {parameter(node.values[0])}"

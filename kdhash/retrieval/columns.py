"""Metadata columns: the forms in which they are stored, and their names for people."""

from typing import Any

RESERVED = ("number", "distance")  # columns of results


def plain_table(table: Any) -> Any:
    """The table with 'id' (string, without nulls) first, and every column in one plain type: strings and lists of them have one
    form each, dictionaries are decoded. Raises ValueError naming a column that is missing or of a reserved name."""
    import pyarrow as pa

    names = table.column_names
    if "id" not in names:
        raise ValueError(f"table: no column 'id'; its columns are {', '.join(names) or 'none'}")
    for name in names:
        if name in RESERVED or names.count(name) > 1:
            raise ValueError(
                f"table: column {name!r} is {'reserved' if name in RESERVED else 'there twice'}; rename it"
            )
    table = table.select(["id", *(name for name in names if name != "id")])
    schema = pa.schema([(field.name, plain_type(field.type)) for field in table.schema])
    if schema.field("id").type != pa.string():
        raise ValueError(f"table: column 'id' must hold strings, it holds {schema.field('id').type}")
    if table["id"].null_count:
        raise ValueError("table: an item has no id")
    return table.cast(schema)


def plain_type(kind: Any) -> Any:
    """The one form in which a type is stored: of strings, of lists; what a dictionary stands for."""
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return plain_type(kind.value_type)
    if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type))
    return kind


def type_name(kind: Any) -> str:
    """An Arrow type as people read it: 'string', 'int64', 'list<string>'."""
    import pyarrow as pa

    return f"list<{type_name(kind.value_type)}>" if pa.types.is_list(kind) else str(kind)


def common_type(first: str, second: str) -> str | None:
    """The type, as text, in which both kinds of values fit: 'null' (nothing but missing values) fits into all. None for none."""
    if first == second or second == "null":
        return first
    if first == "null":
        return second
    if first.startswith("list<") and second.startswith("list<"):
        inner = common_type(first[5:-1], second[5:-1])
        return inner and f"list<{inner}>"
    return None


def first_difference(first: Any, second: Any) -> str:
    """How two schemas differ, in words."""
    for name in dict.fromkeys([*first.names, *second.names]):
        kinds = [
            type_name(schema.field(name).type) if name in schema.names else "missing"
            for schema in (first, second)
        ]
        if kinds[0] != kinds[1]:
            return f"table: column {name!r} was {kinds[0]} in the first block, and is {kinds[1]} in this one"
    return (
        f"table: columns are {', '.join(second.names)}, and were {', '.join(first.names)} in the first block"
    )

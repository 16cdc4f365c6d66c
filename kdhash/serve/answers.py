"""Items of an index as JSON."""

import base64
import datetime
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int64

# what one answer carries of a long text or list
LONGEST = 2000


def item_rows(
    index: Any, numbers: Int64[np.ndarray, " n"], columns: Sequence[str] | None = None
) -> list[dict[str, Any]]:
    """Number, id, code (hex) and metadata of items, in the order of `numbers`; `columns` None is all metadata."""
    table = index.rows(numbers, None if columns is None else ["id", *columns])
    codes = index.codes_of(numbers)
    return [
        {
            "number": row.pop("number"),
            "id": row.pop("id"),
            "code": code.tobytes().hex(),
            "metadata": {name: plain(value) for name, value in row.items()},
        }
        for row, code in zip(table.to_pylist(), codes, strict=True)
    ]


def found_rows(
    index: Any,
    distances: Sequence[int],
    numbers: Int64[np.ndarray, " n"],
    columns: Sequence[str] | None = None,
) -> list[dict[str, Any]]:
    """`item_rows` with distance and matched bits."""
    return [
        row | {"distance": int(distance), "matched_bits": index.bits - int(distance)}
        for distance, row in zip(distances, item_rows(index, numbers, columns), strict=True)
    ]


def plain(value: Any) -> Any:
    """A metadata value as JSON can hold it: dates in ISO form, bytes in base64, NaN as null, long ones cut."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain(inner) for inner in value[:LONGEST]]
    if isinstance(value, bytes):
        return base64.b64encode(value[:LONGEST]).decode()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)[:LONGEST]

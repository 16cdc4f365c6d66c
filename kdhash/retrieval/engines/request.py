"""What all engines ask of their arguments, and the form of their answers."""

import operator
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, Shaped, UInt8

from kdhash.retrieval.codes import check_packed
from kdhash.retrieval.columns import plain_type, type_name
from kdhash.retrieval.found import NOTHING, Found


def check_bits(bits: int) -> int:
    """The number of bits, if it is a multiple of 8 from 8 to 32,768; else ValueError."""
    if isinstance(bits, bool) or operator.index(bits) <= 0 or bits % 8 or bits > 2**15:
        raise ValueError(f"bits: expected a multiple of 8 from 8 to {2**15:,}, got {bits}")
    return int(bits)


def check_codes(codes: UInt8[np.ndarray, "n bytes"], bits: int) -> UInt8[np.ndarray, "n bytes"]:
    """The codes, if they are packed codes of so many bits; else ValueError."""
    codes = check_packed("codes", codes)
    if codes.shape[1] * 8 != bits:
        raise ValueError(f"codes: {codes.shape[1] * 8} bits, this engine holds codes of {bits}")
    return np.ascontiguousarray(codes)


def check_numbers(numbers: Int64[np.ndarray, " n"]) -> Int64[np.ndarray, " n"]:
    """The items' numbers as int64, if they are whole numbers from 0 on; else ValueError."""
    given = np.asarray(numbers)
    if given.ndim != 1 or (given.size and given.dtype.kind not in "iu"):
        raise ValueError(f"numbers: expected whole numbers [n], got {given.dtype} {given.shape}")
    if given.size and (given.min() < 0 or given.max() >= 2**63):
        wrong = given.min() if given.min() < 0 else given.max()
        raise ValueError(f"numbers: expected 0 to 2**63 - 1, got {wrong}")
    return given.astype(np.int64)


def check_items(
    numbers: Int64[np.ndarray, " n"], codes: UInt8[np.ndarray, "n bytes"], columns: Any, bits: int
) -> tuple[Int64[np.ndarray, " n"], UInt8[np.ndarray, "n bytes"], Any]:
    """Numbers, codes and columns (pyarrow.Table or None) of n items, in ascending order of the numbers.

    Raises ValueError, naming the argument, where they do not fit together or a number is there twice.
    """
    numbers, codes = check_numbers(numbers), check_codes(codes, bits)
    for name, length in (
        ("codes", len(codes)),
        ("columns", len(numbers) if columns is None else columns.num_rows),
    ):
        if length != len(numbers):
            raise ValueError(f"{name}: {length:,} rows for {len(numbers):,} numbers")
    columns = None if columns is None else plain_columns(columns)
    if (numbers[1:] > numbers[:-1]).all():
        return numbers, codes, columns
    order = np.argsort(numbers, kind="stable")
    numbers = numbers[order]
    twice_there = numbers[1:] == numbers[:-1]
    if twice_there.any():
        raise ValueError(f"numbers: {numbers[1:][twice_there][0]} is there twice in one call")
    return numbers, codes[order], None if columns is None else columns.take(order)


def check_search(
    codes: UInt8[np.ndarray, "queries bytes"], k: int | None, radius: int | None, bits: int
) -> tuple[UInt8[np.ndarray, "queries bytes"], int | None, int]:
    """Query codes, k and radius of a search, `bits` where it is None; ValueError naming what is wrong with them."""
    codes = check_codes(codes, bits)
    for name, value, least in (("k", k, 1), ("radius", radius, 0)):
        if value is None:
            continue
        if isinstance(value, bool) or not hasattr(value, "__index__") or value < least:
            raise ValueError(f"{name}: expected a whole number from {least} on, or None, got {value!r}")
    if k is None and radius is None:
        raise ValueError("k and radius are both None: give one, so that there is an end")
    return codes, k if k is None else int(k), bits if radius is None else min(int(radius), bits)


def plain_columns(columns: Any) -> Any:
    """A pyarrow.Table with each column in the form in which such columns are stored. ValueError for a name given twice."""
    import pyarrow as pa

    names = columns.column_names
    if len(set(names)) != len(names):
        raise ValueError(f"columns: {next(name for name in names if names.count(name) > 1)!r} is there twice")
    return columns.cast(pa.schema([(field.name, plain_type(field.type)) for field in columns.schema]))


def types_of(columns: Any) -> dict[str, str]:
    """Column -> Arrow type as text, of a pyarrow.Table."""
    return {field.name: type_name(field.type) for field in columns.schema}


def same_columns(have: Mapping[str, str], columns: Any) -> Any:
    """New columns (pyarrow.Table or None) in the order of those that an engine has. ValueError naming one that differs."""
    new = {} if columns is None else types_of(columns)
    for name in dict.fromkeys([*have, *new]):
        was, now = have.get(name, "missing"), new.get(name, "missing")
        if was != now:
            raise ValueError(
                f"columns: {name!r} is {now} here, and {was} in the items that were added before"
            )
    return columns.select(list(have)) if have else None


def already_there(number: int) -> ValueError:
    """The error for adding a number that an engine holds."""
    return ValueError(f"numbers: {number} is there already; delete it first, or give the item another number")


def make_found(
    distances: np.ndarray,
    numbers: Int64[np.ndarray, "queries width"],
    there: Bool[np.ndarray, "queries width"],
) -> Found:
    """Found from candidates in any order, of which those count that are `there`: sorted, cut to the longest answer."""
    distances = np.where(there, distances, NOTHING).astype(np.uint16)
    numbers = np.where(there, numbers, -1)
    counts = there.sum(axis=1, dtype=np.int64)
    order = np.lexsort((numbers, distances), axis=1)[:, : int(counts.max(initial=0))]
    return Found(np.take_along_axis(distances, order, 1), np.take_along_axis(numbers, order, 1), counts)


def found_of_all(
    counts: Int64[np.ndarray, " queries"],
    distances: Shaped[np.ndarray, " matches"],
    numbers: Int64[np.ndarray, " matches"],
) -> Found:
    """Found from what all queries found, one after the other, in any order within each."""
    counts = counts.astype(np.int64)
    order = np.lexsort((numbers, distances, np.repeat(np.arange(len(counts)), counts)))
    there = np.arange(counts.max(initial=0)) < counts[:, None]
    found = Found(np.full(there.shape, NOTHING, np.uint16), np.full(there.shape, -1, np.int64), counts)
    found.distances[there], found.numbers[there] = distances[order], numbers[order]
    return found


def nothing_found(queries: int) -> Found:
    """Found of queries that found nothing."""
    return found_of_all(np.zeros(queries, np.int64), np.empty(0, np.uint16), np.empty(0, np.int64))

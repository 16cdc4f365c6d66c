"""What a request asks for: fields of JSON, of a form or of an address, checked one by one."""

import json
import re
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from kdhash.serve.refusals import Limits, Refused

DEFAULT_K = 20
OPTIONS = ("k", "radius", "where", "columns")
LARGEST_NUMBER = 2**63 - 1
WHOLE_NUMBERS = ("k", "radius", "number", "count", "groups")


class Options(NamedTuple):
    """How to search."""

    k: int
    radius: int | None
    where: Any
    """a Filter, or None"""
    columns: list[str] | None
    """metadata columns of the answer; None is all"""


def read_json(body: bytes) -> dict[str, Any]:
    """The fields of a JSON body. Raises Refused 400 for what is no JSON object."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is no JSON number")

    try:
        fields = json.loads(body, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else f"{error}"
        raise Refused(400, f"the body is not JSON: {reason[:200]}") from error
    if not isinstance(fields, dict):
        raise Refused(400, 'the body must be a JSON object, such as {"number": 17, "k": 5}')
    return fields


def from_text(fields: Mapping[str, str]) -> dict[str, Any]:
    """Fields of a form or an address, which are all texts, as JSON would have them."""
    typed: dict[str, Any] = dict(fields)
    for name in WHOLE_NUMBERS:
        if re.fullmatch(r"\d{1,18}", typed.get(name, ""), re.ASCII):
            typed[name] = int(typed[name])
    if "columns" in typed:
        typed["columns"] = [name for name in typed["columns"].split(",") if name]
    return typed


def check_names(fields: Collection[str], known: Collection[str]) -> None:
    """Raises Refused 422 for a field that is not known: a typing error must not be ignored."""
    for name in fields:
        if name not in known:
            raise Refused(422, f"{name[:40]!r} is no field; known are {', '.join(known)}")


def read_options(fields: Mapping[str, Any], index: Any, limits: Limits) -> Options:
    """k, radius, where and columns among `fields`. Raises Refused 422, which names the field."""
    where = fields.get("where")
    return Options(
        k=integer(fields, "k", 1, limits.k, DEFAULT_K),
        radius=None if fields.get("radius") is None else integer(fields, "radius", 0, index.bits, 0),
        where=None if where in (None, "") else read_filter(text(fields, "where", limits.text), index),
        columns=read_columns(fields.get("columns"), index),
    )


def integer(fields: Mapping[str, Any], name: str, low: int, high: int, default: int | None = None) -> int:
    """A whole number of `low` to `high`. Raises Refused 422; where there is none, only without a `default`."""
    value = fields.get(name, default)
    if type(value) is float and value.is_integer():
        value = int(value)  # JSON knows one kind of number: 5.0 is 5
    if type(value) is not int or not low <= value <= high:
        raise Refused(422, f"{name}: give a whole number of {low} to {high:,}".replace(",", " "))
    return value


def text(fields: Mapping[str, Any], name: str, longest: int) -> str:
    """A text of 1 to `longest` characters. Raises Refused 422."""
    value = fields.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= longest:
        raise Refused(422, f"{name}: give a text of 1 to {longest} characters")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Refused(
            422, f"{name}: half of a surrogate pair at character {error.start}; remove it"
        ) from error
    return value


def read_code(fields: Mapping[str, Any], bits: int) -> UInt8[np.ndarray, " bytes"]:
    """A code in hexadecimal digits, most significant bit first. Raises Refused 422."""
    value = fields.get("code")
    if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-fA-F]{{{bits // 4}}}", value, re.ASCII):
        raise Refused(422, f"code: give {bits // 4} hexadecimal digits, {bits} bits")
    return np.frombuffer(bytes.fromhex(value), np.uint8)


def read_filter(where: str, index: Any) -> Any:
    """A filter that fits the index's columns. Raises Refused 422, which says what is wrong with it."""
    from kdhash.retrieval.filters import parse_filter

    try:
        parsed = parse_filter(where)
        parsed.check({"id": "string", **index.columns})
    except ValueError as error:
        raise Refused(422, f"where: {error}") from error
    return parsed


def read_columns(columns: Any, index: Any) -> list[str] | None:
    """Names of metadata columns, None for all. Raises Refused 422."""
    if columns is None:
        return None
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise Refused(422, 'columns: give a list of names, such as ["label"]')
    for name in columns:
        if name not in index.columns:
            raise Refused(422, f"columns: {name[:40]!r} is unknown; known are {', '.join(index.columns)}")
    return list(dict.fromkeys(columns))


def read_number(written: str, index: Any) -> int:
    """The number of a live item. Raises Refused: 422 for what is no number, 404 for one that is not there."""
    if not re.fullmatch(r"\d{1,19}", written, re.ASCII) or int(written) > LARGEST_NUMBER:
        raise Refused(422, "number: give the whole number of an item, 0 or more")
    try:
        index.codes_of(np.array([int(written)], np.int64))
    except LookupError as error:
        raise Refused(404, f"number {int(written)} is not in the index; it may have been deleted") from error
    return int(written)

"""What the API takes and answers, as an OpenAPI 3.1 document."""

from collections.abc import Collection
from typing import Any

import kdhash
from kdhash.serve.pictures import NAMES
from kdhash.serve.questions import DEFAULT_K, LARGEST_NUMBER
from kdhash.serve.refusals import Limits

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
WHOLE: Schema = {"type": "integer", "minimum": 0}
MILLISECONDS: Schema = {"type": "number", "minimum": 0}


def describe(bits: int, columns: Collection[str], limits: Limits) -> dict[str, Any]:
    """The document of a server of `bits`-bit codes with these metadata columns."""
    options = _options(bits, columns, limits)
    address = [_parameter("query", name, schema) for name, schema in options.items() if name != "columns"]
    address.append(
        {
            "name": "columns",
            "in": "query",
            "style": "form",
            "explode": False,
            "description": options["columns"]["description"],
            "schema": options["columns"],
        }
    )
    number = _parameter("path", "number", _number())
    found = _ok("Found")
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "kdhash",
            "version": kdhash.__version__,
            "description": "Search of pictures and texts by the Hamming distance of their codes.",
        },
        "paths": {
            "/search": {
                "post": {
                    "summary": "Search by a picture, a text, an item's number or a code",
                    "description": "A picture as multipart/form-data; one of text, number and code as JSON.",
                    "requestBody": _search_body(bits, limits, options),
                    "responses": found | _refusals(400, 404, 408, 413, 415, 422),
                }
            },
            "/similar/{number}": _get(
                "The neighbours of an item, itself left out", [number, *address], found | _refusals(404, 422)
            ),
            "/items/{number}": _get("An item", [number], _ok("Item") | _refusals(404, 422)),
            "/pictures/{number}": _get(
                "An item's thumbnail",
                [number],
                {
                    "200": {"description": "a JPEG", "content": {"image/jpeg": {"schema": {}}}},
                    "304": {"description": "as the client has it"},
                }
                | _refusals(404, 422),
            ),
            "/sample": _get(
                "Items drawn at random, to start from",
                [
                    _parameter(
                        "query", "count", {"type": "integer", "minimum": 1, "maximum": 200, "default": 24}
                    )
                ],
                _ok("Sample") | _refusals(422),
            ),
            "/duplicates": _get(
                "Groups of near duplicates, largest first",
                [
                    _parameter(
                        "query",
                        "radius",
                        {"type": "integer", "minimum": 0, "maximum": limits.duplicates_radius, "default": 2},
                    ),
                    _parameter(
                        "query", "groups", {"type": "integer", "minimum": 1, "maximum": 200, "default": 50}
                    ),
                ],
                _ok("Duplicates") | _refusals(422),
            ),
            "/healthz": _get("Whether requests are welcome", [], _ok("Health")),
            "/info": _get("What is served, and its limits", [], _ok("Info")),
            "/openapi.json": _get(
                "This document", [], {"200": _json_answer("OpenAPI 3.1", {"type": "object"})}
            ),
        },
        "components": {"schemas": _schemas(bits)},
    }


def _options(bits: int, columns: Collection[str], limits: Limits) -> dict[str, Schema]:
    return {
        "k": {
            "type": "integer",
            "minimum": 1,
            "maximum": limits.k,
            "default": DEFAULT_K,
            "description": "results, at most",
        },
        "radius": {
            "type": "integer",
            "minimum": 0,
            "maximum": bits,
            "description": "only items within so many bits",
        },
        "where": {
            "type": "string",
            "maxLength": limits.text,
            "format": "filter",
            "description": 'only items that pass, such as: label = "dog" and width > 300',
        },
        "columns": {
            "type": "array",
            "items": {"enum": list(columns)},
            "description": "metadata columns of the answer; all where it is left out",
        },
    }


def _search_body(bits: int, limits: Limits, options: dict[str, Schema]) -> dict[str, Any]:
    questions = {
        "text": {"type": "string", "minLength": 1, "maxLength": limits.text},
        "number": _number(),
        "code": _code(bits),
    }
    form = options | {
        "columns": {
            "type": "string",
            "format": "columns",
            "description": "metadata columns of the answer, separated by commas",
        },
        "picture": {
            "type": "string",
            "contentMediaType": "application/octet-stream",
            "description": f"{NAMES}, told by its content; at most {limits.upload} bytes and {limits.pixels} pixels",
        },
    }
    return {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "properties": questions | options,
                    "oneOf": [{"required": [name]} for name in questions],
                    "additionalProperties": False,
                },
                "example": {"number": 0, "k": 5},
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": form,
                    "required": ["picture"],
                    "additionalProperties": False,
                },
                "encoding": {"picture": {"contentType": "image/*"}},
            },
        },
    }


def _schemas(bits: int) -> dict[str, Schema]:
    item = {"number": _number(), "id": TEXT, "code": _code(bits), "metadata": {"type": "object"}}
    distance = {"type": "integer", "minimum": 0, "maximum": bits}
    return {
        "Refusal": _object(
            error={"type": "string", "pattern": "^[a-z_]+$", "description": "a word for programs"},
            message={"type": "string", "minLength": 1, "description": "what to do"},
        ),
        "Item": _object(**item),
        "Result": _object(**item, distance=distance, matched_bits=distance),
        "Found": _object(
            query=_object(
                kind={"enum": ["picture", "text", "number", "code"]},
                number={"type": ["integer", "null"]},
                code=_code(bits),
            ),
            bits=WHOLE,
            results=_list(_reference("Result")),
            latency=_object(
                decode_ms=MILLISECONDS | {"description": "reading the picture; part of encode_ms"},
                encode_ms=MILLISECONDS | {"description": "from the picture or text to the code"},
                search_ms=MILLISECONDS,
                batch=WHOLE | {"description": "requests that were encoded together"},
            ),
        ),
        "Sample": _object(items=_list(_reference("Item"))),
        "Duplicates": _object(
            radius=WHOLE,
            groups_total=WHOLE,
            items_total=WHOLE,
            groups=_list(
                _object(
                    count=WHOLE,
                    items=_list(_reference("Result")),
                )
            ),
            search_ms=MILLISECONDS,
        ),
        "Health": _object(status={"const": "ok"}),
        "Info": _object(
            version=TEXT,
            bits=WHOLE,
            count=WHOLE,
            generation=WHOLE,
            engine=TEXT,
            index_model=TEXT,
            model={
                "anyOf": [
                    {"type": "null"},
                    _object(
                        hash=TEXT,
                        kind={"enum": ["image", "image-text"]},
                        size=WHOLE,
                        texts={"type": "boolean"},
                    ),
                ]
            },
            limits={"type": "object", "additionalProperties": {"type": ["integer", "array"]}},
            columns={"type": "object", "additionalProperties": TEXT},
            filter_examples=_list(TEXT),
        ),
    }


def _number() -> Schema:
    return {"type": "integer", "minimum": 0, "maximum": LARGEST_NUMBER}


def _code(bits: int) -> Schema:
    return {
        "type": "string",
        "pattern": f"^[0-9a-fA-F]{{{bits // 4}}}$",
        "description": f"{bits} bits in hexadecimal digits, most significant first",
    }


def _object(**properties: Schema) -> Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _list(items: Schema) -> Schema:
    return {"type": "array", "items": items}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def _parameter(place: str, name: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": place, "required": place == "path", "schema": schema}


def _get(summary: str, parameters: list[dict[str, Any]], responses: dict[str, Any]) -> dict[str, Any]:
    return {"get": {"summary": summary, "parameters": parameters, "responses": responses}}


def _json_answer(description: str, schema: Schema) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _ok(name: str) -> dict[str, Any]:
    return {"200": _json_answer("an answer", _reference(name))}


def _refusals(*statuses: int) -> dict[str, Any]:
    # 421 and 503 can come to every request: another Host than this server's, too many at once
    return {str(status): _json_answer("refused", _reference("Refusal")) for status in (*statuses, 421, 503)}

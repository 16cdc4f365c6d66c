"""The routes. `make_app(index, model)` is an ASGI app; everything it answers is described by openapi.py."""

import asyncio
import os
from collections.abc import Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

import kdhash
from kdhash.export.model import IMAGE_TEXT
from kdhash.serve import questions
from kdhash.serve.answers import item_rows
from kdhash.serve.duplicates import Duplicates
from kdhash.serve.encoder import LARGEST, Encoded
from kdhash.serve.examples import filter_examples
from kdhash.serve.forms import address_fields, read_form
from kdhash.serve.guard import Guard
from kdhash.serve.openapi import describe
from kdhash.serve.pictures import FORMATS, read_picture
from kdhash.serve.refusals import Limits, Refused, refusal
from kdhash.serve.served import Served
from kdhash.serve.static_files import page, sent_once

QUESTIONS = ("text", "number", "code")
SAMPLED = 200


def make_app(
    index: Any,
    model: Any = None,
    *,
    engine: str = "exact",
    batch_size: int = LARGEST,
    limits: Limits | None = None,
    hosts: Collection[str] | None = None,
    threads: int | None = None,
) -> Guard:
    """The API and the page, of an opened index (`kdhash.retrieval.open_index`) and a model (`kdhash.export.load_model`).

    Without a model, pictures and texts are refused. `engine`: see `Index.search`. `batch_size`: queries that are encoded
    together, at most. `hosts`: names that a Host header may carry, None for any. `threads` read pictures and search
    (default: one a core, at least two). Raises ValueError where the model's codes may not search the index.
    """
    limits = limits or Limits()
    served = Served(index, model, engine, batch_size, limits, threads or max(2, os.cpu_count() or 2))
    duplicates_of = Duplicates(limits)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> Any:
        yield
        duplicates_of.close()
        served.close()

    app = Starlette(
        routes=[
            Route("/", page),
            Route("/static/{name}", page),
            Route("/search", search, methods=["POST"]),
            Route("/similar/{number}", similar),
            Route("/items/{number}", item),
            Route("/pictures/{number}", picture),
            Route("/sample", sample),
            Route("/duplicates", duplicates),
            Route("/healthz", healthz),
            Route("/info", info),
            Route("/openapi.json", openapi),
        ],
        exception_handlers={
            Refused: lambda _, error: refusal(error.status, error.message),
            HTTPException: _http_error,
            ClientDisconnect: lambda _, error: Response(status_code=400),  # nobody is there to read it
            Exception: lambda _, error: refusal(500, "something went wrong here; the server's log says what"),
        },
        lifespan=lifespan,
    )
    guard = Guard(app, hosts, limits)
    app.state.served, app.state.guard, app.state.duplicates = served, guard, duplicates_of
    return guard


async def search(request: Request) -> Response:
    """POST /search: a picture (multipart), a text, a number or a code (JSON)."""
    served: Served = request.app.state.served
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        fields, data = await read_form(request)
        questions.check_names(fields, ("picture", *questions.OPTIONS))
        if data is None:
            raise Refused(422, "picture: send the picture as a file in the form field 'picture'")
    elif kind == "application/json":
        fields, data = questions.read_json(await request.body()), None
        questions.check_names(fields, (*QUESTIONS, *questions.OPTIONS))
        asked = [name for name in QUESTIONS if fields.get(name) is not None]
        if len(asked) != 1:
            raise Refused(422, f"give one of {', '.join(QUESTIONS)}; got {' and '.join(asked) or 'none'}")
    else:
        raise Refused(415, "send a picture as multipart/form-data, or JSON as application/json")
    index = await _in_thread(served, served.index)
    options = questions.read_options(fields, index, served.limits)
    if "code" in fields:
        return await _answer(served, index, questions.read_code(fields, index.bits), options, "code")
    if "number" in fields:
        number = questions.integer(fields, "number", 0, questions.LARGEST_NUMBER)
        return await _answer_number(served, index, str(number), options)
    encoded = await _encode(served, fields, data)
    return await _answer(served, index, encoded.code, options, "text" if data is None else "picture", encoded)


async def similar(request: Request) -> Response:
    """GET /similar/{number}: the neighbours of an item."""
    served: Served = request.app.state.served
    fields = address_fields(request, questions.OPTIONS)
    index = await _in_thread(served, served.index)
    options = questions.read_options(fields, index, served.limits)
    return await _answer_number(served, index, request.path_params["number"], options)


async def item(request: Request) -> Response:
    """GET /items/{number}: id, code and metadata."""
    served: Served = request.app.state.served
    address_fields(request, ())

    def read() -> dict[str, Any]:
        index = served.index()
        number = questions.read_number(request.path_params["number"], index)
        return item_rows(index, np.array([number]))[0]

    return JSONResponse(await _in_thread(served, read))


async def picture(request: Request) -> Response:
    """GET /pictures/{number}: the thumbnail."""
    served: Served = request.app.state.served

    def read() -> bytes | None:
        index = served.index()
        return index.thumbnail(questions.read_number(request.path_params["number"], index))

    jpeg = await _in_thread(served, read)
    if jpeg is None:
        raise Refused(404, "this item has no thumbnail; encode with thumbnails to see pictures")
    return sent_once(request, jpeg, "image/jpeg")


async def sample(request: Request) -> Response:
    """GET /sample: some items to start from."""
    served: Served = request.app.state.served
    count = questions.integer(address_fields(request, ("count",)), "count", 1, SAMPLED, 24)
    items = await _in_thread(served, lambda: served.sample(served.index(), count))
    return JSONResponse({"items": items})


async def duplicates(request: Request) -> Response:
    """GET /duplicates: groups of near duplicates."""
    served: Served = request.app.state.served
    fields = address_fields(request, ("radius", "groups"))
    radius = questions.integer(fields, "radius", 0, served.limits.duplicates_radius, 2)
    groups = questions.integer(fields, "groups", 1, 200, 50)
    index = await _in_thread(served, served.index)
    return JSONResponse(await request.app.state.duplicates.answer(index, radius, groups))


async def healthz(request: Request) -> Response:
    """GET /healthz: 200 while requests are welcome, 503 once the server is to stop."""
    if request.app.state.guard.draining:
        return refusal(503, "this server is about to end; ask another, or start it again")
    return JSONResponse({"status": "ok"})


async def info(request: Request) -> Response:
    """GET /info: what is served, and its limits."""
    served: Served = request.app.state.served
    index = await _in_thread(served, served.index)
    examples = await _in_thread(served, lambda: filter_examples(index))
    return JSONResponse(_facts(served, index) | {"columns": dict(index.columns), "filter_examples": examples})


async def openapi(request: Request) -> Response:
    """GET /openapi.json."""
    served: Served = request.app.state.served
    index = await _in_thread(served, served.index)
    return JSONResponse(describe(index.bits, index.columns, served.limits))


def _facts(served: Served, index: Any) -> dict[str, Any]:
    model, limits = served.model, served.limits
    return {
        "version": kdhash.__version__,
        "bits": index.bits,
        "count": len(index),
        "generation": index.generation,
        "engine": served.engine,
        "index_model": index.model,
        "model": None
        if model is None
        else {"hash": model.hash, "kind": model.kind, "size": model.size, "texts": model.kind == IMAGE_TEXT},
        "limits": {
            "k": limits.k,
            "upload_bytes": limits.upload,
            "pixels": limits.pixels,
            "text_characters": limits.text,
            "duplicates_radius": limits.duplicates_radius,
            "formats": list(FORMATS),
        },
    }


async def _encode(served: Served, fields: dict[str, Any], data: bytes | None) -> Encoded:
    if served.encoder is None:
        raise Refused(422, "this server has no model; search by number or code, or start it with --model")
    if data is not None:
        max_pixels = served.limits.pixels
        return await served.encoder.picture(lambda: read_picture(data, served.model, max_pixels))
    if served.model.kind != IMAGE_TEXT:
        raise Refused(422, "text: this server's model has no text tower; send a picture")
    return await served.encoder.text(questions.text(fields, "text", served.limits.text))


async def _answer_number(served: Served, index: Any, number: str, options: questions.Options) -> Response:
    item = questions.read_number(number, index)
    code = index.codes_of(np.array([item]))[0]
    return await _answer(served, index, code, options, "number", itself=item)


async def _answer(
    served: Served,
    index: Any,
    code: np.ndarray,
    options: questions.Options,
    kind: str,
    encoded: Encoded | None = None,
    itself: int | None = None,
) -> Response:
    results, search_ms = await _in_thread(served, lambda: served.search(index, code, options, itself))
    query = {"kind": kind, "number": itself, "code": code.tobytes().hex()}
    latency = {
        "decode_ms": round(encoded.decode_ms, 3) if encoded else 0,
        "encode_ms": round(encoded.encode_ms, 3) if encoded else 0,
        "search_ms": round(search_ms, 3),
        "batch": encoded.batch if encoded else 0,
    }
    return JSONResponse({"query": query, "bits": index.bits, "results": results, "latency": latency})


async def _in_thread(served: Served, work: Callable[[], Any]) -> Any:
    return await asyncio.get_running_loop().run_in_executor(served.threads, work)


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    messages = {
        404: "nothing is here; /openapi.json lists what there is",
        405: "this method is not answered here; /openapi.json says which is",
    }
    headers = dict(error.headers) if error.headers else None
    return refusal(error.status_code, messages.get(error.status_code, error.detail), headers)

"""The page and its files, and answers that a client need not fetch twice."""

import hashlib
from functools import cache
from importlib.resources import files

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

STATIC = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "api.js": "text/javascript; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
    "view.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


async def page(request: Request) -> Response:
    """The page and its files."""
    name = request.path_params.get("name", "index.html")
    if name not in STATIC:
        raise HTTPException(404)
    return sent_once(request, _read(name), STATIC[name])


def sent_once(request: Request, content: bytes, media_type: str) -> Response:
    """An answer that a client which has it already is not sent again.

    It has to ask each time: another index may be served at this address tomorrow.
    """
    tag = f'"{hashlib.blake2b(content, digest_size=8).hexdigest()}"'
    headers = {"etag": tag, "cache-control": "no-cache"}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=media_type, headers=headers)


@cache
def _read(name: str) -> bytes:
    return files("kdhash.serve").joinpath("static", name).read_bytes()

"""What a request is answered with when it cannot be: a status, a word for programs and a sentence for people."""

from http import HTTPStatus
from typing import NamedTuple

from starlette.responses import JSONResponse


class Limits(NamedTuple):
    """What one request may ask for."""

    upload: int = 16 * 2**20
    """bytes of a request's body"""
    pixels: int = 64_000_000
    """of an uploaded picture, by its header"""
    k: int = 1000
    """results"""
    text: int = 2000
    """characters of a text or a filter"""
    duplicates_radius: int = 8
    """bits; wider, and most items of a usual index are each other's neighbours"""
    duplicates_items: int = 1_000_000
    """live items of an index that near duplicates are looked for in"""
    requests: int = 256
    """answered at the same time"""
    upload_seconds: float = 30
    """for a request's body to arrive"""


class Refused(Exception):
    """A request that cannot be answered, and why. The message says what to do and names no path of this machine."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status = status
        self.message = message


def refusal(status: int, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer that carries a refusal: {"error": "not_found", "message": "..."}."""
    word = HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")
    # a lone surrogate of the request, quoted in the message, has no UTF-8
    readable = message.encode("utf-8", "replace").decode()
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers = {"retry-after": "1"}
    return JSONResponse({"error": word, "message": readable}, status, headers)

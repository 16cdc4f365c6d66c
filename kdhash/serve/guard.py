"""What stands before the app: who may ask, how much, and the headers of every answer."""

import asyncio
from collections.abc import Collection
from typing import Any

from starlette.datastructures import Headers, MutableHeaders

from kdhash.serve.refusals import Limits, Refused, refusal

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    # another site's page must not show these thumbnails, nor learn from them which pictures are here
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
# The rest of a body that is too large is read and thrown away up to this many limits: a client that is still sending
# would not read the answer.
DISCARDED = 4


class Guard:
    """An ASGI app around another.

    `hosts`: the names that a Host header may carry, None for any. A page of another site, whose name is made
    to point to this machine (DNS rebinding), would otherwise read the answers. `draining`: set when the
    server is to stop; answers then tell clients to close their connections.
    """

    def __init__(self, app: Any, hosts: Collection[str] | None, limits: Limits):
        self.app = app
        self.hosts = hosts
        self.limits = limits
        self.answering = 0
        self.draining = False

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                headers.update(HEADERS)
                if "cache-control" not in headers:
                    headers["cache-control"] = "no-store"
                if self.draining:
                    headers["connection"] = "close"
            await send(message)

        if refused := self._refuse(Headers(scope=scope)):
            return await refused(scope, receive, send_with_headers)
        self.answering += 1
        try:
            await self.app(scope, self._bounded(receive), send_with_headers)
        finally:
            self.answering -= 1

    def _refuse(self, headers: Headers) -> Any:
        if self.hosts is not None and host_name(headers.get("host", "")) not in self.hosts:
            names = ", ".join(self.hosts)
            return refusal(
                421, f"this server answers to {names} only; start it with --allow-host to add a name"
            )
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length[:18]) > DISCARDED * self.limits.upload:
            return too_large(self.limits)
        if self.answering >= self.limits.requests:
            return refusal(503, "too many requests at once; try again in a second")
        return None

    def _bounded(self, receive: Any) -> Any:
        """`receive` that raises Refused where the body is too large (413) or too slow (408)."""
        received, complete = 0, False
        deadline = asyncio.get_running_loop().time() + self.limits.upload_seconds

        async def read() -> Any:
            nonlocal received, complete
            message = await receive()
            received += len(message.get("body", b""))
            complete = not message.get("more_body")
            return message

        async def bounded() -> Any:
            if complete:
                return await receive()  # nothing but the news that the client has gone
            try:
                async with asyncio.timeout_at(deadline):
                    message = await read()
                    if received <= self.limits.upload:
                        return message
                    while not complete and received <= DISCARDED * self.limits.upload:
                        await read()
            except TimeoutError:
                seconds = f"{self.limits.upload_seconds:g} s"
                raise Refused(408, f"the request did not arrive within {seconds}; send it again") from None
            raise Refused(413, too_large_message(self.limits))

        return bounded


def host_name(host: str) -> str:
    """A Host header without its port."""
    name, _, port = host.lower().rpartition(":")
    return name if name and port.isdecimal() else host.lower()


def too_large_message(limits: Limits) -> str:
    return f"the request is larger than {limits.upload / 2**20:g} MiB; send a smaller picture"


def too_large(limits: Limits) -> Any:
    return refusal(413, too_large_message(limits))

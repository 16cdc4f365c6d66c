"""A uvicorn server that answers everything it has been asked before it ends."""

import asyncio
import contextlib
import ctypes
import signal
import socket
import struct
import sys
from typing import Any

import uvicorn

from kdhash.serve.guard import Guard

# Clients that are connected when the end is called have so long to send their request.
GRACE_SECONDS = 1.0
# Then what is being answered has so long.
PATIENCE_SECONDS = 60
# A filter for a listening socket (classic BPF on the TCP header): a packet that begins a connection (SYN without ACK) is
# dropped, all others pass. The client tries again in a second, and is refused then.
SO_ATTACH_FILTER = 26
NO_NEW_CONNECTIONS = (
    (0x30, 0, 0, 13),  # load the byte of flags
    (0x54, 0, 0, 0x12),  # SYN and ACK of it
    (0x15, 0, 1, 0x02),  # only SYN?
    (0x06, 0, 0, 0),  # drop
    (0x06, 0, 0, 0x40000),  # pass
)


class DrainingServer(uvicorn.Server):
    """When uvicorn stops, it resets connections that wait in the listening socket's queue, and closes kept ones between two
    requests. Here the queue is emptied first, and answers tell clients to close their connections.
    """

    def __init__(self, config: uvicorn.Config, guard: Guard, listener: socket.socket):
        super().__init__(config)
        self.guard = guard
        self.listener = listener
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self.guard.draining = True
        loop = asyncio.get_running_loop()
        loop.remove_reader(self.listener.fileno())  # from here on only `_accept_all` accepts
        drop_new_connections(self.listener)
        for _ in range(5):  # connections that were begun before take a moment to come about
            await self._accept_all()
            await asyncio.sleep(0.01)
        for server in self.servers:
            server.close()
        last = loop.time() + GRACE_SECONDS
        while self.server_state.connections and loop.time() < last:
            await asyncio.sleep(0.01)
        await super().shutdown(sockets)

    async def _accept_all(self) -> None:
        while True:
            try:
                connection = self.listener.accept()[0]
            except OSError:  # none is left
                return
            connection.setblocking(False)
            await asyncio.get_running_loop().connect_accepted_socket(self._protocol, connection)

    def _protocol(self) -> Any:
        protocol: Any = self.config.http_protocol_class
        return protocol(config=self.config, server_state=self.server_state, app_state=self.lifespan.state)


def drop_new_connections(listener: socket.socket) -> None:
    """From now on the kernel queues no new connections (Linux; elsewhere nothing happens)."""
    program = b"".join(struct.pack("HBBI", *line) for line in NO_NEW_CONNECTIONS)
    memory = ctypes.create_string_buffer(program)
    with contextlib.suppress(OSError):
        if sys.platform == "linux":
            filter_of = struct.pack("HL", len(NO_NEW_CONNECTIONS), ctypes.addressof(memory))
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, filter_of)


def listen(host: str, port: int) -> socket.socket:
    """A listening TCP socket; port 0 takes a free one. Raises OSError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # with the protocol named, asyncio sends answers at once (TCP_NODELAY); otherwise each waits 40 ms for an acknowledgement
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except BaseException:
        listener.close()
        raise
    return listener


def run_server(guard: Guard, listener: socket.socket, ready: Any) -> None:
    """Serves until SIGINT or SIGTERM, and calls `ready()` once requests are answered. A second Ctrl-C ends at once."""
    config = uvicorn.Config(
        guard,
        log_level="warning",
        access_log=False,
        server_header=False,
        loop="asyncio",
        ws="none",
        lifespan="on",
        timeout_keep_alive=30,
        timeout_graceful_shutdown=PATIENCE_SECONDS,
    )
    server = DrainingServer(config, guard, listener)

    async def serve() -> None:
        serving = asyncio.create_task(server.serve([listener]))
        waiting = asyncio.create_task(server.ready.wait())
        await asyncio.wait({serving, waiting}, return_when=asyncio.FIRST_COMPLETED)
        if server.ready.is_set():
            ready()
        waiting.cancel()
        await serving

    # uvicorn raises the signal once more after a graceful end; then it means nothing
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    asyncio.run(serve())

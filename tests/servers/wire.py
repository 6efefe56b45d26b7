"""HTTP/1.1 on loopback without threads per request: the one wire under every fake chat server.

Owns: connections (keep-alive, one request at a time on each), how an answer is sent, held back or broken off, and
the counts of requests under way. Must not know: what a chat is, what is answered.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from typing import Literal, NamedTuple, Self, cast

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_RESET = struct.pack("ii", 1, 0)


class Response(NamedTuple):
    """What one POST is met with. `hang`: nothing, ever; `reset`: the connection is torn; `drop`: it is closed after the
    delay without a word."""

    payload: bytes
    delay_s: float = 0.0
    end: Literal["answer", "hang", "reset", "drop"] = "answer"


class Responder:
    """Decides each answer, on the server's one thread."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.peak_in_flight = 0
        self.connections: set[asyncio.Transport] = set()

    def answer(self, head: bytes, body: bytes) -> Response:
        """To a POST; `head` is its request line and header fields."""
        raise AssertionError("nobody decides what is answered")

    def page(self, path: bytes) -> bytes:
        """The JSON of a GET."""
        if path == b"/v1/models":
            return b'{"object": "list", "data": [{"id": "chat", "object": "model"}]}'
        return b'{"status": "ok"}'


def http(status: int, body: bytes, *, form: str = "application/json", extra: str = "") -> bytes:
    """One response as it goes over the wire; `extra` is further header lines, each with its end."""
    head = f"HTTP/1.1 {status} x\r\nContent-Type: {form}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


class _Connection(asyncio.Protocol):
    """One keep-alive connection: reads a request, answers it, reads the next."""

    def __init__(self, responder: Responder) -> None:
        self._responder = responder
        self._buffer = b""
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._responder.connections.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._busy:
            self._done()
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._responder.connections.discard(self._transport)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def _next(self) -> None:
        end = self._buffer.find(b"\r\n\r\n")
        if self._busy or end < 0:
            return
        length = _LENGTH.search(self._buffer, 0, end)
        total = end + 4 + (int(length[1]) if length else 0)
        if len(self._buffer) < total:
            return
        head, body, self._buffer = self._buffer[:end], self._buffer[end + 4 : total], self._buffer[total:]
        request_line = head.partition(b"\r\n")[0].split(b" ")
        if request_line[0] == b"POST":
            self._ask(head, body)
        else:
            self._send(http(200, self._responder.page(request_line[1])))

    def _ask(self, head: bytes, body: bytes) -> None:
        responder = self._responder
        self._busy = True
        responder.in_flight += 1
        responder.peak_in_flight = max(responder.peak_in_flight, responder.in_flight)
        response = responder.answer(head, body)
        if response.end == "hang":
            return
        if response.end == "reset":
            self._reset()
        elif response.delay_s > 0:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(response.delay_s, self._reply, response)
        else:
            self._reply(response)

    def _reply(self, response: Response) -> None:
        self._timer = None
        self._done()
        if response.end == "answer":
            self._send(response.payload)
        elif self._transport is not None:
            self._transport.close()

    def _done(self) -> None:
        self._busy = False
        self._responder.in_flight -= 1

    def _reset(self) -> None:
        if self._transport is not None:
            connection = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)  # closing now sends RST, not FIN
            self._transport.abort()

    def _send(self, payload: bytes) -> None:
        if self._transport is not None:
            self._transport.write(payload)
            self._next()


async def start(responder: Responder, port: int) -> asyncio.Server:
    """Listen on loopback, on any free port if `port` is 0."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: _Connection(responder), "127.0.0.1", port, backlog=1024)


async def _stop(responder: Responder, server: asyncio.Server) -> None:
    server.close()
    for connection in list(responder.connections):
        connection.abort()
    await server.wait_closed()
    await asyncio.sleep(0)


def port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


class ThreadServer:
    """A responder's server on a thread of this process, until the `with` block ends."""

    def __init__(self, responder: Responder, *, port: int = 0) -> None:
        self._loop = asyncio.new_event_loop()
        self._responder = responder
        self._server = self._loop.run_until_complete(start(responder, port))
        self.port = port_of(self._server)
        self.url = f"http://127.0.0.1:{self.port}/v1"
        self._thread = threading.Thread(target=self._loop.run_forever, name="chat-server", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(_stop(self._responder, self._server))
        self._loop.close()

"""A fast chat server on loopback: answers that can be checked, any latency, and seeded trouble.

Owns: the wire (HTTP/1.1, keep-alive, one request at a time per connection), what each request is answered, and the
count of it at GET /stats. A reply follows from the attempt alone, so a lost, wrong or swapped reply shows. Run it as
its own process (`ChatProcess`, or `python -m tests.servers.chat`) wherever it must not take time from the client.
Must not know: critique_rl.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import re
import socket
import struct
import subprocess
import sys
import threading
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple, Self, cast

ROOT = Path(__file__).parents[2]
CHAOS: Mapping[str, float] = {
    "429": 0.02,
    "hang": 0.01,
    "reset": 0.01,
    "garbage": 0.02,
    "empty": 0.01,
    "half": 0.01,
}
"""Share of requests that meet each trouble; the rest is answered."""
LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
_ATTEMPT = re.compile(r"\[begin attempt (\S+)\]\n(.*)\n\[end attempt \1\]", re.DOTALL)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
_RETRY_AFTER_S = (0.05, 0.2)
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatOptions:
    """`latency_s` is the mean; `latency_sigma` > 0 spreads it log-normally. `chaos` maps a trouble to its share."""

    latency_s: float = 0.0
    latency_sigma: float = 0.0
    seed: int = 0
    chaos: Mapping[str, float] = field(default_factory=dict[str, float])


class Expected(NamedTuple):
    """The one right reply to an attempt. `mark` stands in the directive and in no other attempt's."""

    mark: str
    directive: str
    scores: Mapping[str, float]


class Stats(NamedTuple):
    """What a server did: how often each kind of answer, the kinds each mark met in turn, the most requests at once."""

    kinds: Mapping[str, int]
    requests: Mapping[str, list[str]]
    peak_in_flight: int

    @property
    def total(self) -> int:
        return sum(self.kinds.values())


def expected_reply(attempt: str) -> Expected:
    """What every `ChatServer` answers to `attempt`, whatever its seed. The mark is letters: no digits to leak."""
    digest = hashlib.sha256(attempt.encode()).digest()
    mark = digest.hex()[:20].translate(_LETTERS)
    scores = {"correctness": LEVELS[digest[20] % 5], "reasoning": LEVELS[digest[21] % 5]}
    return Expected(mark=mark, directive=f"Work through the step marked {mark} once more.", scores=scores)


def attempt_in(messages: object) -> str:
    """The text between the prompt's markers in the last message, else that whole message."""
    last = cast("list[dict[str, object]]", messages)[-1]
    content = str(last["content"])
    found = _ATTEMPT.search(content)
    return found[2] if found else content


class _Answer(NamedTuple):
    kind: str
    payload: bytes
    delay_s: float


class _Brain:
    """Decides each answer and counts it; one thread."""

    def __init__(self, options: ChatOptions) -> None:
        self._options = options
        self.kinds: Counter[str] = Counter()
        self.requests: dict[str, list[str]] = {}
        self.in_flight = 0
        self.peak_in_flight = 0
        self.connections: set[asyncio.Transport] = set()

    def answer(self, body: bytes) -> _Answer:
        try:
            asked = json.loads(body)
            attempt, model = attempt_in(asked["messages"]), str(asked["model"])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            self.kinds["bad"] += 1
            said = json.dumps({"error": {"message": f"bad request: {error!r}", "type": "invalid_request_error"}})
            return _Answer("bad", _http(400, said.encode()), 0.0)
        right = expected_reply(attempt)
        met = self.requests.setdefault(right.mark, [])
        draws = hashlib.sha256(f"{self._options.seed}:{right.mark}:{len(met)}".encode()).digest()
        kind = self._kind(_unit(draws[:8]))
        met.append(kind)
        self.kinds[kind] += 1
        payload = _payload(kind, right, model, _unit(draws[8:16]))
        return _Answer(kind, payload, 0.0 if kind in ("429", "reset") else self._latency_s(_unit(draws[16:24])))

    def stats(self) -> bytes:
        return json.dumps(
            {"kinds": self.kinds, "requests": self.requests, "peak_in_flight": self.peak_in_flight}
        ).encode()

    def _kind(self, draw: float) -> str:
        for kind, share in self._options.chaos.items():
            if draw < share:
                return kind
            draw -= share
        return "ok"

    def _latency_s(self, draw: float) -> float:
        mean_s, sigma = self._options.latency_s, self._options.latency_sigma
        if not sigma or not mean_s:
            return mean_s
        return mean_s * math.exp(sigma * NormalDist().inv_cdf(min(max(draw, 1e-6), 1 - 1e-6)) - sigma * sigma / 2)


def _unit(digest: bytes) -> float:
    return int.from_bytes(digest, "big") / 256 ** len(digest)


def _payload(kind: str, right: Expected, model: str, draw: float) -> bytes:
    """`draw` picks one of two forms that a trouble may take."""
    if kind == "429":
        wait_s = _RETRY_AFTER_S[0] + draw * (_RETRY_AFTER_S[1] - _RETRY_AFTER_S[0])
        said = b'{"error": {"message": "slow down", "type": "rate_limit_error", "code": null}}'
        return _http(429, said, extra=f"Retry-After: {wait_s:.3f}\r\n")
    first = draw < 0.5
    if kind == "garbage":
        if first:
            return _http(200, b"<!doctype html><title>Bad gateway</title><h1>Please log in</h1>", form="text/html")
        return _http(200, b"\x00\xff upstream said: <<<no>>> {")
    directive = {"quote": None, "kind": "procedure", "text": right.directive}
    reply = {"directives": [directive], "scores": dict(right.scores), "verdict": "incorrect", "confidence": 0.75}
    text: str | None = json.dumps(reply)
    if kind == "empty":
        text = "" if first else None
    if kind == "half" and first:
        text = text and text[: len(text) // 2]
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
    whole = {"id": right.mark, "object": "chat.completion", "created": 1, "model": model, "choices": [choice]}
    body = json.dumps({**whole, "usage": usage}).encode()
    return _http(200, body[: len(body) // 2] if kind == "half" and not first else body)


def _http(status: int, body: bytes, *, form: str = "application/json", extra: str = "") -> bytes:
    head = f"HTTP/1.1 {status} x\r\nContent-Type: {form}\r\nContent-Length: {len(body)}\r\n{extra}\r\n"
    return head.encode() + body


class _Connection(asyncio.Protocol):
    """One keep-alive connection: reads a request, answers it, reads the next."""

    def __init__(self, brain: _Brain) -> None:
        self._brain = brain
        self._buffer = b""
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._brain.connections.add(self._transport)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._busy:
            self._done()
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._brain.connections.discard(self._transport)
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
        request_line = self._buffer[: self._buffer.find(b"\r\n")].split(b" ")
        body, self._buffer = self._buffer[end + 4 : total], self._buffer[total:]
        if request_line[0] == b"POST":
            self._ask(body)
        else:
            self._send(_http(200, self._page(request_line[1])))

    def _page(self, path: bytes) -> bytes:
        if path == b"/stats":
            return self._brain.stats()
        if path == b"/v1/models":
            return b'{"object": "list", "data": [{"id": "chat", "object": "model"}]}'
        return b'{"status": "ok"}'

    def _ask(self, body: bytes) -> None:
        brain = self._brain
        self._busy = True
        brain.in_flight += 1
        brain.peak_in_flight = max(brain.peak_in_flight, brain.in_flight)
        answer = brain.answer(body)
        if answer.kind == "hang":
            return
        if answer.kind == "reset":
            self._reset()
        elif answer.delay_s > 0:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(answer.delay_s, self._reply, answer.payload)
        else:
            self._reply(answer.payload)

    def _reply(self, payload: bytes) -> None:
        self._timer = None
        self._done()
        self._send(payload)

    def _done(self) -> None:
        self._busy = False
        self._brain.in_flight -= 1

    def _reset(self) -> None:
        if self._transport is not None:
            connection = self._transport.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)  # closing now sends RST, not FIN
            self._transport.abort()

    def _send(self, payload: bytes) -> None:
        if self._transport is not None:
            self._transport.write(payload)
            self._next()


async def _start(brain: _Brain, port: int) -> asyncio.Server:
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: _Connection(brain), "127.0.0.1", port, backlog=1024)


async def _stop(brain: _Brain, server: asyncio.Server) -> None:
    server.close()
    for connection in list(brain.connections):
        connection.abort()
    await server.wait_closed()
    await asyncio.sleep(0)


def _port_of(server: asyncio.Server) -> int:
    return int(server.sockets[0].getsockname()[1])


class _Address:
    """Where a server is, and what it says it did."""

    port: int

    @property
    def url(self) -> str:
        """The base_url for a client."""
        return f"http://127.0.0.1:{self.port}/v1"

    def stats(self) -> Stats:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/stats", timeout=30) as reply:
            return Stats(**json.loads(reply.read()))


class ChatServer(_Address):
    """The server on a thread of this process, until the `with` block ends."""

    def __init__(self, options: ChatOptions | None = None, *, port: int = 0) -> None:
        self._loop = asyncio.new_event_loop()
        self._brain = _Brain(options or ChatOptions())
        self._server = self._loop.run_until_complete(_start(self._brain, port))
        self.port = _port_of(self._server)
        self._thread = threading.Thread(target=self._loop.run_forever, name="chat-server", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(_stop(self._brain, self._server))
        self._loop.close()


class ChatProcess(_Address):
    """The server in a process of its own; it ends with the `with` block, or when this process dies."""

    def __init__(self, options: ChatOptions | None = None, *, port: int = 0) -> None:
        command = [sys.executable, "-m", "tests.servers.chat", "--port", str(port), "--until-stdin-closes"]
        command += ["--options", json.dumps(asdict(options or ChatOptions()))]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port = int(json.loads(self._process.stdout.readline())["port"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()


async def _serve(options: ChatOptions, port: int, *, until_stdin_closes: bool) -> None:
    server = await _start(_Brain(options), port)
    print(json.dumps({"port": _port_of(server)}), flush=True)
    if until_stdin_closes:
        await asyncio.to_thread(sys.stdin.buffer.read)
    else:
        await server.serve_forever()


def main() -> None:
    """Serve until interrupted; the first line of stdout is {"port": N}."""
    parser = argparse.ArgumentParser(description="a chat server on loopback for tests and benchmarks")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--latency-ms", type=float, default=0.0)
    parser.add_argument("--sigma", type=float, default=0.0, help="spread of a log-normal latency")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--chaos", action="store_true", help="with the shares in CHAOS")
    parser.add_argument("--options", help="ChatOptions as JSON, instead of the four above")
    parser.add_argument("--until-stdin-closes", action="store_true")
    known = parser.parse_args()
    options = ChatOptions(
        latency_s=known.latency_ms / 1000,
        latency_sigma=known.sigma,
        seed=known.seed,
        chaos=CHAOS if known.chaos else {},
    )
    if known.options:
        options = ChatOptions(**json.loads(known.options))
    try:
        asyncio.run(_serve(options, known.port, until_stdin_closes=known.until_stdin_closes))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()

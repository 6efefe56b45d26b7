"""A fast chat server on loopback: answers that can be checked, any latency, and seeded trouble.

Owns: what each request is answered, and the count of it at GET /stats. A reply follows from the attempt alone, so a
lost, wrong or swapped reply shows. Run it as its own process (`ChatProcess`, or `python -m tests.servers.chat`)
wherever it must not take time from the client. Must not know: critique_rl, the wire.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import math
import re
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple, Self, cast

from tests.servers.wire import Responder, Response, ThreadServer, http, port_of, start

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
_LETTERS = str.maketrans("0123456789abcdef", "abcdefghijklmnop")
_RETRY_AFTER_S = (0.05, 0.2)


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


class _Brain(Responder):
    """Decides each answer and counts it."""

    def __init__(self, options: ChatOptions) -> None:
        super().__init__()
        self._options = options
        self.kinds: Counter[str] = Counter()
        self.requests: dict[str, list[str]] = {}

    def answer(self, head: bytes, body: bytes) -> Response:
        try:
            asked = json.loads(body)
            attempt, model = attempt_in(asked["messages"]), str(asked["model"])
        except (ValueError, KeyError, IndexError, TypeError) as error:
            self.kinds["bad"] += 1
            said = json.dumps({"error": {"message": f"bad request: {error!r}", "type": "invalid_request_error"}})
            return Response(http(400, said.encode()))
        right = expected_reply(attempt)
        met = self.requests.setdefault(right.mark, [])
        draws = hashlib.sha256(f"{self._options.seed}:{right.mark}:{len(met)}".encode()).digest()
        kind = self._kind(_unit(draws[:8]))
        met.append(kind)
        self.kinds[kind] += 1
        if kind == "hang" or kind == "reset":
            return Response(b"", end=kind)
        payload = _payload(kind, right, model, _unit(draws[8:16]))
        return Response(payload, 0.0 if kind == "429" else self._latency_s(_unit(draws[16:24])))

    def page(self, path: bytes) -> bytes:
        if path != b"/stats":
            return super().page(path)
        stats = Stats(kinds=self.kinds, requests=self.requests, peak_in_flight=self.peak_in_flight)
        return json.dumps(stats._asdict()).encode()

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
        return http(429, said, extra=f"Retry-After: {wait_s:.3f}\r\n")
    first = draw < 0.5
    if kind == "garbage":
        if first:
            return http(200, b"<!doctype html><title>Bad gateway</title><h1>Please log in</h1>", form="text/html")
        return http(200, b"\x00\xff upstream said: <<<no>>> {")
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
    return http(200, body[: len(body) // 2] if kind == "half" and not first else body)


def _stats(port: int) -> Stats:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/stats", timeout=30) as reply:
        return Stats(**json.loads(reply.read()))


class ChatServer(ThreadServer):
    """The server on a thread of this process, until the `with` block ends."""

    def __init__(self, options: ChatOptions | None = None, *, port: int = 0) -> None:
        super().__init__(_Brain(options or ChatOptions()), port=port)

    def stats(self) -> Stats:
        return _stats(self.port)


class ChatProcess:
    """The server in a process of its own; it ends with the `with` block, or when this process dies."""

    def __init__(self, options: ChatOptions | None = None, *, port: int = 0) -> None:
        command = [sys.executable, "-m", "tests.servers.chat", "--port", str(port), "--until-stdin-closes"]
        command += ["--options", json.dumps(asdict(options or ChatOptions()))]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.port = int(json.loads(self._process.stdout.readline())["port"])
        self.url = f"http://127.0.0.1:{self.port}/v1"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def stats(self) -> Stats:
        return _stats(self.port)

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(timeout=10)
        self._process.stdout.close()


async def _serve(options: ChatOptions, port: int, *, until_stdin_closes: bool) -> None:
    server = await start(_Brain(options), port)
    print(json.dumps({"port": port_of(server)}), flush=True)
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

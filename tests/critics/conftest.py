"""A loopback chat server with real sockets, scripted answer by answer, and requests to review."""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from critique_rl.critics.openai_compatible import openai_critic
from critique_rl.critics.remote import RemoteCritic
from critique_rl.feedback.store import ExchangeStore
from critique_rl.types import CriticRequest, Message, Score, Task
from tests.critics.openai_bench import settings

REPLY = json.dumps(
    {
        "directives": [{"quote": "= 32", "kind": "procedure", "text": "Carry the one from the ones column."}],
        "scores": {"correctness": 0.25, "reasoning": 0.5},
        "verdict": "incorrect",
        "confidence": 0.75,
    }
)


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the server does with one request; `drop` closes the connection without a word."""

    text: str | None = REPLY
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    content_type: str = "application/json"
    finish_reason: str = "stop"
    refusal: str | None = None
    delay_s: float = 0.0
    drop: bool = False

    def payload(self) -> bytes:
        if self.body is not None:
            return self.body
        if self.status != 200:
            return json.dumps({"error": {"message": self.text, "type": "error", "code": None}}).encode()
        message = {"role": "assistant", "content": self.text, "refusal": self.refusal}
        choice = {"index": 0, "message": message, "finish_reason": self.finish_reason}
        usage = {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120}
        answer = {"id": "x", "object": "chat.completion", "created": 1, "model": "stub-1", "choices": [choice]}
        return json.dumps({**answer, "usage": usage}).encode()


class _QuietServer(ThreadingHTTPServer):
    """A client that goes away in the middle is what these tests are about, not news."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class StubServer:
    """Answers with `script` in turn (its last entry for ever), or by `decide(body)`; keeps what it was sent."""

    def __init__(self) -> None:
        self.script: list[Answer] = [Answer()]
        self.decide: Callable[[dict[str, object]], Answer] | None = None
        self.bodies: list[dict[str, object]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self._lock = threading.Lock()
        self._server = _QuietServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _next(self, body: dict[str, object], headers: dict[str, str]) -> Answer:
        with self._lock:
            index = len(self.bodies)
            self.bodies.append(body)
            self.headers.append(headers)
            self.times.append(time.monotonic())
        return self.decide(body) if self.decide else self.script[min(index, len(self.script) - 1)]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = outer._next(body, dict(self.headers))
                time.sleep(answer.delay_s)
                if answer.drop:
                    self.close_connection = True
                    return
                payload = answer.payload()
                try:
                    self.send_response(answer.status)
                    for name, value in answer.headers.items():
                        self.send_header(name, value)
                    self.send_header("Content-Type", answer.content_type)
                    self.send_header("Content-Length", str(len(payload)))
                    self.end_headers()
                    self.wfile.write(payload)
                except (BrokenPipeError, ConnectionResetError):
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Silent."""

        return Handler


@pytest.fixture
def server() -> Iterator[StubServer]:
    one = StubServer()
    yield one
    one.close()


@pytest.fixture
def answer() -> type[Answer]:
    return Answer


@pytest.fixture
def good_reply() -> str:
    return REPLY


@pytest.fixture
def make_request() -> Callable[..., CriticRequest]:
    def make(
        number: int = 1, attempt: str = "27 + 15 = 32", detail: str = "", reference: str | None = None
    ) -> CriticRequest:
        message = Message(role="user", content="What is 27 + 15?")
        task = Task(id=f"t{number}", messages=(message,), answer="42", verifier="exact")
        score = Score(reward=0.0, detail=detail)
        return CriticRequest(rollout_id=f"r{number}", task=task, attempt=attempt, score=score, reference=reference)

    return make


@pytest.fixture
def critic(server: Any, tmp_path: Path) -> Iterator[Callable[..., RemoteCritic]]:
    made: list[RemoteCritic] = []

    def make(**fields: object) -> RemoteCritic:
        made.append(openai_critic(settings(server, **fields), store=ExchangeStore(tmp_path / "e.jsonl")))
        return made[-1]

    yield make
    for one in made:
        one.close()

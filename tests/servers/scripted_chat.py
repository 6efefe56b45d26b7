"""A chat server on loopback that is scripted answer by answer, and remembers what it was sent.

Must not know: critique_rl. The server whose answers can be checked by the thousand is in `chat.py`; both speak over the
same wire.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.servers.wire import Responder, Response, ThreadServer, http

REPLY = json.dumps(
    {
        "directives": [{"quote": "= 32", "kind": "procedure", "text": "Carry the one from the ones column."}],
        "scores": {"correctness": 0.25, "reasoning": 0.5},
        "verdict": "incorrect",
        "confidence": 0.75,
    }
)


def chat_completion(
    text: str | None = REPLY, finish_reason: str = "stop", refusal: str | None = None
) -> dict[str, object]:
    """A whole completion as a server of this protocol writes it; 100 and 20 tokens."""
    message = {"role": "assistant", "content": text, "refusal": refusal}
    return {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "stub-1",
        "choices": [{"index": 0, "message": message, "finish_reason": finish_reason}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }


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
        return json.dumps(chat_completion(self.text, self.finish_reason, self.refusal)).encode()


class ScriptedChat(Responder):
    """Answers with `script` in turn (its last entry for ever), or by `decide(body)`; keeps what it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.script: list[Answer] = [Answer()]
        self.decide: Callable[[dict[str, Any]], Answer] | None = None
        self.bodies: list[dict[str, object]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self._server = ThreadServer(self)
        self.url = self._server.url

    def close(self) -> None:
        self._server.close()

    def answer(self, head: bytes, body: bytes) -> Response:
        fields = [line.partition(": ") for line in head.decode("latin-1").split("\r\n")[1:]]
        index, asked = len(self.bodies), json.loads(body)
        self.bodies.append(asked)
        self.headers.append({name: value for name, _, value in fields})
        self.times.append(time.monotonic())
        answer = self.decide(asked) if self.decide else self.script[min(index, len(self.script) - 1)]
        extra = "".join(f"{name}: {value}\r\n" for name, value in answer.headers.items())
        payload = http(answer.status, answer.payload(), form=answer.content_type, extra=extra)
        return Response(payload, answer.delay_s, "drop" if answer.drop else "answer")

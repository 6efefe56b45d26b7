"""The rule critic behind the chat protocol that hosted and local models speak.

Owns: reading question and attempt out of a critic prompt, the wire, and the CLI verb that starts it.
Must not know: who asks; any client library; models.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import BaseServer
from typing import NamedTuple, Self, cast

from critique_rl.errors import ConfigError, DataError
from critique_rl.lab.critic import LabCritic
from critique_rl.lab.problems import Problem
from critique_rl.lab.tasks import task_of
from critique_rl.types import CriticRequest, Score

MODEL = LabCritic.name
MAX_BODY_BYTES = 1 << 20
_PROMPT = re.compile(
    r"Question:\n(?P<question>.*?)\n+Attempt:\n"
    r"\[begin attempt (?P<mark>\S+)\]\n(?P<attempt>.*)\n\[end attempt (?P=mark)\]",
    re.DOTALL,
)
_ABSTENTION = json.dumps({"directives": [], "scores": {}, "verdict": None})
_UNKNOWN = Score(reward=0.0)


class Asked(NamedTuple):
    """What a critic prompt asks about."""

    question: str
    attempt: str


class LabReplies:
    """Reply texts; with probability `noise` a lie instead of the truth, as `LabCritic` tells them."""

    def __init__(self, *, noise: float = 0.0, seed: int = 0) -> None:
        if not 0.0 <= noise <= 1.0:
            raise ConfigError(f"noise: came {noise}, wanted a probability from 0 to 1")
        self._critic = LabCritic(lies=noise, seed=seed)

    def reply(self, asked: Asked) -> str:
        """A reply in the critic schema's JSON; a question that is no lab problem gets an empty one (an abstention)."""
        try:
            task = task_of(Problem.parse(asked.question))
        except DataError:
            return _ABSTENTION
        request = CriticRequest(rollout_id="", task=task, attempt=asked.attempt, score=_UNKNOWN)
        return self._critic.review([request])[0].reply


def read_prompt(messages: object) -> Asked:
    """Question and attempt out of the last user turn, rendered from the shipped prompt "critic". Raises DataError."""
    turns = cast(list[object], messages) if isinstance(messages, list) else []
    for turn in reversed(turns):
        fields = cast(dict[str, object], turn) if isinstance(turn, dict) else {}
        if fields.get("role") == "user":
            if found := _PROMPT.search(str(fields.get("content"))):
                return Asked(found["question"].strip(), found["attempt"])
            break
    raise DataError(
        "messages: the last user turn holds no question and attempt; the lab's critic reads what the shipped prompt "
        '"critic" renders: leave critic.prompt at its default'
    )


class LabServer:
    """A running server; `base_url` is what a critic section or `--critic` needs. Stop it by `close` or `with`."""

    def __init__(self, host: str, port: int, replies: LabReplies, latency_s: float) -> None:
        self._server = _Server((host, port), _Handler)
        self._server.replies = replies
        self._server.latency_s = latency_s
        shown = f"[{host}]" if ":" in host else host
        self.base_url = f"http://{shown}:{self._server.server_address[1]}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="lab-serve", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def wait(self) -> None:
        """Block until the server is closed or this thread is interrupted."""
        while self._thread.is_alive():
            self._thread.join(timeout=1.0)

    def close(self) -> None:
        """Stop listening; a second call does nothing."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve(
    host: str = "127.0.0.1", port: int = 0, *, noise: float = 0.0, seed: int = 0, latency_s: float = 0.0
) -> LabServer:
    """Start serving on a thread; port 0 takes a free one, `latency_s` delays every reply.

    Raises ConfigError for a value out of range, OSError for an address that cannot be had.
    """
    if latency_s < 0:
        raise ConfigError(f"latency_s: came {latency_s}, wanted seconds >= 0")
    if not 0 <= port <= 65535:
        raise ConfigError(f"port: came {port}, wanted 0 (any free one) to 65535")
    return LabServer(host, port, LabReplies(noise=noise, seed=seed), latency_s)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256
    replies: LabReplies
    latency_s: float

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is not news."""
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)  # pyright: ignore[reportArgumentType]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body are two writes: with Nagle's algorithm the second waits 40 ms for the first one's ACK.
    disable_nagle_algorithm = True
    timeout = 600
    server: BaseServer

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "critique-rl"}]})
        elif self.path == "/health":
            self._send(200, {"status": "ok"})
        else:
            self._refuse(404, f"there is no {self.path}; there are /v1/models, /health and POST /v1/chat/completions")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
            self.close_connection = True  # the body is still in the pipe
            self._refuse(413, f"Content-Length: came {length!r}, wanted at most {MAX_BODY_BYTES} bytes")
            return
        body = self.rfile.read(int(length))
        if self.path != "/v1/chat/completions":
            self._refuse(404, f"there is no {self.path}; POST to /v1/chat/completions")
            return
        try:
            parsed: object = json.loads(body)
        except (ValueError, RecursionError):
            self._refuse(400, "the body is not JSON")
            return
        fields = cast(dict[str, object], parsed) if isinstance(parsed, dict) else {}
        if fields.get("stream"):
            self._refuse(400, "stream: came true, and this server answers in one piece; leave it out")
            return
        server = cast(_Server, self.server)
        try:
            asked = read_prompt(fields.get("messages"))
        except DataError as error:
            self._refuse(400, str(error))
            return
        time.sleep(server.latency_s)
        self._send(200, _completion(server.replies.reply(asked), asked))

    def _send(self, status: int, body: object) -> None:
        payload = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def _refuse(self, status: int, message: str) -> None:
        self._send(status, {"error": {"message": message, "type": "invalid_request_error", "code": None}})

    def log_message(self, format: str, *args: object) -> None:
        """Silent: what is asked is the caller's to record."""


def _completion(text: str, asked: Asked) -> object:
    """A chat completion; rules have no tokens, so usage counts words of what was judged and of what was said."""
    prompt_tokens = len(asked.question.split()) + len(asked.attempt.split())
    completion_tokens = len(text.split())
    return {
        "id": f"lab-{hashlib.blake2b(text.encode(), digest_size=6).hexdigest()}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": MODEL,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    }


def run_serve(known: argparse.Namespace) -> int:
    """`critique-rl lab serve`: print the address, then answer until interrupted."""
    host, port, noise = str(known.host), int(known.port), float(known.noise)
    with serve(host, port, noise=noise, seed=int(known.seed), latency_s=float(known.latency_s)) as server:
        print(f"base_url  {server.base_url}")
        print(f"--critic  {MODEL}@{server.base_url}", flush=True)
        server.wait()
    return 0

"""A server on loopback that speaks the vLLM endpoints which the engine asks, with trouble on request.

Owns: the wire, the labels of weights, and a "model" whose one weight is a scale: the log-prob of a token is
-scale * (1 + token % 3) / temperature, so a reload that is not done shows. Prompt log-probs come from what a test hands
in. Must not know: critique_rl.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Self, cast

END = 2
BASE_SCALE = 1.0
WEIGHTS_FILE = "scale.json"

PromptLogprobs = list[dict[str, dict[str, float | None]] | None]
"""As vLLM 0.32 sends them: nothing for the first token, then by id (JSON has text keys only)."""


def logprob(token: int, scale: float, temperature: float) -> float:
    """What "model" and trainer agree on."""
    return -scale * (1 + token % 3) / (temperature or 1.0)


@dataclass(kw_only=True)
class Trouble:
    """`dies_after` completions every connection breaks, and `looks_down` looks later an empty server is back; after
    `forgets_after` it is replaced by an empty one without any sign."""

    logprobs_mode: str = "processed_logprobs"
    served: str = "small"
    dies_after: int | None = None
    looks_down: int = 2
    forgets_after: int | None = None
    ignores_reload: bool = False
    cache_stays: bool = False
    answer: Mapping[str, object] = field(default_factory=dict[str, object])
    refuses: tuple[int, str] | None = None
    no_dev: bool = False
    max_logprobs: int = 20
    overshoots: int = 0
    """How many ids it gives behind the one that completes a stop string."""
    fails_at: Mapping[int, tuple[int, str]] = field(default_factory=dict[int, tuple[int, str]])
    """The answer to a prompt that holds this id."""
    garbles: Callable[[list[int], PromptLogprobs], object] = lambda _ids, logprobs: logprobs
    """What is sent in place of the prompt log-probs of these ids."""


class FakeVllm:
    """Start with `with`; `base_url` is its address, `requests` holds what was asked, in order."""

    def __init__(
        self,
        trouble: Trouble | None = None,
        *,
        scores: Callable[[list[int]], Sequence[Sequence[float]]] = lambda ids: [],
        encode: Callable[[str], Sequence[int]] = lambda text: [],
    ) -> None:
        """`scores`: for each id after the first the log-probs of the whole vocabulary; `encode`: the tokenizer."""
        self.trouble = trouble or Trouble()
        self.scores = scores
        self.encode = encode
        self.label = "default"
        self.scale = BASE_SCALE
        self.down = 0
        self.completions = 0
        self.requests: list[tuple[str, dict[str, object]]] = []
        self.headers: list[str] = []
        self.lock = threading.Lock()
        fake = self

        class Handler(_Handler):
            server_state = fake

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.base_url = f"http://127.0.0.1:{self._http.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def asked(self, path: str) -> list[dict[str, object]]:
        """The bodies sent to one path, in order."""
        return [body for at, body in self.requests if at.split("?")[0] == path]

    def die(self) -> None:
        """What a restart loses: the label and the weights."""
        self.down = self.trouble.looks_down
        self.label, self.scale = "default", BASE_SCALE

    def reply(self, path: str, body: dict[str, object]) -> tuple[int, object] | None:
        """Status and JSON, or None to break the connection."""
        trouble = self.trouble
        if path == "/health":
            self.down -= self.down > 0
            return (200, {}) if not self.down else None
        if self.down:
            return None
        if path == "/inference/v1/generate":
            return self._generate(body)
        if path == "/tokenize":
            assert body["add_special_tokens"] is False
            return 200, {"tokens": list(self.encode(str(body["prompt"])))}
        if path == "/v1/models":
            return 200, {"data": [{"id": trouble.served}]}
        if trouble.no_dev:
            return 404, {"detail": "Not Found"}
        if path.startswith("/server_info"):
            return 200, {"vllm_config": {"model_config": {"logprobs_mode": trouble.logprobs_mode}}}
        if path == "/weight_info":
            return 200, {"weight_version": self.label}
        if path == "/collective_rpc":
            assert body["method"] == "reload_weights"
            weights = Path(cast("dict[str, str]", body["kwargs"])["weights_path"]) / WEIGHTS_FILE
            if not trouble.ignores_reload:
                self.scale = json.loads(weights.read_text(encoding="utf-8"))
            return 200, {"results": [None]}
        if path.startswith("/reset_prefix_cache"):
            return 200, {"success": not trouble.cache_stays}
        assert path == "/update_weight_version", path
        self.label = str(body["new_version"])
        return 200, {"success": True, "new_version": self.label}

    def _generate(self, body: dict[str, object]) -> tuple[int, object] | None:
        trouble = self.trouble
        if trouble.refuses is not None:
            status, message = trouble.refuses
            return status, {"error": {"message": message}}
        if trouble.dies_after is not None and self.completions >= trouble.dies_after:
            trouble.dies_after = None
            self.die()
            return None
        if self.completions == trouble.forgets_after:
            self.label, self.scale = "default", BASE_SCALE
        self.completions += 1
        asked = cast("dict[str, object]", body["sampling_params"])
        if "prompt_logprobs" in asked:
            return self._score(cast("list[int]", body["token_ids"]), cast(int, asked["prompt_logprobs"]))
        limit, temperature = cast(int, asked["max_tokens"]), cast(float, asked["temperature"])
        ids = sample(cast("list[int]", body["token_ids"]), cast(int, asked["seed"]), limit)
        stopped = _stop_string(ids, asked)
        if stopped is not None:
            ids = ids[: stopped[0] + trouble.overshoots]
        content = [{"token_id": i, "logprob": logprob(i, self.scale, temperature), "rank": 1} for i in ids]
        choice: dict[str, object] = {
            "index": 0,
            "finish_reason": "stop" if ids[-1] == END or stopped is not None else "length",
            "stop_reason": END if ids[-1] == END else stopped and stopped[1],
            "token_ids": ids,
            "weight_versions": [{"version": self.label, "start": 0, "end": len(ids)}],
            "logprobs": {"content": content},
        }
        return 200, {"model": body["model"], "choices": [choice | dict(trouble.answer)]}

    def _score(self, ids: list[int], k: int) -> tuple[int, object]:
        trouble = self.trouble
        if k > trouble.max_logprobs:
            said = f"Requested prompt logprobs of {k}, which is greater than max allowed: {trouble.max_logprobs}"
            return 400, {"error": {"message": said}}
        for i, answer in trouble.fails_at.items():
            if i in ids:
                return answer[0], {"error": {"message": answer[1]}}
        logprobs: PromptLogprobs = [None]
        logprobs += [ranked(row, i, k) for row, i in zip(self.scores(ids), ids[1:], strict=True)]
        return 200, {"choices": [{"index": 0, "token_ids": [3]}], "prompt_logprobs": trouble.garbles(ids, logprobs)}


def _stop_string(ids: list[int], asked: Mapping[str, object]) -> tuple[int, str] | None:
    """How many ids come until the text (numbers with blanks between them) holds one of `stop`, and which one."""
    strings = cast("list[str]", asked.get("stop", []))
    # A real server refuses stop strings without a detokenizer.
    assert not strings or asked["detokenize"]
    for count in range(1, len(ids) + 1):
        text = " ".join(str(i) for i in ids[:count] if i != END)
        for one in strings:
            if one in text:
                return count, one
    return None


def ranked(row: Sequence[float], own: int, k: int) -> dict[str, dict[str, float | None]]:
    """One token's entry as vLLM makes it: the token itself first, with its rank among all, then the top K."""
    top = sorted(range(len(row)), key=lambda i: -row[i])[:k]
    rank = float(sum(value >= row[own] for value in row))
    entry = {str(own): {"logprob": _clamped(row[own]), "rank": rank, "decoded_token": None}}
    return entry | {
        str(i): {"logprob": _clamped(row[i]), "rank": r + 1.0, "decoded_token": None} for r, i in enumerate(top)
    }


def _clamped(logprob: float) -> float:
    return -9999.0 if logprob == -math.inf else logprob


def sample(prompt: list[int], seed: int, limit: int) -> list[int]:
    """Ids that follow from prompt and seed alone; about one in eight is the end."""
    ids: list[int] = []
    while len(ids) < limit and (not ids or ids[-1] != END):
        draw = hashlib.sha256(f"{prompt}:{seed}:{len(ids)}".encode()).digest()[0]
        ids.append(END if draw < 32 else 3 + draw % 30)
    return ids


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    server_state: FakeVllm

    def do_GET(self) -> None:
        self._answer({})

    def do_POST(self) -> None:
        text = self.rfile.read(int(self.headers.get("content-length") or 0))
        self._answer(json.loads(text) if text else {})

    def _answer(self, body: dict[str, object]) -> None:
        state = self.server_state
        with state.lock:
            state.requests.append((self.path, body))
            state.headers.append(self.headers.get("authorization") or "")
            reply = state.reply(self.path, body)
        if reply is None:
            self.close_connection = True
            return
        payload = json.dumps(reply[1]).encode()
        self.send_response(reply[0])
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a test's output is its own."""

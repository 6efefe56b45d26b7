"""What a vLLM server is asked over HTTP, and how its answers are read. Written against vLLM 0.32.

Owns: addresses, bodies, keys and status codes. Must not know: when weights are pushed, what is sampled or why.
Needs the server's token endpoint (--enable-scale-out) and its development endpoints (VLLM_SERVER_DEV_MODE=1): only
there does a completion say which weights sampled it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import httpx
from pydantic import BaseModel, Field, ValidationError

from critique_rl.errors import CriticError, CriticMalformedError, CriticSetupError, CriticTimeoutError, ModelError
from critique_rl.net import CallFailed
from critique_rl.types import Usage

_CONNECT_TIMEOUT_S = 10.0
_NO_LOGPROB = -9998.0
"""vLLM sends -9999 in place of a log-prob that is -inf or not a number."""
_RETRYABLE_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_MAX_SAID_CHARS = 300
WAYS_OUT = "docs/engines.md has the command that starts the server"


class ServerGone(Exception):
    """The server cannot be reached, or came back without the weights that it was given: waiting can help."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """One answer: ids with one log-prob each (nats, at the sampling temperature), and the labels of the weights."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    stopped: bool
    weights: frozenset[str]
    usage: Usage


class _TokenLogprob(BaseModel):
    token_id: int
    logprob: float


class _Logprobs(BaseModel):
    content: list[_TokenLogprob]


class _Span(BaseModel):
    version: str


class _Choice(BaseModel):
    finish_reason: str
    token_ids: list[int]
    logprobs: _Logprobs
    weight_versions: list[_Span]


class _Answer(BaseModel):
    choices: list[_Choice]


class _ModelConfig(BaseModel):
    logprobs_mode: str


class _VllmConfig(BaseModel):
    model: _ModelConfig = Field(alias="model_config")


class _Info(BaseModel):
    vllm_config: _VllmConfig


class _Card(BaseModel):
    id: str


class _Cards(BaseModel):
    data: list[_Card]


class _Version(BaseModel):
    weight_version: str


class _Done(BaseModel):
    success: bool


Parsed = TypeVar("Parsed", bound=BaseModel)


class VllmServer:
    """One server. `generate` runs on an event loop; everything else blocks its caller."""

    def __init__(self, base_url: str, model: str, *, key: str | None, timeout_s: float, max_in_flight: int) -> None:
        # At INFO it logs each address in full, user and password included.
        logging.getLogger("httpx").setLevel(logging.WARNING)
        self._base_url = base_url.rstrip("/").removesuffix("/v1")
        self._model = model
        self._key = key
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, _CONNECT_TIMEOUT_S))
        self._client = httpx.AsyncClient(
            base_url=self._base_url,
            headers=headers,
            timeout=timeout,
            limits=httpx.Limits(max_connections=max_in_flight, max_keepalive_connections=max_in_flight),
        )
        # Minutes pass between control calls: a kept connection would be one that the server has closed.
        self._control = httpx.Client(
            base_url=self._base_url, headers=headers, timeout=timeout, limits=httpx.Limits(max_keepalive_connections=0)
        )

    @property
    def address(self) -> str:
        """The server's host and port, without user and password."""
        url = httpx.URL(self._base_url)
        return f"{url.host}:{url.port}" if url.port else url.host

    async def generate(self, prompt_ids: tuple[int, ...], sampling: Mapping[str, object]) -> Sampled:
        """One completion. Raises CallFailed."""
        body = {"model": self._model, "token_ids": list(prompt_ids), "sampling_params": dict(sampling)}
        try:
            response = await self._client.post("/inference/v1/generate", json=body)
        except httpx.TimeoutException as error:
            late = CriticTimeoutError(f"no answer in time: {type(error).__name__}")
            raise CallFailed(late, retryable=True) from None
        except httpx.HTTPError as error:
            raise CallFailed(CriticError(f"the connection failed: {self._said(str(error))}"), retryable=True) from None
        if response.status_code in _RETRYABLE_STATUS:
            failed = CriticError(f"server error {response.status_code}: {self._said(response.text)}")
            raise CallFailed(failed, retryable=True)
        if response.status_code != 200:
            refused = CriticSetupError(f"refused ({response.status_code}): {self._said(response.text)}")
            raise CallFailed(refused, retryable=False)
        return self._read(response.text, len(prompt_ids))

    def check(self) -> None:
        """Whether the server can be sampled from as it was started. Raises ModelError, ServerGone."""
        mode = self._ask("GET", "/server_info?config_format=json", _Info).vllm_config.model.logprobs_mode
        if mode != "processed_logprobs":
            raise ModelError(
                f"engine: the server at {self.address} reports logprobs_mode = {mode!r}, so its log-probs "
                "are not at the sampling temperature: start it with --logprobs-mode processed_logprobs"
            )
        served = [card.id for card in self._ask("GET", "/v1/models", _Cards).data]
        if self._model not in served:
            raise ModelError(f"engine.model: the server at {self.address} serves {served}, not {self._model!r}")

    def weight_label(self) -> str:
        """The label of the weights that it holds; a fresh server has one of its own. Raises ModelError, ServerGone."""
        return self._ask("GET", "/weight_info", _Version).weight_version

    def load_weights(self, path: str, label: str) -> None:
        """Load a checkpoint from `path`, forget what was computed with the old one, then label it.

        Raises ModelError, ServerGone.
        """
        self._call("POST", "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": path}})
        reset = self._ask("POST", "/reset_prefix_cache?reset_running_requests=true", _Done)
        if not reset.success:
            raise ModelError(
                f"engine: the server at {self.address} did not reset its prefix cache after a reload, so completions "
                "would mix old and new weights; let no other client use it"
            )
        self._call("POST", "/update_weight_version", {"new_version": label})

    def wait_until_up(self, limit_s: float, poll_s: float) -> None:
        """Return once it is healthy. Raises ModelError after `limit_s`."""
        deadline = time.monotonic() + limit_s
        while True:
            try:
                if self._control.get("/health").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            if time.monotonic() >= deadline:
                raise ModelError(
                    f"engine.base_url: no healthy server at {self.address} for {limit_s:g} s; start it and resume "
                    f"the run ({WAYS_OUT})"
                )
            time.sleep(poll_s)

    async def close(self) -> None:
        """Close both clients, on the loop that used `generate`."""
        self._control.close()
        await self._client.aclose()

    def _ask(self, method: str, path: str, form: type[Parsed], body: Mapping[str, object] | None = None) -> Parsed:
        try:
            return form.model_validate_json(self._call(method, path, body))
        except ValidationError as error:
            raise ModelError(
                f"engine: {path} of {self.address} answered in another form than vLLM 0.32 does: "
                f"{error.errors()[0]['msg']} at {error.errors()[0]['loc']}"
            ) from None

    def _call(self, method: str, path: str, body: Mapping[str, object] | None = None) -> str:
        try:
            response = self._control.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise ServerGone(f"{path}: {type(error).__name__}: {self._said(str(error))}") from None
        if response.status_code in (502, 503, 504):
            raise ServerGone(f"{path}: status {response.status_code}")
        if response.status_code == 404:
            raise ModelError(
                f"engine: the server at {self.address} has no {path}: start it with VLLM_SERVER_DEV_MODE=1 ({WAYS_OUT})"
            )
        if response.status_code != 200:
            raise ModelError(
                f"engine: {path} of {self.address} failed with {response.status_code}: {self._said(response.text)}"
            )
        return response.text

    def _read(self, text: str, prompt_tokens: int) -> Sampled:
        try:
            (choice,) = _Answer.model_validate_json(text).choices
        except ValueError as error:
            raise _malformed(f"{type(error).__name__}: {self._said(text)}") from None
        if choice.finish_reason not in ("stop", "length"):
            aborted = CriticError(f"the server ended a completion with {choice.finish_reason!r}")
            raise CallFailed(aborted, retryable=True)
        content = choice.logprobs.content
        if not choice.token_ids or choice.token_ids != [entry.token_id for entry in content]:
            raise _malformed(f"{len(choice.token_ids)} ids and log-probs of {len(content)}; wanted one each")
        if any(not entry.logprob > _NO_LOGPROB for entry in content):
            raise _malformed("a sampled token without a log-prob: the model's logits are not finite")
        return Sampled(
            token_ids=tuple(choice.token_ids),
            logprobs=tuple(entry.logprob for entry in content),
            stopped=choice.finish_reason == "stop",
            weights=frozenset(span.version for span in choice.weight_versions),
            usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=len(content)),
        )

    def _said(self, text: str) -> str:
        """One line of what came from outside, without the key."""
        line = " ".join((text.replace(self._key, "[redacted]") if self._key else text).split())
        return line if len(line) <= _MAX_SAID_CHARS else line[: _MAX_SAID_CHARS - 3] + "..."


def _malformed(what: str) -> CallFailed:
    return CallFailed(CriticMalformedError(f"an answer that cannot be used: {what}"), retryable=False)

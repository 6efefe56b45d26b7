"""What a vLLM server that samples is asked over HTTP, and how its answers are read. Written against vLLM 0.32.

Owns: addresses and bodies. Must not know: when weights are pushed, what is sampled or why.
Needs the server's token endpoint (--enable-scale-out) and its development endpoints (VLLM_SERVER_DEV_MODE=1): only
there does a completion say which weights sampled it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import BaseModel, Field

from critique_rl.engines.vllm_connection import VllmConnection, malformed
from critique_rl.errors import CriticError, EngineError
from critique_rl.net import CallFailed
from critique_rl.types import Usage

_NO_LOGPROB = -9998.0
"""vLLM sends -9999 in place of a log-prob that is -inf or not a number."""


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


class _Version(BaseModel):
    weight_version: str


class _Done(BaseModel):
    success: bool


class VllmServer(VllmConnection):
    """One server that samples. `generate` runs on an event loop; everything else blocks its caller."""

    async def generate(self, prompt_ids: tuple[int, ...], sampling: Mapping[str, object]) -> Sampled:
        """One completion. Raises CallFailed."""
        body = {"model": self.model, "token_ids": list(prompt_ids), "sampling_params": dict(sampling)}
        return self._read(await self.post("/inference/v1/generate", body), len(prompt_ids))

    def check(self) -> None:
        """Whether the server can be sampled from as it was started. Raises EngineError, ServerGone."""
        mode = self.ask("GET", "/server_info?config_format=json", _Info).vllm_config.model.logprobs_mode
        if mode != "processed_logprobs":
            raise EngineError(
                f"engine: the server at {self.address} reports logprobs_mode = {mode!r}, so its log-probs "
                "are not at the sampling temperature: start it with --logprobs-mode processed_logprobs"
            )
        self.check_model()

    def weight_label(self) -> str:
        """The label of the weights that it holds; a fresh server has one of its own. Raises EngineError, ServerGone."""
        return self.ask("GET", "/weight_info", _Version).weight_version

    def load_weights(self, path: str, label: str) -> None:
        """Load a checkpoint from `path`, forget what was computed with the old one, then label it.

        Raises EngineError, ServerGone.
        """
        self.call("POST", "/collective_rpc", {"method": "reload_weights", "kwargs": {"weights_path": path}})
        self.commit_weights(label)

    def commit_weights(self, label: str) -> None:
        """Forget what was computed with older weights than those that it now holds, then label them.

        Raises EngineError, ServerGone.
        """
        reset = self.ask("POST", "/reset_prefix_cache?reset_running_requests=true", _Done)
        if not reset.success:
            raise EngineError(
                f"engine: the server at {self.address} did not reset its prefix cache after new weights, so "
                "completions would mix old and new ones; let no other client use it"
            )
        self.call("POST", "/update_weight_version", {"new_version": label})

    def _read(self, text: str, prompt_tokens: int) -> Sampled:
        try:
            (choice,) = _Answer.model_validate_json(text).choices
        except ValueError as error:
            raise malformed(f"{type(error).__name__}: {self.said(text)}") from None
        if choice.finish_reason not in ("stop", "length"):
            aborted = CriticError(f"the server ended a completion with {choice.finish_reason!r}")
            raise CallFailed(aborted, retryable=True)
        content = choice.logprobs.content
        if not choice.token_ids or choice.token_ids != [entry.token_id for entry in content]:
            raise malformed(f"{len(choice.token_ids)} ids and log-probs of {len(content)}; wanted one each")
        if any(not entry.logprob > _NO_LOGPROB for entry in content):
            raise malformed("a sampled token without a log-prob: the model's logits are not finite")
        return Sampled(
            token_ids=tuple(choice.token_ids),
            logprobs=tuple(entry.logprob for entry in content),
            stopped=choice.finish_reason == "stop",
            weights=frozenset(span.version for span in choice.weight_versions),
            usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=len(content)),
        )

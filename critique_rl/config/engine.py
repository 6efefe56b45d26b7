"""What samples the rollouts: this process itself, or a vLLM server beside it.

Owns: the defaults of both engines and the limits of their mismatch with the trainer. Must not know: HTTP, torch, vLLM.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from critique_rl.config.base import Strict


class HfEngineConfig(Strict):
    """transformers' own sampling, from the very weights that are trained."""

    kind: Literal["hf"] = "hf"


class ContinuousEngineConfig(Strict):
    """transformers' continuous batching: a sequence that ends makes room for the next one at once."""

    kind: Literal["continuous"]
    memory_share: float = Field(default=0.5, gt=0.0, le=1.0, description="share of free memory that its cache may take")


class VllmEngineConfig(Strict):
    """A vLLM server in a process of its own; docs/engines.md has the command that starts it."""

    kind: Literal["vllm"]
    model: str = Field(description="what the server calls its model (--served-model-name)")
    base_url: str = Field(default="http://127.0.0.1:8000", pattern=r"^https?://", description="without /v1")
    sync: Literal["reload", "nccl"] = Field(
        default="reload",
        description="how weights reach it: reload, through a directory; nccl, from GPU to GPU (extra nccl)",
    )
    weights_directory: str | None = Field(
        default=None, description="where weights are written for the server with sync = reload; one run's alone"
    )
    server_weights_directory: str | None = Field(
        default=None, description="the same directory as the server sees it (None: under the same path)"
    )
    api_key_env: str = Field(
        default="VLLM_API_KEY", description="variable that holds the server's key, if it wants one"
    )
    max_in_flight: int = Field(default=256, ge=1, description="prompts sent and not yet answered")
    timeout_s: float = Field(
        default=600.0, gt=0.0, description="longest wait for one completion, one reload or one message of a transfer"
    )
    restart_wait_s: float = Field(default=600.0, gt=0.0, description="longest wait for a server that went away")
    max_restarts: int = Field(default=3, ge=0, description="how often the server may go away within one batch")
    probe_tokens: int = Field(default=16, ge=1, description="tokens per probe that prove equal weights after each sync")
    probe_tolerance: float = Field(
        default=0.05, gt=0.0, description="largest mean |trainer - server| log-prob of the probes (nats/token)"
    )

    @model_validator(mode="after")
    def _weights_have_one_way(self) -> VllmEngineConfig:
        if self.sync == "reload" and self.weights_directory is None:
            raise ValueError(
                'sync = "reload" needs weights_directory, a directory that the server sees, too; name one, or set '
                'sync = "nccl" where both have GPUs'
            )
        unread = [key for key in ("weights_directory", "server_weights_directory") if getattr(self, key) is not None]
        if self.sync == "nccl" and unread:
            raise ValueError(
                f'{unread[0]} has no effect with sync = "nccl", which writes nothing; remove it, or set sync = "reload"'
            )
        return self


EngineConfig = Annotated[HfEngineConfig | ContinuousEngineConfig | VllmEngineConfig, Field(discriminator="kind")]


class MismatchConfig(Strict):
    """Limits of mean |trainer - engine| log-prob over the sampled tokens of a step (nats/token)."""

    alarm: float = Field(default=0.05, gt=0.0, description="above it the run warns")
    abort: float = Field(default=0.2, gt=0.0, description="above it the run stops before it trains on the step")

    @model_validator(mode="after")
    def _alarm_comes_first(self) -> MismatchConfig:
        if self.alarm > self.abort:
            raise ValueError(
                f"alarm = {self.alarm:g} lies above abort = {self.abort:g}; set it to {self.abort:g} or less"
            )
        return self

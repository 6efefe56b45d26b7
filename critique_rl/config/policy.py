"""The `[policy]` and `[optimizer]` sections: which model is trained, in which arithmetic, by which optimiser.

Owns: their defaults. Must not know: torch, transformers, how a model is loaded.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from critique_rl.config.base import Strict


class LoraConfig(Strict):
    """Train low-rank adapters instead of the weights (arXiv 2106.09685); needs the extra "peft"."""

    rank: int = Field(default=16, ge=1, description="inner size of the two factors of an adapter")
    alpha: float = Field(default=32.0, gt=0.0, description="the adapters' product is scaled by alpha / rank")
    target_modules: tuple[str, ...] | Literal["all-linear"] = Field(
        default="all-linear",
        description='last or full names of the linear layers that get adapters, such as "q_proj"; all-linear: every '
        "one but the head",
    )

    @field_validator("target_modules")
    @classmethod
    def _some_are_named(cls, value: tuple[str, ...] | str) -> tuple[str, ...] | str:
        if not isinstance(value, str) and (not value or {"", "all-linear"} & set(value)):
            raise ValueError(
                f'target_modules = {value!r}; wanted names of layers, such as ["q_proj"], or "all-linear" alone'
            )
        return value


class PolicyConfig(Strict):
    """The model to train."""

    model: str = Field(
        default="lab",
        description='"lab", "lab_guess", "lab_school", "lab_search", a Hub name, or a local directory',
    )
    gguf_file: str | None = Field(default=None, description="file name inside `model` when the weights are GGUF")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: CUDA if there is one")
    dtype: Literal["auto", "float32", "float64", "bfloat16"] = Field(
        default="auto", description="compute type; auto: bfloat16 (float32 master weights) on CUDA, float32 on CPU"
    )
    threads: int | None = Field(default=None, ge=1, description="torch threads on the CPU (None: torch's own choice)")
    lora: LoraConfig | None = None
    gradient_checkpointing: bool = Field(
        default=False, description="recompute each layer in the backward pass: less memory for about a third more time"
    )


class OptimizerConfig(Strict):
    """AdamW, one update per batch of rollouts unless more are asked for."""

    kind: Literal["adamw", "adamw_8bit", "paged_adamw", "paged_adamw_8bit"] = Field(
        default="adamw",
        description="how its state is kept: as the weights, in 8 bits, or paged out to the host; all but the first "
        'need CUDA and the extra "bitsandbytes"',
    )
    learning_rate: float = Field(default=1e-6, gt=0.0)
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    warmup_steps: int = Field(default=0, ge=0)
    updates_per_step: int = Field(
        default=1,
        ge=1,
        description="updates on one batch of rollouts: its tasks are dealt out to so many mini-batches, all samples of "
        "a task to the same one, and each sample is used once; a batch of fewer tasks makes fewer updates. After the "
        "first, the policy is no longer the one that sampled, which is what clips and KL-Cov are for",
    )
    epochs: int = Field(
        default=1, ge=1, description="times that each sample of a batch is used, in mini-batches dealt out anew"
    )
    micro_batch_tokens: int = Field(
        default=16384,
        ge=1,
        description="tokens per forward pass, with padding where the layout pads; never changes the result",
    )
    layout: Literal["auto", "padded", "packed", "prefix"] = Field(
        default="auto",
        description="how sequences share a forward pass: padded to the longest, packed end to end, or packed with the "
        "prompt of several rollouts computed once; auto: packed on CUDA, padded on a CPU; never changes the result; a "
        "model that cannot be packed is padded, with a warning",
    )

    @property
    def several(self) -> bool:
        """Whether a batch of rollouts is learned from in more than one update."""
        return self.updates_per_step * self.epochs > 1

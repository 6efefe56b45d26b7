"""The `[evaluation]` section: how held-out success is measured.

Owns: its defaults, and which numbers of samples can tell what is asked. Must not know: how completions are sampled or
judged.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from critique_rl.config.base import Strict


class EvaluationConfig(Strict):
    """Held-out success without any hint."""

    every: int = Field(default=50, ge=0, description="steps between evaluations; 0: only at the start and the end")
    samples_per_task: int = Field(
        default=1, ge=1, description="answers per task; more than one also gives the accuracy of votes among them"
    )
    max_tasks: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0.0, description="0 is greedy")
    max_tokens: int | None = Field(
        default=None,
        ge=1,
        description="longest answer of an evaluation, and of the probe of [monitors], in tokens (None: "
        "rollout.max_tokens)",
    )
    pass_at: tuple[int, ...] = Field(
        default=(),
        description="report pass@k (at least one of k answers is right) and pass^k (all k are) for each of these k, "
        "such as [1, 4, 16, 64]; unbiased, and needs samples_per_task >= the largest, better twice that",
    )

    @model_validator(mode="after")
    def _samples_can_tell(self) -> EvaluationConfig:
        ks = self.pass_at
        if any(k < 1 for k in ks) or len(set(ks)) < len(ks):
            raise ValueError(f"pass_at = {list(ks)}; wanted different whole numbers of 1 or more, such as [1, 4, 16]")
        if ks and max(ks) > self.samples_per_task:
            raise ValueError(
                f"pass_at = {list(ks)} with samples_per_task = {self.samples_per_task}: fewer answers than k say "
                f"nothing about k; set samples_per_task to {max(ks)} or more, or lower pass_at"
            )
        if self.temperature == 0 and ks and max(ks) > 1:
            raise ValueError(
                f"pass_at = {list(ks)} with temperature = 0: greedy answers to a task are all the same, so pass@k is "
                "pass@1; set a temperature above 0, or remove pass_at"
            )
        return self

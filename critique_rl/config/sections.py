"""Sections of a run file with a few plain keys each: rollouts, budget, checkpoints, report.

Owns: their defaults. Must not know: the other sections.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from critique_rl.config.base import Strict


class RolloutConfig(Strict):
    """How attempts are sampled."""

    prompts_per_step: int = Field(default=8, ge=1)
    group_size: int = Field(default=8, ge=1, description="rollouts per prompt")
    max_tokens: int = Field(default=256, ge=1, description="longest completion, in tokens")
    temperature: float = Field(default=1.0, gt=0.0)
    batch_size: int = Field(default=64, ge=1, description="sequences per generate call (bounds memory)")
    first_turn_candidates: int | None = Field(
        default=None,
        ge=2,
        description="with a task that has a tool: draw so many first turns for each prompt and begin its group with "
        "the group_size most different of them, which are not learned from (docs/search.md); None: begin with any",
    )


class BudgetConfig(Strict):
    """When to stop: whichever comes first."""

    max_steps: int = Field(default=100, ge=1)
    max_epochs: int | None = Field(
        default=None, ge=1, description="passes over the training tasks, each of as many whole batches as they fill"
    )
    stop_on_plateau: bool = Field(
        default=False,
        description="stop when the mean reward of the latest steps is flat, as plateau.block, horizon, delta and alpha "
        "say; too little to tell is not flat",
    )
    max_generated_tokens: int | None = Field(
        default=None, ge=1, description="rollout plus refinement tokens: what arms are compared at"
    )
    count_critic_tokens: bool = Field(
        default=False,
        description="the critic's own tokens count towards max_generated_tokens, too; a critic that states no usage is "
        "counted by the policy's tokenizer",
    )

    @model_validator(mode="after")
    def _every_key_is_read(self) -> BudgetConfig:
        if self.count_critic_tokens and self.max_generated_tokens is None:
            raise ValueError(
                "count_critic_tokens has no effect without max_generated_tokens; remove it, or set a token budget"
            )
        return self


class CheckpointConfig(Strict):
    """What is kept on disk."""

    every: int = Field(default=0, ge=0, description="steps between checkpoints; 0: only at the end")
    keep: int = Field(default=1, ge=1, description="newest checkpoints kept")


class ReportConfig(Strict):
    """What samples.jsonl and report.html show."""

    samples_per_step: int = Field(default=1, ge=0, description="whole stories recorded per step")
    every: int = Field(default=5, ge=1, description="steps between recorded stories (critiqued prompts first)")

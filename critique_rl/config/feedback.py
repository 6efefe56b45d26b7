"""Training from feedback that was collected earlier, in place of a critic.

Owns: the section's options. Must not know: the file's format, the loop.
"""

from __future__ import annotations

from pydantic import Field

from critique_rl.config.base import Strict


class FeedbackConfig(Strict):
    """A file of criticised rollouts, as `critique-rl critique` writes it or a person does."""

    path: str = Field(min_length=1, description="a .jsonl file of feedback rows")
    epochs: int = Field(default=1, ge=1, description="times that each prompt of the file is trained on")
    anchor: bool = Field(
        default=True,
        description="hold the file's right attempts to the teacher, which sees no directive there: without fresh "
        "rollouts nobody notices when they are forgotten",
    )
    max_staleness: int = Field(
        default=100,
        ge=0,
        description="optimiser steps between the policy that sampled a row and the one that learns from it; older rows "
        "are left out and counted",
    )
    correction_cap: float = Field(
        default=2.0, ge=1.0, description="largest importance weight of an old rollout's token in the directive channel"
    )

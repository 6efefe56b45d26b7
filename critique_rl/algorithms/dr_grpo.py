"""Dr.GRPO (arXiv 2503.20783): GRPO without its length and difficulty biases.

    J = 1 / (R max_tokens) sum_i sum_t min(r_i,t A_i, clip(r_i,t, 0.8, 1.2) A_i),  A_i = R_i - mean(R)

over the R rollouts of a step. It is what `grpo` does unless told otherwise, under its own name: no `scale` to set.
Deviations: 1. rollouts that could not be scored do not count among the R.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from critique_rl.algorithms.stamping import group_samples
from critique_rl.config.algorithm import DrGrpoConfig
from critique_rl.types import Group, TrainSample


class DrGrpo:
    """Centred rewards as they are."""

    name = "dr_grpo"
    needs: frozenset[Literal["critique", "refinement", "teacher"]] = frozenset()

    def __init__(self, config: DrGrpoConfig) -> None:
        self.config = config

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """One sample per rollout."""
        return group_samples(groups, scale="none")

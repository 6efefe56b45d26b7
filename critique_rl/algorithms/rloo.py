"""RLOO (arXiv 2402.14740): REINFORCE on whole answers, each measured against the others of its group.

    J = 1 / (R max_tokens) sum_i A_i log p(y_i),  A_i = R_i - 1 / (G - 1) sum_{j != i} R_j

over the R rollouts of a step, G of them in a group. Deviations: 1. the constant max_tokens only scales the gradient;
2. no KL term unless `loss.kl_weight` asks for it, and then token by token; 3. a group of one teaches nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from critique_rl.algorithms.stamping import group_samples
from critique_rl.config.algorithm import RlooConfig
from critique_rl.types import Group, TrainSample


class Rloo:
    """Each reward less the mean of the group's others."""

    name = "rloo"
    needs: frozenset[Literal["critique", "refinement", "teacher"]] = frozenset()

    def __init__(self, config: RlooConfig) -> None:
        self.config = config

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """One sample per rollout."""
        return group_samples(groups, scale="loo")

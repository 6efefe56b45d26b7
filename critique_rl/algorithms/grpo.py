"""GRPO on the verifier's reward (arXiv 2402.03300) in Dr.GRPO's form by default (arXiv 2503.20783).

Deviations: 1. no KL term; 2. with `scale="std"` the sample standard deviation (ddof 1) is used, and a group without
spread gets exactly zero; 3. a rollout whose verifier failed is masked, not scored 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from critique_rl.algorithms.stamping import advantages_of, blank, stamp_pg
from critique_rl.config.algorithm import GrpoConfig
from critique_rl.types import Group, TrainSample


class Grpo:
    """A_i = r_i - mean(r) over the group's rollouts, the same on every token."""

    name = "grpo"
    needs: frozenset[Literal["critique", "refinement", "teacher"]] = frozenset()

    def __init__(self, config: GrpoConfig) -> None:
        self.config = config

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """One sample per rollout."""
        samples: list[TrainSample] = []
        for group in groups:
            rewards = [score.reward for score in group.scores]
            moved = advantages_of(group, rewards, scale=self.config.scale, use_refinements=False)
            samples += [stamp_pg(blank(r), a) for r, a in zip(group.rollouts, moved.rollouts, strict=True)]
        return samples

"""GRPO plus the shaped objective on the group's own right rollouts: the control arm of every claim about critics.

    J = J_grpo + weight * 1 / N sum_t A_i p_t / (p_t + gamma)  over the N tokens of right rollouts,  A_i = R_i - mean(R)

Critique-GRPO's own ablation (arXiv 2506.03106) owes more of its gain to this shaping (LUFFY, arXiv 2504.14945) than to
language; here it gets the same weight with no critic, no refinement and no extra token. On a prompt that never succeeds
it is GRPO, which learns nothing. Deviations: 1. LUFFY shapes an expert's demonstrations, these are the policy's own; 2.
they keep their policy-gradient term beside the shaped one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from critique_rl.algorithms.stamping import advantages_of, blank, stamp_pg
from critique_rl.config.algorithm import SelfImitationConfig
from critique_rl.types import Group, TrainSample


class SelfImitation:
    """Right rollouts of a group with contrast carry an imitation weight beside their policy-gradient weight."""

    name = "self_imitation"
    needs: frozenset[Literal["critique", "refinement", "teacher"]] = frozenset()

    def __init__(self, config: SelfImitationConfig) -> None:
        self.config = config

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """One sample per rollout."""
        samples: list[TrainSample] = []
        for group in groups:
            rewards = [score.reward for score in group.scores]
            moved = advantages_of(group, rewards, scale=self.config.scale, use_refinements=False)
            for rollout, score, advantage in zip(group.rollouts, group.scores, moved.rollouts, strict=True):
                sample = stamp_pg(blank(rollout), advantage)
                imitated = score.correct and sample.advantages.any()
                samples.append(replace(sample, imitate_weight=sample.pg_weight) if imitated else sample)
        return samples

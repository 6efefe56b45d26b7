"""GRPO on the verifier's reward (arXiv 2402.03300) in Dr.GRPO's form by default (arXiv 2503.20783).

    A_i,t = r_i - mean(r), the same on every token; [loss] says what each token's term is and what divides their sum

Deviations: 1. no KL term unless `loss.kl_weight` asks for it; 2. with `scale="std"` the sample standard deviation
(ddof 1) is used, and a group without spread gets exactly zero; 3. a rollout whose verifier failed is masked, not
scored 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from critique_rl.algorithms.stamping import group_samples
from critique_rl.config.algorithm import CispoConfig, DapoConfig, GrpoConfig, GspoConfig
from critique_rl.types import Group, TrainSample


class Grpo:
    """A_i = r_i - mean(r) over the group's rollouts, the same on every token."""

    name = "grpo"
    needs: frozenset[Literal["critique", "refinement", "teacher"]] = frozenset()

    def __init__(self, config: GrpoConfig | DapoConfig | GspoConfig | CispoConfig) -> None:
        self.config = config

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """One sample per rollout."""
        return group_samples(groups, scale=self.config.scale)

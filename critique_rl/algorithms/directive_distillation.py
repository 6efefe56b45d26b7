"""Directive distillation alone (SDPO, arXiv 2601.20802; OpenClaw-RL's directive channel, arXiv 2603.10165).

The policy, shown the directive, re-scores the failed attempt's own tokens; the bare policy is pulled towards that
distribution at each of them. No reward enters. Deviations: 1. the teacher is never shown the attempt (showing it hurt:
48.3 -> 44.5 in SDPO's ablation); 2. no importance weight, since targets are made from the weights that are trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from critique_rl.algorithms.stamping import blank, stamp_targets
from critique_rl.config.algorithm import DirectiveDistillationConfig
from critique_rl.types import Group, TrainSample


class DirectiveDistillation:
    """Distillation weight 1 on the tokens of attempts that have a directive, nothing elsewhere."""

    name = "directive_distillation"
    needs: frozenset[Literal["critique", "refinement", "teacher"]] = frozenset({"critique", "teacher"})

    def __init__(self, config: DirectiveDistillationConfig) -> None:
        self.config = config

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """One sample per rollout; those without targets carry no gradient."""
        return [stamp_targets(blank(rollout), group) for group in groups for rollout in group.rollouts]

"""Critique-GRPO (arXiv 2506.03106): verified refinements of failed groups join the group under the bare prompt.

Deviations: 1. a group is refined when the plateau tracker says so (`plateau.mode = "paper"` is the paper's rule: all
rollouts fail now); 2. only verified refinements are injected (in an all-fail group a wrong one changes nothing: every
advantage is 0); 3. no clip on the shaped ratio, which as printed is inert for a positive advantage and freezes
unfamiliar tokens for a negative one; 4. refinements are appended to the group and never replace a rollout.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from critique_rl.algorithms.stamping import advantages_of, blank, stamp_imitation, stamp_pg
from critique_rl.config.algorithm import CritiqueGrpoConfig
from critique_rl.config.refinement import RefinementConfig
from critique_rl.types import Group, TrainSample


class CritiqueGrpo:
    """A over the union of rollouts and refinements; refinements are weighted by pi / (pi + gamma) in the step."""

    name = "critique_grpo"
    needs: frozenset[Literal["critique", "refinement", "teacher"]] = frozenset({"critique", "refinement"})

    def __init__(self, config: CritiqueGrpoConfig, refinement: RefinementConfig | None = None) -> None:
        self.config = config
        self.refinement = RefinementConfig() if refinement is None else refinement

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """One sample per rollout and per accepted refinement."""
        samples: list[TrainSample] = []
        for group in groups:
            rewards = [score.reward for score in group.scores]
            moved = advantages_of(
                group, rewards, scale=self.config.scale, baseline=self.config.baseline, use_refinements=True
            )
            samples += [stamp_pg(blank(r), a) for r, a in zip(group.rollouts, moved.rollouts, strict=True)]
            samples += stamp_imitation(group, moved.refinements, self.refinement)
        return samples

"""A method whose second attempts are rollouts as well, trained in the context that they were sampled in.

    A_j = R_j - mean(R) over the refinements of one prompt in one step; a token weighs train_refiner times a rollout's

The policy thereby learns to use what it is told (GOLF, arXiv 2603.04597). Deviations: 1. where each failed attempt has
a context of its own, the baseline is over all of them; 2. a right one that a filter refused is left out: rewarding it
would teach to copy; 3. equal rewards leave no sample; 4. these rows take nothing from the rollouts: weights undo their
part in the channel's denominator; 5. a step that learns nothing from rewards has none. Replayed ones are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import torch

from critique_rl.algorithms.stamping import blank, stamp_pg
from critique_rl.config.algorithm import Scale
from critique_rl.config.replay import REPLAY
from critique_rl.ops.advantages import group_advantages
from critique_rl.protocols import Algorithm
from critique_rl.types import Group, Refinement, ScoreStatus, TrainSample

SUFFIX = "/refiner"
"""Ends the id of a refinement as a rollout of its own: the same tokens may be imitated under the bare prompt, too."""


class TrainedRefiner:
    """`method`, and each prompt's refinements as a group beside it; its name and needs stay."""

    def __init__(
        self,
        method: Algorithm,
        *,
        weight: float,
        scale: Scale = "none",
        normalizer: Literal["constant", "tokens", "sequences"] = "constant",
    ) -> None:
        """`normalizer` says what the policy gradient's denominator counts: tokens, or else rows."""
        self.method = method
        self.weight = weight
        self.scale: Scale = scale
        self.normalizer = normalizer
        self.name = method.name
        self.needs: frozenset[Literal["critique", "refinement", "teacher"]] = method.needs

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """The method's samples and behind them those of the refinements."""
        samples = self.method.assemble(groups)
        own = [sample for group in groups for sample in self._samples(group)]
        rollouts = self._counted(samples)
        if not own or not rollouts:
            return samples
        factor = 1 + self._counted(own) / rollouts
        return [
            *(replace(s, pg_weight=factor * s.pg_weight) if s.pg_weight.any() else s for s in samples),
            *(replace(s, pg_weight=factor * self.weight * s.pg_weight) for s in own),
        ]

    def _samples(self, group: Group) -> list[TrainSample]:
        own = [r for r in group.refinements if _counts(r)]
        if not own:
            return []
        rewards = torch.tensor([r.score.reward for r in own], dtype=torch.float64)
        advantages = group_advantages(rewards, scale=self.scale).tolist()
        if not any(advantages):
            return []
        stamped = [stamp_pg(blank(r.rollout), a) for r, a in zip(own, advantages, strict=True)]
        return [replace(s, rollout_id=s.rollout_id + SUFFIX) for s in stamped]

    def _counted(self, samples: Sequence[TrainSample]) -> int:
        on = [int((s.pg_weight * s.loss_mask > 0).sum()) for s in samples]
        return sum(on) if self.normalizer == "tokens" else sum(count > 0 for count in on)


def _counts(refinement: Refinement) -> bool:
    if refinement.rung == REPLAY or refinement.score.status is ScoreStatus.ERROR:
        return False
    # Only what no filter refused was scored under the bare prompt.
    return not refinement.score.correct or bool(refinement.bare_logprobs)

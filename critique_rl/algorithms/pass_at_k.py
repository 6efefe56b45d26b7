"""Pass@k training (arXiv 2508.10751): a group of k rollouts is rewarded for its best one, over all ways to draw it.

    A_right = (1 - R) / s,  A_wrong = (1 - R - C(M - 1, k - 1) / C(N - 1, k - 1)) / s,  R = 1 - C(M, k) / C(N, k)

with N rollouts of a prompt, M of them wrong, s = sqrt(R (1 - R)). Easy prompts teach little and hard ones much: with
fewer than k wrong rollouts, nothing. Deviations: 1. a rollout whose verifier failed is not one of the N, and with
fewer than k left a group teaches nothing; 2. rewards between 0 and 1 need a threshold; 3. the loss is that of [loss],
by default one clip for both sides and no division by length.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from critique_rl.algorithms.stamping import blank, right_or_wrong, stamp_pg
from critique_rl.config.algorithm import PassAtKConfig
from critique_rl.ops.pass_at_k import pass_at_k_advantages
from critique_rl.types import Group, ScoreStatus, TrainSample


class PassAtK:
    """Each rollout's mean advantage over all draws of k rollouts that it is in."""

    name = "pass_at_k"
    needs: frozenset[Literal["critique", "refinement", "teacher"]] = frozenset()

    def __init__(self, config: PassAtKConfig) -> None:
        self.config = config
        self._figures: dict[str, float] = {}

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """One sample per rollout. Errors: ConfigError for partial credit without a threshold, or a reward that is no
        number."""
        samples: list[TrainSample] = []
        live: list[bool] = []
        for group in groups:
            judged = {
                i: right_or_wrong(group.rollouts[i], score, threshold=self.config.threshold, method=self.name)
                for i, score in enumerate(group.scores)
                if score.status is not ScoreStatus.ERROR and not group.late
            }
            moved: dict[int, float] = {}
            if len(judged) >= self.config.k:
                right_N = torch.tensor(list(judged.values()), dtype=torch.bool)
                values = pass_at_k_advantages(right_N, k=self.config.k).tolist()
                moved = dict(zip(judged, values, strict=True))
            live += [any(moved.values())] if judged else []
            samples += [stamp_pg(blank(rollout), moved.get(i)) for i, rollout in enumerate(group.rollouts)]
        self._figures = {"pass_at_k/live_groups": sum(live) / len(live)} if live else {}
        return samples

    def figures(self) -> Mapping[str, float]:
        """Of the groups that could be judged in the latest step: which share has any advantage."""
        return self._figures

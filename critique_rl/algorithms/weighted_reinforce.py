"""Pushing right answers up and wrong ones down by fixed weights, with no baseline (arXiv 2506.01347).

    J = 1 / N sum_i sum_t min(r_it A_i, clip(r_it, 0.8, 1.2) A_i),  A_i = w_pos if answer i is right, else -w_neg

over the N tokens of the answers whose weight is not 0. PSR is (w_pos, w_neg) = (1, 0), NSR (0, 1), REINFORCE (1, 1),
W-REINFORCE (0.1, 1). The mean over kept tokens is part of the method: with it rare errors move as much as frequent
ones. Summed over tokens instead, on-policy and in expectation, right and wrong answers give one and the same gradient.
Deviations: 1. one update a batch, so that the clip acts only where the sampler's probabilities differ; the authors take
up to four, and reports in their repository (weak evidence) say that the rise in entropy needs them; 2. no entropy
bonus unless loss.entropy_weight asks for it (paper 1e-4, its code 1e-3); 3. no answer is dropped to make ranks even;
4. an answer whose verifier failed counts nowhere; 5. rewards between 0 and 1 need a threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from critique_rl.algorithms.stamping import blank, right_or_wrong, stamp_pg
from critique_rl.config.algorithm import WeightedReinforceConfig
from critique_rl.types import Group, ScoreStatus, TrainSample


class WeightedReinforce:
    """+w_pos on right rollouts, -w_neg on wrong ones; those of weight 0 are left out, or count as tokens only."""

    name = "weighted_reinforce"
    needs: frozenset[Literal["critique", "refinement", "teacher"]] = frozenset()

    def __init__(self, config: WeightedReinforceConfig) -> None:
        self.config = config
        self._figures: dict[str, float] = {}

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """One sample per rollout. Errors: ConfigError for NaN, or partial credit without a threshold."""
        samples: list[TrainSample] = []
        verdicts: list[bool] = []
        for group in groups:
            for rollout, score in zip(group.rollouts, group.scores, strict=True):
                known = score.status is not ScoreStatus.ERROR and not group.late
                threshold = self.config.threshold
                right = right_or_wrong(rollout, score, threshold=threshold, method=self.name) if known else None
                verdicts += [] if right is None else [right]
                samples.append(stamp_pg(blank(rollout), None if right is None else self._advantage(right)))
        kept = sum(bool(self._advantage(right)) for right in verdicts)
        self._figures = (
            {"reinforce/kept_share": kept / len(verdicts), "reinforce/right_share": sum(verdicts) / len(verdicts)}
            if verdicts
            else {}
        )
        return samples

    def figures(self) -> Mapping[str, float]:
        """Of the rollouts that could be judged in the latest step: which share was right, which carries a weight."""
        return self._figures

    def _advantage(self, right: bool) -> float | None:
        value = self.config.positive_weight if right else -self.config.negative_weight
        return None if value == 0 and self.config.denominator == "kept" else value

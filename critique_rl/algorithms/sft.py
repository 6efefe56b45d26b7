"""Supervised fine-tuning: the worked solutions themselves, through the policy-gradient channel.

    L = -1 / N sum_t log pi(y_t | q, y_<t)  over the N tokens of the step's demonstrations, the end token included

It is REINFORCE with advantage 1 and no ratio, so that `loss/pg` is the mean cross-entropy in nats a token (with
loss.normalizer = "tokens"; at rollout.temperature, as everything that is trained). Must not know: where demonstrations
come from.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from critique_rl.algorithms.stamping import blank
from critique_rl.config.algorithm import SftConfig
from critique_rl.types import Group, TrainSample


class Sft:
    """Advantage 1 and weight 1 on every token that a demonstration has of its own."""

    name = "sft"
    needs: frozenset[Literal["critique", "refinement", "teacher"]] = frozenset()

    def __init__(self, config: SftConfig) -> None:
        self.config = config
        self._figures: dict[str, float] = {}

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """One sample per demonstration; its behaviour log-probs are unknown, and no ratio is taken to them."""
        samples = [_imitated(blank(rollout)) for group in groups for rollout in group.rollouts]
        scores = [score for group in groups for score in group.scores]
        self._figures = {
            "tokens/trained": float(sum(sample.loss_mask.sum() for sample in samples)),
            **({"demonstrations/verified": float(np.mean([s.correct for s in scores]))} if scores else {}),
        }
        return samples

    def figures(self) -> Mapping[str, float]:
        """Of the latest step: the tokens learned from, and the share of demonstrations that the verifier accepts."""
        return self._figures


def _imitated(sample: TrainSample) -> TrainSample:
    whole = np.ones(len(sample.completion_ids))
    return replace(sample, advantages=whole, pg_weight=whole)

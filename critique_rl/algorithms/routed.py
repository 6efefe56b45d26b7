"""A method whose rollouts each learn from one channel only (SRPO, arXiv 2604.02288).

Right: the policy gradient alone. Wrong with usable targets: the distillation alone, where a token weighs exp(-beta H),
H the teacher's entropy there, with mean 1 over the step. Wrong without targets: the policy gradient. Known failure:
what a wrong attempt with a directive shows by failing is no longer learned, only what the directive says of it.

Deviations: 1. a routed rollout keeps its policy-gradient weight at advantage 0, so that no denominator moves and no
other rollout weighs more because a critic spoke; 2. H is that of the support's bins; 3. weights for an older policy and
these multiply; 4. refinements keep their imitation, which the paper has not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from critique_rl.algorithms.stamping import taught
from critique_rl.config.distillation import ROUTED_BETA, DistillationConfig
from critique_rl.ops.gaps import certainty_weights, support_entropy
from critique_rl.protocols import Algorithm
from critique_rl.types import Group, TrainSample


class OutcomeRouting:
    """`method` with each rollout in one channel; its name and needs stay."""

    def __init__(self, method: Algorithm, config: DistillationConfig) -> None:
        self.method = method
        self.beta = ROUTED_BETA if config.routed_beta is None else config.routed_beta
        self.name = method.name
        self.needs: frozenset[Literal["critique", "refinement", "teacher"]] = method.needs

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """The method's samples; those without a teacher are untouched."""
        right = {
            (group.task.id, rollout.id)
            for group in groups
            for rollout, score in zip(group.rollouts, group.scores, strict=True)
            if score.correct
        }
        samples = [
            replace(sample, distill_weight=np.zeros_like(sample.distill_weight))
            if sample.teacher is not None and (sample.task_id, sample.rollout_id) in right
            else sample
            for sample in self.method.assemble(groups)
        ]
        return self._weighed(samples)

    def _weighed(self, samples: list[TrainSample]) -> list[TrainSample]:
        routed = {i: (s.teacher, taught(s)) for i, s in enumerate(samples) if s.teacher is not None and taught(s).any()}
        if not routed:
            return samples
        entropies = [support_entropy(torch.as_tensor(teacher.logprobs_TK[on_T])) for teacher, on_T in routed.values()]
        weights = certainty_weights(torch.cat(entropies), beta=self.beta).split([len(part) for part in entropies])
        weighed = list(samples)
        for (i, (_, on_T)), weights_M in zip(routed.items(), weights, strict=True):
            weight_T = samples[i].distill_weight.copy()
            weight_T[on_T] *= weights_M.numpy()
            weighed[i] = replace(samples[i], distill_weight=weight_T, advantages=np.zeros_like(weight_T))
        return weighed

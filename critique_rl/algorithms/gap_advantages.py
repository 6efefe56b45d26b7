"""A method whose directive channel speaks through the advantages (OpenClaw-RL's first form, arXiv 2603.10165).

    A_t = A_t(method) + weight * clip(log T(a_t) - log S(a_t), -C, C)   on tokens with a teacher, and A_t elsewhere

One loss then carries both channels, with one clip on their sum and one denominator, that of the policy gradient; a
token that only has a teacher joins it (directive distillation alone, late groups). A sample whose sampler's log-probs
nobody knows has no gap, and is not taught.

Deviations: 1. the gap is always clipped, where theirs ran without; 2. S is what the token was sampled with: where
another engine samples, its mismatch with the trainer is in the gap; 3. no group's correction for an older policy
enters, as the loss's own ratio corrects for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from critique_rl.algorithms.stamping import taught
from critique_rl.config.distillation import GAP_CLIP, DistillationConfig
from critique_rl.ops.gaps import sampled_gap
from critique_rl.protocols import Algorithm
from critique_rl.types import Group, TrainSample


class GapAdvantages:
    """`method` with its distillation weights turned into advantages; its name and needs stay."""

    def __init__(self, method: Algorithm, config: DistillationConfig) -> None:
        self.method = method
        self.weight = config.weight
        self.clip = GAP_CLIP if config.gap_clip is None else config.gap_clip
        self.name = method.name
        self.needs: frozenset[Literal["critique", "refinement", "teacher"]] = method.needs

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """The method's samples, none of them with a distillation weight; those without a teacher are untouched."""
        return [self._moved(sample) for sample in self.method.assemble(groups)]

    def _moved(self, sample: TrainSample) -> TrainSample:
        teacher = sample.teacher
        if teacher is None:
            return sample
        gap_T = sampled_gap(
            torch.as_tensor(teacher.sampled_logprobs_T), torch.as_tensor(sample.behaviour_logprobs), clip=self.clip
        ).numpy()
        taught_T = taught(sample) & np.isfinite(gap_T)
        return replace(
            sample,
            advantages=sample.advantages + np.where(taught_T, self.weight * gap_T, 0.0),
            pg_weight=np.where(taught_T, 1.0, sample.pg_weight),
            distill_weight=np.zeros_like(sample.distill_weight),
        )

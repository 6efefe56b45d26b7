"""A method whose targets scale its advantages and never turn them (RLSD, arXiv 2604.03128).

    A_t = A [(1 - share) + share clip(exp(sign(A) (log T(a_t) - log S(a_t))), 1 - clip, 1 + clip)]

The verifier owns the sign, the teacher the size. No distillation weight is left. Known failure: where a group's
advantages are all 0, as on a plateau without refinements, it does nothing at all.

Deviations: 1. the share stays unless `signed_steps` lets it fall to 0; the paper's 50 steps from the start of a run are
over before a plateau is found; 2. S is what the token was sampled with; 3. its steps are applied steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from critique_rl.algorithms.stamping import steps_taken, taught
from critique_rl.config.distillation import SIGNED_CLIP, SIGNED_SHARE, DistillationConfig
from critique_rl.ops.gaps import sampled_gap, signed_advantages
from critique_rl.protocols import Algorithm
from critique_rl.types import Group, TrainSample


class SignedAdvantages:
    """`method` with the advantages of its taught tokens scaled; its name and needs stay."""

    def __init__(self, method: Algorithm, config: DistillationConfig) -> None:
        self.method = method
        self.share = SIGNED_SHARE if config.signed_share is None else config.signed_share
        self.clip = SIGNED_CLIP if config.signed_clip is None else config.signed_clip
        self.steps = config.signed_steps
        self.name = method.name
        self.needs: frozenset[Literal["critique", "refinement", "teacher"]] = method.needs

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """The method's samples, none of them with a distillation weight; those without a teacher are untouched."""
        left = 1.0 if self.steps is None else max(0.0, 1 - steps_taken(groups) / self.steps)
        return [self._scaled(sample, self.share * left) for sample in self.method.assemble(groups)]

    def _scaled(self, sample: TrainSample, share: float) -> TrainSample:
        teacher = sample.teacher
        if teacher is None:
            return sample
        gap_T = sampled_gap(
            torch.as_tensor(teacher.sampled_logprobs_T), torch.as_tensor(sample.behaviour_logprobs), clip=math.inf
        )
        gap_T = torch.where(torch.as_tensor(taught(sample)), gap_T, torch.nan)
        scaled_T = signed_advantages(torch.as_tensor(sample.advantages), gap_T, share=share, clip=self.clip)
        return replace(sample, advantages=scaled_T.numpy(), distill_weight=np.zeros_like(sample.distill_weight))

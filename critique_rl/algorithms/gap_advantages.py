"""A method whose directive channel speaks through the advantages (OpenClaw-RL's first form, arXiv 2603.10165).

    A_t = A_t(method) + weight * clip(log T(a_t) - log S(a_t), -C, C)   on tokens with a teacher, and A_t elsewhere

`centred_gap` adds KL(S||T) at the token's state before the clip (vOPD, arXiv 2605.07865). One loss carries both
channels, with one clip on their sum and the policy gradient's denominator, which a token that only has a teacher joins
(directive distillation alone, late groups). A sample whose sampler's log-probs nobody knows is not taught.

Deviations: 1. the gap is always clipped, where theirs ran without; 2. S is what the token was sampled with: where
another engine samples, its mismatch with the trainer is in the gap; 3. no group's correction for an older policy
enters, as the loss's own ratio corrects for it; 4. KL(S||T) is that of the targets' K ids and a tail, with S the policy
when they were made: it centres in part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
import torch

from critique_rl.algorithms.stamping import taught
from critique_rl.config.distillation import GAP_CLIP, DistillationConfig
from critique_rl.errors import ConfigError
from critique_rl.ops.divergences import topk_tail_divergence
from critique_rl.ops.gaps import centred_gap, sampled_gap
from critique_rl.protocols import Algorithm
from critique_rl.types import Array, Group, TeacherTargets, TrainSample


class GapAdvantages:
    """`method` with its distillation weights turned into advantages; its name and needs stay."""

    def __init__(self, method: Algorithm, config: DistillationConfig) -> None:
        self.method = method
        self.weight = config.weight
        self.clip = GAP_CLIP if config.gap_clip is None else config.gap_clip
        self.centred = config.centred_gap
        self.name = method.name
        self.needs: frozenset[Literal["critique", "refinement", "teacher"]] = method.needs

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """The method's samples, none of them with a distillation weight; those without a teacher are untouched."""
        return [self._moved(sample) for sample in self.method.assemble(groups)]

    def _moved(self, sample: TrainSample) -> TrainSample:
        teacher = sample.teacher
        if teacher is None:
            return sample
        gap_T = self._gap(teacher, sample.behaviour_logprobs)
        taught_T = taught(sample) & np.isfinite(gap_T)
        return replace(
            sample,
            advantages=sample.advantages + np.where(taught_T, self.weight * gap_T, 0.0),
            pg_weight=np.where(taught_T, 1.0, sample.pg_weight),
            distill_weight=np.zeros_like(sample.distill_weight),
        )

    def _gap(self, teacher: TeacherTargets, behaviour_T: Array) -> Array:
        sampled, behaviour = torch.as_tensor(teacher.sampled_logprobs_T), torch.as_tensor(behaviour_T)
        if not self.centred:
            return sampled_gap(sampled, behaviour, clip=self.clip).numpy()
        if teacher.student_logprobs_TK is None:
            raise ConfigError(
                "distillation.centred_gap = true came with targets that lack student_logprobs_TK; wanted the policy's "
                "log-probs at their ids when they were made: take them in the pass that made the targets, or leave "
                "centred_gap out"
            )
        reverse_kl = topk_tail_divergence(
            torch.as_tensor(teacher.student_logprobs_TK), torch.as_tensor(teacher.logprobs_TK), kind="reverse"
        )
        return centred_gap(sampled, behaviour, reverse_kl, clip=self.clip).numpy()

"""Critiques as text to be predicted: a one-hot target on every token of what the critic said (RLTF, arXiv 2602.02482).

    loss += predict_critique / N_p * sum_t -log p(critique_t | question, attempt, critique_<t)

N_p counts the critiques' own tokens. They go through the distillation channel, whose forward divergence from a one-hot
target is the cross-entropy; weights undo its common denominator and coefficient, so that neither dilutes the other.
Deviation: directives alone are predicted, not the verdict. Must not know: templates, critics, who may be shown what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from critique_rl.algorithms.stamping import blank, taught
from critique_rl.types import Rollout, TeacherTargets, TrainSample


class PredictedCritiques:
    """Adds critiques to a step's samples; `channel_weight` is the coefficient of the step's distillation loss."""

    def __init__(self, *, weight: float, channel_weight: float) -> None:
        self.weight = weight
        self.channel_weight = channel_weight

    def add(self, samples: Sequence[TrainSample], critiques: Sequence[Rollout]) -> list[TrainSample]:
        """The samples, with the critiques behind them: each one's prompt is the question with the attempt."""
        count = sum(len(critique.completion_ids) for critique in critiques)
        if not count:
            return list(samples)
        real = sum(int(taught(sample).sum()) for sample in samples)
        whole = real + count
        kept = [
            replace(sample, distill_weight=sample.distill_weight * (whole / real)) if taught(sample).any() else sample
            for sample in samples
        ]
        width = max((s.teacher.ids_TK.shape[1] for s in samples if s.teacher is not None), default=1)
        weight = self.weight * whole / (count * self.channel_weight)
        return [*kept, *(_predicted(critique, width, weight) for critique in critiques)]


def _predicted(critique: Rollout, width: int, weight: float) -> TrainSample:
    sample = blank(critique)
    length = len(critique.completion_ids)
    return replace(sample, teacher=one_hot(critique, width), distill_weight=np.full(length, weight))


def one_hot(critique: Rollout, width: int) -> TeacherTargets:
    """All mass on each token [T] of the critique, on a support of `width` ids: the others are ruled out."""
    ids_T = np.asarray(critique.completion_ids, dtype=np.int64)
    others_W = np.arange(width, dtype=np.int64)
    # The first ids of the vocabulary without the token itself: no id may stand twice in a support.
    ids_TK = np.array([[token, *others_W[others_W != token][: width - 1]] for token in ids_T], dtype=np.int64)
    logprobs_TK = np.full(ids_TK.shape, -np.inf)
    logprobs_TK[:, 0] = 0.0
    return TeacherTargets(
        ids_TK=ids_TK,
        logprobs_TK=logprobs_TK,
        sampled_logprobs_T=np.zeros(len(ids_T)),
        mask_T=np.ones(len(ids_T)),
        context_ids=critique.prompt_ids,
    )

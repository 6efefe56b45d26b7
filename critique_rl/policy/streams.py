"""Train samples as the flat per-token streams of one micro-batch, and which of their tokens count.

Owns: the rule that missing is a mask, never 0. Must not know: losses, models.
Legend: N response tokens of the micro-batch in the order of its rows, T tokens of one sample, M distilled tokens of the
N, K support size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from critique_rl.types import Array, TeacherTargets, TrainSample


class Streams:
    """What each response token was sampled with and is weighted by; `lengths` are the rows' tokens, N in all."""

    def __init__(self, rows: Sequence[TrainSample], device: torch.device) -> None:
        def flat(parts: list[Array]) -> torch.Tensor:
            return torch.as_tensor(np.concatenate(parts), device=device)

        self.lengths = [len(s.completion_ids) for s in rows]
        self.behaviour_N = flat([s.behaviour_logprobs for s in rows])
        self.advantages_N = flat([s.advantages for s in rows])
        self.pg_N = flat([s.pg_weight * s.loss_mask for s in rows])
        self.imitate_N = flat([s.imitate_weight * s.loss_mask for s in rows])
        self.guided_N = flat([s.behaviour_logprobs if s.guided_logprobs is None else s.guided_logprobs for s in rows])
        missing = [np.full(len(s.completion_ids), np.nan) for s in rows]
        self.reference_N = flat(
            [
                none if s.reference_logprobs is None else s.reference_logprobs
                for s, none in zip(rows, missing, strict=True)
            ]
        )
        self.dropped_N = self._marks([s.dropped for s in rows], device)
        self.held_N = self._marks([s.held for s in rows], device)

    def _marks(self, marked: Sequence[Array | None], device: torch.device) -> torch.Tensor | None:
        """Where a token is marked; None where none is."""
        if all(marks is None for marks in marked):
            return None
        none = [np.zeros(length) for length in self.lengths]
        found = [zero if marks is None else marks for marks, zero in zip(marked, none, strict=True)]
        return torch.as_tensor(np.concatenate(found), device=device) > 0


class Directives(NamedTuple):
    """The distilled tokens: `rows_M` says which of the N (ascending); the teacher's log-probs are at `ids_MK`.

    `behaviour_MK` are the policy's own there when the targets were made; None unless every row's targets have them.
    """

    rows_M: torch.Tensor
    ids_MK: torch.Tensor
    teacher_MK: torch.Tensor
    weights_M: torch.Tensor
    behaviour_MK: torch.Tensor | None = None


def directives(rows: Sequence[TrainSample], device: torch.device) -> Directives | None:
    """The tokens of a micro-batch that have a weight and a usable teacher; None if there is none."""
    starts = np.cumsum([0, *(len(s.completion_ids) for s in rows)])
    taught: list[tuple[TeacherTargets, np.ndarray, Array, int]] = []
    for sample, start in zip(rows, starts, strict=False):
        weight_T = sample.distill_weight * distilled(sample)
        wanted = np.flatnonzero(weight_T)
        if sample.teacher is not None and wanted.size:
            taught.append((sample.teacher, wanted, weight_T[wanted], int(start)))
    if not taught:
        return None
    told = [None if t.student_logprobs_TK is None else t.student_logprobs_TK[at] for t, at, _, _ in taught]
    known = [part for part in told if part is not None]
    return Directives(
        rows_M=torch.as_tensor(np.concatenate([start + at for _, at, _, start in taught]), device=device),
        ids_MK=torch.as_tensor(np.concatenate([teacher.ids_TK[at] for teacher, at, _, _ in taught]), device=device),
        teacher_MK=torch.as_tensor(
            np.concatenate([teacher.logprobs_TK[at] for teacher, at, _, _ in taught]), device=device
        ),
        weights_M=torch.as_tensor(np.concatenate([weight for _, _, weight, _ in taught]), device=device),
        behaviour_MK=torch.as_tensor(np.concatenate(known), device=device) if len(known) == len(taught) else None,
    )


def active(sample: TrainSample, weight_T: Array) -> Array:
    """1 where the token has a weight and is not masked."""
    return ((weight_T * sample.loss_mask) > 0).astype(np.float64)


def distilled(sample: TrainSample) -> Array:
    """1 where a token is really distilled: weighted, unmasked and with a usable teacher."""
    if sample.teacher is None:
        return np.zeros(len(sample.completion_ids))
    return active(sample, sample.distill_weight) * sample.teacher.mask_T


def carries_gradient(sample: TrainSample, *, regularised: bool = False) -> bool:
    """Whether any token of it can move the policy; under a KL or entropy term, one without an advantage can, too."""
    on = active(sample, sample.pg_weight)
    if (regularised and on.any()) or (sample.held is not None and (on * sample.held).any()):
        return True
    moved = (np.abs(sample.advantages) * (sample.pg_weight + sample.imitate_weight) * sample.loss_mask).any()
    return bool(moved or distilled(sample).any())

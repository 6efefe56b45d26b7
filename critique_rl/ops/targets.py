"""What the student is pulled towards at a token, where that is not the teacher's whole distribution.

Owns: targets between student and teacher, held constant in the gradient. Must not know: divergences, where ids came
from. Shape legend: N tokens, K support ids, B bins (K, or K + 1 with the tail). S student, T teacher.
Padding: a column that is -inf on both sides stays -inf. A row with NaN stays NaN.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from critique_rl.ops.bins import log_bins, log_mass
from critique_rl.ops.precision import at_least_float32, require_same_shape

TargetKind = Literal["teacher", "mixed", "clipped_gap"]


@torch.no_grad()
def target_logprobs(
    student_logprobs_NK: Tensor,
    teacher_logprobs_NK: Tensor,
    *,
    kind: TargetKind,
    mix: float = 0.01,
    gap_clip: float = 1.0,
    tail: bool = True,
    whole_vocabulary: bool = False,
) -> Tensor:
    """log q at the K ids, to be passed on as the teacher of `topk_tail_divergence` with the same two last options.

    teacher: q = T. mixed: q = T^(1-a) S^a / Z with a = `mix`, the trust region of self-distillation with feedback
    (arXiv 2601.20802). clipped_gap: q = S exp(clip(log T - log S, -C, C)) / Z with C = `gap_clip` (nats), so that no
    probability is asked to change by more than a factor of exp(2 C).

    Exact where the bins are the whole vocabulary. On a support with a tail the tail is edited as ONE bin: mixed gives
    it at least the share that editing each of its ids would (Hoelder), and clipped_gap clips the gap of its mass, not
    the mass of its clipped gaps. With `tail=False` q is over the K ids alone, like both sides of that divergence.

    Log-probs [N, K] as for `topk_tail_divergence` -> [N, K], without graph. An id that either side rules out is ruled
    out under mixed; one that only the teacher rules out is merely exp(-C) as likely under clipped_gap. Raises
    ValueError for differing shapes or a number out of range.
    """
    require_same_shape(student_logprobs_NK=student_logprobs_NK, teacher_logprobs_NK=teacher_logprobs_NK)
    if kind not in ("teacher", "mixed", "clipped_gap"):
        raise ValueError(f"kind is {kind!r}; wanted 'teacher', 'mixed' or 'clipped_gap'")
    if kind == "mixed" and not 0 < mix < 1:
        raise ValueError(f"mix is {mix}; wanted 0 < mix < 1 (the student's share; kind 'teacher' is the end at 0)")
    if kind == "clipped_gap" and not gap_clip > 0:
        raise ValueError(f"gap_clip is {gap_clip}; wanted a number of nats above 0 (math.inf for the teacher itself)")
    student_NK = at_least_float32(student_logprobs_NK)
    teacher_NK = teacher_logprobs_NK.to(student_NK.dtype)
    if kind == "teacher":
        return teacher_NK
    student_NB = log_bins(student_NK, tail=tail, whole_vocabulary=whole_vocabulary)
    teacher_NB = log_bins(teacher_NK, tail=tail, whole_vocabulary=whole_vocabulary)
    if kind == "mixed":
        edited_NB = (1 - mix) * teacher_NB + mix * student_NB
    else:
        edited_NB = student_NB + (teacher_NB - student_NB).clamp(-gap_clip, gap_clip)
    # -inf minus -inf is NaN, and so must not decide what padding becomes.
    ruled_out = torch.isneginf(student_NB) & ~torch.isnan(teacher_NB)
    edited_NB = edited_NB.masked_fill(ruled_out, -torch.inf)
    return (edited_NB - log_mass(edited_NB))[:, : student_NK.shape[-1]]

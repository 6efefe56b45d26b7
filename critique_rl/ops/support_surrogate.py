"""The directive channel as a clipped surrogate at each id of a support (OpenClaw-RL, arXiv 2603.10165 v2).

Owns: the per-id advantages and their clipped loss, to MINIMISE. Must not know: who chose the ids, tokens, denominators.
Shape legend: N tokens, K support ids; log-probs in nats, normalised over the whole vocabulary. S student, T teacher.
Padding: a column whose TEACHER is -inf does not exist, whatever the student says there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from critique_rl.ops.precision import at_least_float32, require_same_shape
from critique_rl.ops.ratios import clipped_surrogate


def support_surrogate(
    student_logprobs_NK: Tensor,
    behaviour_logprobs_NK: Tensor,
    teacher_logprobs_NK: Tensor,
    *,
    gap_clip: float = 1.0,
    clip_low: float = 0.2,
    clip_high: float = 0.28,
) -> Tensor:
    """L = sum_v max(-A_v r_v, -A_v clip(r_v, 1 - clip_low, 1 + clip_high)), with r_v = S(v) / b(v) and

        A_v = w_v clip(log T(v) - log b(v), -C, C),   w_v = b(v) / sum_u b(u)

    over the K ids, b being the student's own probabilities when the targets were made, and C = `gap_clip` (nats): one
    PPO term an id, so that all K ids are heard and not the sampled one alone (arXiv 2603.10165 v2, with C = 1 or 2).

    Known weaknesses: the weights are renormalised over the K ids and there is no tail, so that the direction is not
    that of any divergence, mass outside the support is not seen, and where all K gaps have one sign the support as a
    whole is pushed. b has to come from the very engine that is trained: with another's, the clip deletes the terms
    that agree with the drift.

    All [N, K] -> [N]; only the student's get a gradient. A token where a log-prob at an existing id is not finite (for
    the student: is NaN) is NaN with a gradient of exactly 0; one without any id is 0. Raises ValueError for differing
    shapes or numbers out of range.
    """
    require_same_shape(
        student_logprobs_NK=student_logprobs_NK,
        behaviour_logprobs_NK=behaviour_logprobs_NK,
        teacher_logprobs_NK=teacher_logprobs_NK,
    )
    if not gap_clip > 0:
        raise ValueError(f"gap_clip is {gap_clip}; wanted a number of nats above 0 (math.inf for no clip)")
    student = at_least_float32(student_logprobs_NK)
    teacher = teacher_logprobs_NK.detach().to(student.dtype)
    behaviour = behaviour_logprobs_NK.detach().to(student.dtype)
    exists = ~torch.isneginf(teacher)
    odd = ~(torch.isfinite(teacher) & torch.isfinite(behaviour)) | torch.isnan(student.detach())
    unknown_N = (exists & odd).any(dim=-1)
    # A stand-in of 0 keeps inf - inf and NaN * 0 out of the backward pass.
    used = exists & ~unknown_N.unsqueeze(-1)
    zero = student.new_zeros(())
    student, behaviour, teacher = (torch.where(used, x, zero) for x in (student, behaviour, teacher))
    # A softmax over nothing is NaN; a row without an id in use has no weight at all.
    weights = behaviour.masked_fill(~used, -math.inf).softmax(dim=-1).masked_fill(~used, 0.0)
    advantages = weights * (teacher - behaviour).clamp(-gap_clip, gap_clip)
    loss_N = -clipped_surrogate(student, behaviour, advantages, clip_low=clip_low, clip_high=clip_high).sum(dim=-1)
    return torch.where(unknown_N, loss_N.new_full((), math.nan), loss_N)

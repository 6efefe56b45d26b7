"""What a teacher says of the very tokens that were sampled: its log-ratio, and how sure it is of itself.

Owns: the clips, the scaling of another's advantages, and what an unknown log-prob becomes. Must not know: rewards,
losses, who the teacher is. Shape legend: N tokens, K support ids; log-probs in nats.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from critique_rl.ops.precision import at_least_float32, require_same_shape


def sampled_gap(teacher_logprobs_N: Tensor, behaviour_logprobs_N: Tensor, *, clip: float) -> Tensor:
    """g_t = clip(log T(a_t) - log S(a_t), -C, C): above 0 where the teacher likes the token more than its sampler did.

    As an advantage its policy gradient is, unclipped and in expectation over a_t ~ S, that of -KL(S||T) at the token's
    state; the clip bounds one token's say and makes it biased (OpenClaw-RL, arXiv 2603.10165). NaN where either
    log-prob is not finite: a missing teacher is no gap, and a log-prob of 0.0 in its place would praise every token.
    All [N] -> [N], without graph. Raises ValueError for differing shapes or a clip that is not above 0.
    """
    require_same_shape(teacher_logprobs_N=teacher_logprobs_N, behaviour_logprobs_N=behaviour_logprobs_N)
    _check_clip(clip)
    teacher = at_least_float32(teacher_logprobs_N.detach())
    behaviour = behaviour_logprobs_N.detach().to(teacher.dtype)
    known = torch.isfinite(teacher) & torch.isfinite(behaviour)
    return torch.where(known, (teacher - behaviour).clamp(-clip, clip), teacher.new_full((), math.nan))


def centred_gap(
    teacher_logprobs_N: Tensor, behaviour_logprobs_N: Tensor, reverse_kl_N: Tensor, *, clip: float
) -> Tensor:
    """clip(g_t + KL(S||T)_t, -C, C): the gap less what it is on average at the token's state, E_{a~S} g = -KL(S||T).

    A baseline that no action moves: the expected policy gradient stays what it was, and the mean square of what
    multiplies it falls by KL^2 (vOPD, arXiv 2605.07865, known here from a summary; its +6.2 points on MATH500 were
    not repeated). The centre is exact for the whole vocabulary only: KL over K ids and a tail is a lower bound, which
    centres in part. The clip comes last and makes it biased, as in `sampled_gap`. NaN where a log-prob or the
    divergence is not finite. All [N] -> [N], without graph. Raises ValueError as `sampled_gap`.
    """
    require_same_shape(teacher_logprobs_N=teacher_logprobs_N, reverse_kl_N=reverse_kl_N)
    gap = sampled_gap(teacher_logprobs_N, behaviour_logprobs_N, clip=math.inf)
    _check_clip(clip)
    baseline = reverse_kl_N.detach().to(gap.dtype)
    return torch.where(torch.isfinite(baseline), (gap + baseline).clamp(-clip, clip), gap.new_full((), math.nan))


def signed_advantages(advantages_N: Tensor, gap_N: Tensor, *, share: float, clip: float) -> Tensor:
    """A_t = A [(1 - share) + share clip(exp(sign(A) g_t), 1 - clip, 1 + clip)]: the sign stays that of A.

    RLSD (arXiv 2604.03128): where A > 0 the tokens that the teacher likes are praised more, where A < 0 those that it
    dislikes are blamed more. A = 0 stays exactly 0, so a group without contrast learns nothing from its teacher. A
    token whose gap is NaN keeps A. All [N] -> [N], without graph. Raises ValueError for differing shapes, a share
    outside [0, 1] or a clip outside (0, 1).
    """
    require_same_shape(advantages_N=advantages_N, gap_N=gap_N)
    if not (0 <= share <= 1 and 0 < clip < 1):
        raise ValueError(f"share is {share}, clip {clip}; wanted 0 <= share <= 1 and 0 < clip < 1")
    advantages = at_least_float32(advantages_N.detach())
    gap = gap_N.detach().to(advantages.dtype)
    scale = (1 - share) + share * torch.exp(torch.sign(advantages) * gap).clamp(1 - clip, 1 + clip)
    return torch.where(torch.isnan(gap), advantages, advantages * scale)


def support_entropy(logprobs_NK: Tensor) -> Tensor:
    """H = -sum_b p_b log p_b over K ids and one bin for all others, in nats: at most the whole vocabulary's entropy.

    Log-probs [N, K], normalised over the whole vocabulary -> [N], float32 or wider. -inf is an id of probability 0.
    """
    logprobs = at_least_float32(logprobs_NK.detach())
    probs_NB = torch.cat([logprobs.exp(), (1 - logprobs.exp().sum(dim=-1, keepdim=True)).clamp(min=0)], dim=-1)
    return -torch.xlogy(probs_NB, probs_NB).sum(dim=-1)


def certainty_weights(entropy_N: Tensor, *, beta: float) -> Tensor:
    """w_t = exp(-beta H_t) / mean(exp(-beta H)): tokens where the teacher is sure weigh more, and their mean is 1.

    SRPO's weights of distilled tokens (arXiv 2604.02288; beta 1 there). [N] -> [N]; no token gives none. Raises
    ValueError unless beta is finite and at least 0, or for an entropy that is not finite.
    """
    if not (math.isfinite(beta) and beta >= 0):
        raise ValueError(f"beta is {beta}; wanted a finite number of at least 0 (1 is usual)")
    entropy = at_least_float32(entropy_N.detach())
    if not bool(torch.isfinite(entropy).all()):
        raise ValueError("entropy_N holds a value that is not finite; leave out tokens without a usable teacher")
    if entropy.numel() == 0:
        return entropy
    # The least entropy is taken out first: a large beta must not bring every weight to 0.
    raw = torch.exp(-beta * (entropy - entropy.min()))
    return raw / raw.mean()


def _check_clip(clip: float) -> None:
    if not clip > 0:
        raise ValueError(f"clip is {clip}; wanted a number of nats above 0 (math.inf for no clip)")

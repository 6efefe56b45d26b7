"""Which tokens spend a policy's entropy, and two ways to hold them back: Clip-Cov and KL-Cov.

Owns: the token product, the choice of tokens by it, and the terms of KL-Cov. Must not know: models, micro-batches.
A choice is over all tokens that are handed in: hand in the whole batch, in one order, and no split can change it.
Nothing here but the terms of KL-Cov has a gradient. Legend: N response tokens; log-probs in nats.
Entropy Mechanism of RL: arXiv 2505.22617.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from critique_rl.ops.precision import at_least_float32, require_same_shape

_LOG_RATIO_LIMIT = 20.0


def token_products(policy_logprobs_N: Tensor, advantages_N: Tensor, mask_N: Tensor) -> Tensor:
    """c_i = (log p_i - mean log p) (A_i - mean A), both means over the tokens that count; NaN for the others.

    Their mean is the covariance that the entropy falls by, to first order. `mask_N`: above 0 where a token counts, of
    any dtype. All [N] -> [N]. Raises ValueError for differing shapes.
    """
    require_same_shape(policy_logprobs_N=policy_logprobs_N, advantages_N=advantages_N, mask_N=mask_N)
    on_N = mask_N > 0
    logprobs = at_least_float32(policy_logprobs_N.detach())
    advantages = advantages_N.detach().to(logprobs.dtype)
    products_N = torch.full_like(logprobs, math.nan)
    if bool(on_N.any()):
        logp, adv = logprobs[on_N], advantages[on_N]
        products_N[on_N] = (logp - logp.mean()) * (adv - adv.mean())
    return products_N


def clip_binds(
    policy_logprobs_N: Tensor, behaviour_logprobs_N: Tensor, advantages_N: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """Where PPO's clip leaves a token no gradient: r > 1 + clip_high for A > 0, r < 1 - clip_low for A < 0.

    All [N] -> bool [N]. Raises ValueError for differing shapes.
    """
    require_same_shape(
        policy_logprobs_N=policy_logprobs_N, behaviour_logprobs_N=behaviour_logprobs_N, advantages_N=advantages_N
    )
    ratio = _ratio(at_least_float32(policy_logprobs_N.detach()), behaviour_logprobs_N)
    return ((advantages_N > 0) & (ratio > 1 + clip_high)) | ((advantages_N < 0) & (ratio < 1 - clip_low))


def clip_cov_choice(
    products_N: Tensor, clipped_N: Tensor, *, share: float, band: tuple[float, float], generator: torch.Generator
) -> Tensor:
    """The tokens whose loss Clip-Cov drops: min(#candidates, max(int(share n), 1)) of those with low < c < high.

    They are drawn uniformly; a token that PPO clips is no candidate, but it is one of the n that count (those whose
    product is not NaN). `share` is a fraction: 2e-4 is the paper's. -> bool [N]. Raises ValueError for a share that is
    not in (0, 1], an empty band or differing shapes.
    """
    require_same_shape(products_N=products_N, clipped_N=clipped_N)
    _check_share(share)
    low, high = band
    if not low < high:
        raise ValueError(f"band is {band}; wanted its lower end below its upper one, such as (1, 5)")
    chosen_N = torch.zeros_like(clipped_N, dtype=torch.bool)
    candidates = ((products_N > low) & (products_N < high) & ~clipped_N.bool()).nonzero().squeeze(-1)
    count = max(int(share * int((~products_N.isnan()).sum())), 1)
    drawn = torch.randperm(len(candidates), generator=generator)[:count]
    chosen_N[candidates[drawn.to(candidates.device)]] = True
    return chosen_N


def kl_cov_choice(products_N: Tensor, *, share: float) -> Tensor:
    """The tokens that KL-Cov holds to the policy that sampled them: the max(1, int(share n)) with the largest product.

    `share` is a fraction. Trap: the authors' `k_percent` is a percentage: their 0.2 is 0.002 here. Equal products go by
    place. -> bool [N]. Raises ValueError for a share that is not in (0, 1].
    """
    _check_share(share)
    counted_N = ~products_N.isnan()
    return top_choice(products_N, counted_N, count=max(1, int(int(counted_N.sum()) * share)))


def top_choice(values_N: Tensor, mask_N: Tensor, *, count: int) -> Tensor:
    """The `count` largest values among tokens whose mask is above 0, all if there are fewer; equal ones by place.

    `mask_N` may be of any dtype: it is never used as an index. -> bool [N].
    """
    on_N = mask_N > 0
    places = on_N.nonzero().squeeze(-1)
    order = values_N.detach()[places].sort(descending=True, stable=True).indices[:count]
    chosen_N = torch.zeros_like(on_N)
    chosen_N[places[order]] = True
    return chosen_N


def unclipped_surrogate(policy_logprobs_N: Tensor, behaviour_logprobs_N: Tensor, advantages_N: Tensor) -> Tensor:
    """J = r A with r = exp(log p - log b), to MAXIMISE: the objective that KL-Cov holds back instead of a clip.

    Log-ratios are clamped to +-20. A token whose behaviour log-prob or advantage is not finite is NaN with a gradient
    of exactly 0. All [N] -> [N]. Raises ValueError for differing shapes.
    """
    require_same_shape(
        policy_logprobs_N=policy_logprobs_N, behaviour_logprobs_N=behaviour_logprobs_N, advantages_N=advantages_N
    )
    policy = at_least_float32(policy_logprobs_N)
    known = behaviour_logprobs_N.isfinite() & advantages_N.isfinite()
    advantages = torch.where(known, advantages_N.detach().to(policy.dtype), policy.new_zeros(()))
    behaviour = torch.where(known, behaviour_logprobs_N.detach().to(policy.dtype), policy.detach())
    return torch.where(known, _ratio(policy, behaviour) * advantages, policy.new_full((), math.nan))


def kl_cov_penalty(policy_logprobs_N: Tensor, behaviour_logprobs_N: Tensor) -> Tensor:
    """|log p - log b|, to MINIMISE: how far a token is from the policy that sampled it (not from a frozen reference).

    Value and gradient are 0 where the two are equal, as in the first update on a batch. A token whose behaviour
    log-prob is not finite is NaN with a gradient of exactly 0. [N] -> [N]. Raises ValueError for differing shapes.
    """
    require_same_shape(policy_logprobs_N=policy_logprobs_N, behaviour_logprobs_N=behaviour_logprobs_N)
    policy = at_least_float32(policy_logprobs_N)
    known = behaviour_logprobs_N.isfinite()
    behaviour = torch.where(known, behaviour_logprobs_N.detach().to(policy.dtype), policy.detach())
    return torch.where(known, (policy - behaviour).abs(), policy.new_full((), math.nan))


def _ratio(policy: Tensor, behaviour: Tensor) -> Tensor:
    log_ratio = policy - behaviour.detach().to(policy.dtype)
    return torch.exp(log_ratio.clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT))


def _check_share(share: float) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; wanted a fraction above 0 and up to 1 (0.2 % is 0.002)")

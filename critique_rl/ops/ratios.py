"""Per-token objectives built on probability ratios, all to MAXIMISE; the caller negates.

Owns: PPO's clipped surrogate and the three ways to weigh an off-policy refinement token.
Must not know: which context a log-prob came from beyond its name. Shape legend: N tokens; log-probs in nats.
A token whose behaviour, start or guided log-prob or advantage is not finite is "unknown": its term is NaN, so that
it cannot pass unnoticed, and its gradient is exactly 0, so that a zero weight is enough to leave it out.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from critique_rl.ops.precision import at_least_float32, require_same_shape

RatioMode = Literal["shaped", "awr", "oc_is"]

_LOG_RATIO_LIMIT = 20.0


def clipped_surrogate(
    policy_logprobs_N: Tensor,
    behaviour_logprobs_N: Tensor,
    advantages_N: Tensor,
    *,
    clip_low: float = 0.2,
    clip_high: float = 0.2,
    dual_clip: float | None = None,
) -> Tensor:
    """J = min(r A, clip(r, 1 - clip_low, 1 + clip_high) A) with r = exp(log p - log b).

    PPO (arXiv 1707.06347); unequal clips: DAPO (arXiv 2503.14476); `dual_clip` c > 1 bounds J from below by c A where
    A < 0 (arXiv 1912.09729). Log-ratios are clamped to +-20. All [N] -> [N]. Behaviour log-probs and advantages get no
    gradient. Raises ValueError for differing shapes or clips out of range.
    """
    require_same_shape(
        policy_logprobs_N=policy_logprobs_N, behaviour_logprobs_N=behaviour_logprobs_N, advantages_N=advantages_N
    )
    if not (0 <= clip_low < 1 and clip_high >= 0):
        raise ValueError(f"clip_low is {clip_low}, clip_high {clip_high}; wanted 0 <= clip_low < 1 and clip_high >= 0")
    if dual_clip is not None and not dual_clip > 1:
        raise ValueError(f"dual_clip is {dual_clip}; wanted a number above 1, or None for no lower bound")
    policy = at_least_float32(policy_logprobs_N)
    known = _known(behaviour_logprobs_N, advantages_N)
    advantages = _where_known(known, advantages_N, policy.new_zeros(()))
    ratio = _ratio(policy, _where_known(known, behaviour_logprobs_N, policy))
    objective = torch.minimum(ratio * advantages, ratio.clamp(1 - clip_low, 1 + clip_high) * advantages)
    if dual_clip is not None:
        objective = torch.where(advantages < 0, torch.maximum(objective, dual_clip * advantages), objective)
    return _nan_unless(known, objective)


def shaping_weight(logprobs: Tensor, gamma: float) -> Tensor:
    """f(p) = p / (p + gamma) from log p, as sigmoid(log p - log gamma): exact at any p, gradient Psi(p).

    Policy shaping of LUFFY (arXiv 2504.14945) and Critique-GRPO (arXiv 2506.03106). Any shape. Raises ValueError
    unless 0 < gamma < 1.
    """
    _check_gamma(gamma)
    return torch.sigmoid(at_least_float32(logprobs) - math.log(gamma))


def shaping_gradient_weight(logprobs: Tensor, gamma: float) -> Tensor:
    """Psi(p) = gamma p / (p + gamma)^2 = d f / d log p: what a shaped token's grad log p is multiplied by.

    At most 1/4, at p = gamma; Psi(gamma^2 / p) = Psi(p); 0 as p -> 0 (Critique-GRPO, arXiv 2506.03106). Any shape.
    """
    weight = shaping_weight(logprobs, gamma)
    return weight * torch.sigmoid(math.log(gamma) - at_least_float32(logprobs))


def refinement_objective(
    policy_logprobs_N: Tensor,
    advantages_N: Tensor,
    *,
    mode: RatioMode,
    gamma: float = 0.1,
    start_logprobs_N: Tensor | None = None,
    guided_logprobs_N: Tensor | None = None,
    cap: float = 2.0,
    logprob_floor: float = -5.0,
    awr_coefficient: float = 0.1,
) -> Tensor:
    """Objective of refinement tokens y' scored under the bare prompt, p = pi(y'_t | q, y'_<t).

    ======  ====================================  ===================================  =======================
    mode    objective                             A times grad log p, first epoch      needs
    ======  ====================================  ===================================  =======================
    shaped  A p / (p + gamma)                     Psi(p) = gamma p / (p + gamma)^2     nothing else
    awr     c A p / p0, 0 where log p0 < floor    c = awr_coefficient                  start: log p0, bare prompt
    oc_is   A min(p / b, cap)                     min(p / b, cap)                      guided: log b, refine context
    ======  ====================================  ===================================  =======================

    shaped: Critique-GRPO (arXiv 2506.03106), WITHOUT its printed clip: that one would freeze every token with
    p < gamma (1 - eps) / eps when A < 0. oc_is is the true importance ratio; a capped token keeps the constant weight
    `cap` on grad log p, as in truncated importance sampling, and is not dropped. Log-ratios are clamped to +-20.
    All [N] -> [N]. Raises ValueError if the input that `mode` needs is missing, or a shape or number does not fit.
    """
    require_same_shape(policy_logprobs_N=policy_logprobs_N, advantages_N=advantages_N)
    policy = at_least_float32(policy_logprobs_N)
    if mode == "shaped":
        known = _known(advantages_N)
        objective = _where_known(known, advantages_N, policy.new_zeros(())) * shaping_weight(policy, gamma)
        return _nan_unless(known, objective)
    if mode == "awr":
        start = _needed(start_logprobs_N, policy, "start_logprobs_N", mode, "those of y' at sampling, bare prompt")
        known = _known(start, advantages_N)
        start = _where_known(known, start, policy)
        kept = torch.where(start >= logprob_floor, awr_coefficient * _ratio(policy, start), policy.new_zeros(()))
        return _nan_unless(known, _where_known(known, advantages_N, policy.new_zeros(())) * kept)
    if mode == "oc_is":
        if not cap > 0:
            raise ValueError(f"cap is {cap}; wanted a number above 0")
        guided = _needed(guided_logprobs_N, policy, "guided_logprobs_N", mode, "those of y', refine context")
        known = _known(guided, advantages_N)
        weight = _ratio(policy.detach(), _where_known(known, guided, policy)).clamp(max=cap)
        # Value `weight`, gradient weight * grad log p, capped or not; a plain clamp would drop capped tokens.
        score = weight * torch.exp(policy - policy.detach())
        return _nan_unless(known, _where_known(known, advantages_N, policy.new_zeros(())) * score)
    raise ValueError(f"mode is {mode!r}; wanted 'shaped', 'awr' or 'oc_is'")


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    return torch.exp((numerator - denominator).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT))


def _known(*inputs: Tensor) -> Tensor:
    known = torch.isfinite(inputs[0])
    for other in inputs[1:]:
        known = known & torch.isfinite(other)
    return known


def _where_known(known: Tensor, values: Tensor, fallback: Tensor) -> Tensor:
    return torch.where(known, values.detach().to(fallback.dtype), fallback.detach())


def _nan_unless(known: Tensor, objective: Tensor) -> Tensor:
    return torch.where(known, objective, objective.new_full((), math.nan))


def _needed(values: Tensor | None, like: Tensor, name: str, mode: str, meaning: str) -> Tensor:
    if values is None:
        raise ValueError(f"mode {mode!r} needs {name} ({meaning}) but got None; pass it, or use mode 'shaped'")
    require_same_shape(**{"policy_logprobs_N": like, name: values})
    return values


def _check_gamma(gamma: float) -> None:
    if not 0 < gamma < 1:
        raise ValueError(f"gamma is {gamma}; wanted a number between 0 and 1, both excluded (0.1 is the usual choice)")

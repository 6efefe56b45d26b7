"""What holds the policy near a reference, and how much its entropy is to be paid for.

Owns: KL estimates from sampled tokens, to MINIMISE, and the adaptive weight of the entropy bonus (the bonus itself is
the entropy of `ops.logprobs` or a head, whose gradient is exact). Must not know: who the reference is, which tokens
count.
Expectations are over tokens sampled from the policy itself; for older samples they hold up to the ratio p / b.
Shape legend: N tokens; log-probs and entropies in nats.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from critique_rl.ops.precision import at_least_float32, require_same_shape

KlKind = Literal["k1", "k2", "k3"]

_LOG_RATIO_LIMIT = 20.0


class EntropyWeight(NamedTuple):
    """`applied` weighs the bonus of this step; `carried` is the coefficient to pass in at the next one (its state)."""

    applied: float
    carried: float


def kl_penalty(policy_logprobs_N: Tensor, reference_logprobs_N: Tensor, *, kind: KlKind = "k1") -> Tensor:
    """An estimate of KL(policy || reference) from each sampled token, d = log p - log q.

    ====  ===============  ====================  ================  ===============================
    kind  value            value's expectation   gradient          gradient's expectation
    ====  ===============  ====================  ================  ===============================
    k1    d                KL(p || q)            d grad log p      grad KL(p || q)
    k2    d^2 / 2          biased, never < 0     d grad log p      grad KL(p || q)
    k3    e^-d - 1 + d     KL(p || q), never <0  (1-e^-d) grad lp  grad KL(q || p), the other one
    ====  ===============  ====================  ================  ===============================

    k1 here is the penalty taken off a token's own reward. Differentiating its value instead gives grad log p, whose
    expectation is 0: no pull towards the reference at all. k3 is the loss of GRPO (arXiv 2402.03300); its pull is at
    most 1 where p > q and grows as q / p where p < q. All three are per token: none holds an earlier token to account
    for later ones (arXiv 2506.09477, 2510.01555). The divergence over a whole support, differentiable as it is, is
    `divergences.topk_tail_divergence(kind="reverse")`. d is clamped to +-20. All [N] -> [N], no gradient to the
    reference; a reference log-prob that is not finite gives NaN with a gradient of 0. Raises ValueError for differing
    shapes or an unknown kind.
    """
    require_same_shape(policy_logprobs_N=policy_logprobs_N, reference_logprobs_N=reference_logprobs_N)
    policy = at_least_float32(policy_logprobs_N)
    known = torch.isfinite(reference_logprobs_N)
    reference = torch.where(known, reference_logprobs_N.detach().to(policy.dtype), policy.detach())
    gap = (policy - reference).clamp(-_LOG_RATIO_LIMIT, _LOG_RATIO_LIMIT)
    if kind == "k1":
        value = gap.detach()
        terms = value + value * (policy - policy.detach())
    elif kind == "k2":
        terms = 0.5 * gap.square()
    elif kind == "k3":
        terms = torch.expm1(-gap) + gap
    else:
        raise ValueError(f"kind is {kind!r}; wanted 'k1', 'k2' or 'k3'")
    return torch.where(known, terms, terms.new_full((), math.nan))


def adapt_entropy_weight(
    coefficient: float, entropy: float, target: float, *, delta: float = 0.005, highest: float = 1.0
) -> EntropyWeight:
    """c' = c + delta below the target, c - delta above it; the bonus is weighed by c' if entropy <= target, else by 0.

    The form of Skywork-OR1 (arXiv 2505.22312): c' counts in the step whose entropy moved it. Others (TRL) weigh with
    the c of the step before, so that the first bonus comes a step late. c is kept in [0, highest], so that a long time
    on one side is undone as quickly as it should be; at the target it stays. `entropy` is the mean over the rollouts'
    tokens before the step (nats per token), for which minus the mean behaviour log-prob is an unbiased estimate; not
    finite (nothing was measured) changes nothing and applies 0.
    Raises ValueError for a negative coefficient or target, or a delta or highest that is not above 0.
    """
    if not (coefficient >= 0 and target >= 0 and delta > 0 and highest > 0):
        raise ValueError(
            f"coefficient is {coefficient}, target {target}, delta {delta}, highest {highest}; "
            "wanted 0 or more for the first two, above 0 for the others"
        )
    if not math.isfinite(entropy):
        return EntropyWeight(0.0, coefficient)
    moved = min(max(coefficient + delta * ((entropy < target) - (entropy > target)), 0.0), highest)
    return EntropyWeight(moved if entropy <= target else 0.0, moved)

"""Advantages from the scalar rewards of one group.

Owns: centring, optional scaling, and the rule that a group without contrast teaches exactly nothing.
Must not know: tokens, losses, critiques. Shape legend: G rewards of one group, n rollouts, k refinements.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Scale = Literal["none", "std", "loo"]
Baseline = Literal["union", "first_turn"]

# Rewards closer than this are the same reward seen through rounding.
_SAME_ABSOLUTE = 1e-8
_SAME_RELATIVE = 1e-6


class UnionAdvantages(NamedTuple):
    """Advantages of a group's first attempts and of its refinements, on one scale."""

    rollouts_n: Tensor
    refinements_k: Tensor


def group_advantages(rewards_G: Tensor, *, scale: Scale = "none", eps: float = 1e-6, ddof: int = 1) -> Tensor:
    """A_i = R_i - mean(R), over nothing, over std(R) + eps, or over (G - 1) / G.

    "none": Dr. GRPO (arXiv 2503.20783). "std": GRPO (arXiv 2402.03300); `ddof` 1 is the sample standard deviation, 0
    the population's. "loo": RLOO (arXiv 2402.14740), since R_i less the mean of the G - 1 others is G / (G - 1) times
    R_i less the mean of all. Equal rewards (also equal up to rounding) and groups of one give exactly 0.
    `rewards_G` [G] -> [G], float32 or wider. Raises ValueError for a shape other than [G] or a non-finite reward.
    """
    rewards = _checked(rewards_G, "rewards_G")
    if _spread(rewards) <= _tolerance(rewards):
        return torch.zeros_like(rewards)
    return (rewards - rewards.mean()) / _divisor(rewards, scale, eps, ddof)


def union_advantages(
    rewards_n: Tensor,
    refinement_rewards_k: Tensor,
    *,
    baseline: Baseline = "union",
    scale: Scale = "none",
    eps: float = 1e-6,
    ddof: int = 1,
) -> UnionAdvantages:
    """A_i = R_i - m and A'_j = R'_j - m for first attempts and refinements of one prompt.

    "union": m = (sum R + sum R') / (n + k), Critique-GRPO (arXiv 2506.03106); all advantages sum to 0.
    "first_turn": m = mean(R), so refinements are measured against what the policy does unaided.
    With scale "std" both use the standard deviation of the union, since first attempts that all fail have none. With
    "loo" and "first_turn" only first attempts are divided: a refinement is not in its own baseline.
    k = 0 is `group_advantages` bit for bit. Shapes [n], [k] -> [n], [k]. Raises ValueError as `group_advantages`.
    """
    rewards = _checked(rewards_n, "rewards_n")
    if refinement_rewards_k.numel() == 0:
        return UnionAdvantages(
            group_advantages(rewards, scale=scale, eps=eps, ddof=ddof), torch.zeros_like(rewards[:0])
        )
    refinements = _checked(refinement_rewards_k, "refinement_rewards_k").to(rewards)
    everything = torch.cat([rewards, refinements])
    n = rewards.shape[0]
    if baseline == "union":
        advantages = group_advantages(everything, scale=scale, eps=eps, ddof=ddof)
    else:
        centred = everything - rewards.mean()
        # Elementwise, because the baseline is not the union's mean: rounding must not leave a tiny push behind.
        centred = torch.where(centred.abs() <= _tolerance(everything), torch.zeros_like(centred), centred)
        if scale == "loo":
            return UnionAdvantages(centred[:n] / _divisor(rewards, scale, eps, ddof), centred[n:])
        advantages = centred / _divisor(everything, scale, eps, ddof)
    return UnionAdvantages(advantages[:n], advantages[n:])


def _divisor(rewards: Tensor, scale: Scale, eps: float, ddof: int) -> Tensor:
    if scale == "none" or _spread(rewards) <= _tolerance(rewards):
        return torch.ones_like(rewards[0])
    if scale == "loo":
        return torch.full_like(rewards[0], 1 - 1 / rewards.shape[0])
    return rewards.std(correction=ddof) + eps


def _spread(rewards: Tensor) -> float:
    return float(rewards.max() - rewards.min())


def _tolerance(rewards: Tensor) -> float:
    return _SAME_ABSOLUTE + _SAME_RELATIVE * float(rewards.abs().max())


def _checked(rewards: Tensor, name: str) -> Tensor:
    if rewards.ndim != 1 or rewards.shape[0] == 0:
        raise ValueError(f"{name} has shape {list(rewards.shape)}; wanted one dimension with at least one reward")
    if not bool(torch.isfinite(rewards).all()):
        raise ValueError(f"{name} is {rewards}; rewards must be finite: leave the rollout of a missing reward out")
    return rewards.detach() if rewards.dtype in (torch.float32, torch.float64) else rewards.detach().float()

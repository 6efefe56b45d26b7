"""What the rewards of one prompt's rollouts say, and how length and likelihood turn them.

Owns: the spread that makes a group worth training on, the penalty for nearly too long answers, the discount on likely
ones. Must not know: rollouts, advantages, where rewards come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

# Rewards closer than this are the same reward seen through rounding.
_SAME_ABSOLUTE = 1e-8
_SAME_RELATIVE = 1e-6


def reward_spread(rewards: Sequence[float]) -> float:
    """Population standard deviation sqrt(sum (r_i - mean)^2 / G), and 0 for fewer than two rewards.

    The criterion of DAPO (arXiv 2503.14476) and SRL (arXiv 2510.25992); some published code divides by G - 1, which
    neither paper does. Equal up to rounding is exactly 0. Raises ValueError for a reward that is not finite.
    """
    if not all(math.isfinite(reward) for reward in rewards):
        raise ValueError(f"rewards are {list(rewards)}; wanted finite ones: leave the rollout of a missing reward out")
    if len(rewards) < 2:
        return 0.0
    largest = max(abs(reward) for reward in rewards)
    if max(rewards) - min(rewards) <= _SAME_ABSOLUTE + _SAME_RELATIVE * largest:
        return 0.0
    return float(np.std(rewards))


def overlong_penalty(length: int, *, limit: int, buffer: int) -> float:
    """What an answer of `length` tokens adds to its reward: 0 up to L - C, then (L - C - length) / C, and -1 beyond L.

    L is `limit`, C is `buffer`, all in tokens: the soft punishment of DAPO (arXiv 2503.14476). Raises ValueError unless
    0 < buffer <= limit and length >= 0.
    """
    if not 0 < buffer <= limit or length < 0:
        raise ValueError(f"length = {length}, limit = {limit}, buffer = {buffer}; wanted 0 < buffer <= limit, no less")
    return max(-1.0, min(0.0, (limit - buffer - length) / buffer))


def unlikeliness_factors(logprobs: Sequence[float], *, beta: float) -> list[float]:
    """1 - beta (G - rank_i) / G for each of G rollouts, rank 0 the likeliest: the factor on a right one's reward.

    `logprobs` are those of whole rollouts (sums, nats). Equally likely ones share the mean of their ranks, so that
    equal answers get equal rewards. Rare right answers then count more (arXiv 2506.02355, which has beta 0.25). Raises
    ValueError for a beta outside [0, 1) or a log-prob that is no number.
    """
    if not 0 <= beta < 1 or any(math.isnan(logprob) for logprob in logprobs):
        raise ValueError(f"beta = {beta}, logprobs = {list(logprobs)}; wanted beta in [0, 1) and numbers")
    size = len(logprobs)
    ranks = stats.rankdata([-logprob for logprob in logprobs], method="average") - 1 if size else []
    return [float(1 - beta * (size - rank) / size) for rank in ranks]

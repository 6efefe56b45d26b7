"""Combining columns of plain numbers: one objective a column, in the order of the rollouts.

Owns: that NaN stands for a missing reward, and a default of one group, weights of 1, ddof 0 and eps 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from critique_rl.ops.combiners import BatchNorm, Combined, Ddof, Method, combine


def combined(
    *objectives: Sequence[float],
    groups: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
    method: Method,
    ddof: Ddof = 0,
    eps: float = 0.0,
    power: float = 1.0,
    gamma: float = 1.0,
    batch_norm: BatchNorm = "rollouts",
    lengths: Sequence[int] | None = None,
) -> Combined:
    """NaN is a missing reward."""
    rewards = torch.tensor(objectives, dtype=torch.float64).T
    return combine(
        rewards,
        ~torch.isnan(rewards),
        torch.tensor(groups or [0] * rewards.shape[0]),
        torch.tensor(weights or [1.0] * rewards.shape[1], dtype=torch.float64),
        method=method,
        ddof=ddof,
        eps=eps,
        power=power,
        gamma=gamma,
        batch_norm=batch_norm,
        lengths_N=None if lengths is None else torch.tensor(lengths),
    )


def advantages(
    *objectives: Sequence[float],
    groups: Sequence[int] | None = None,
    weights: Sequence[float] | None = None,
    method: Method,
    ddof: Ddof = 0,
    eps: float = 0.0,
    batch_norm: BatchNorm = "rollouts",
    lengths: Sequence[int] | None = None,
) -> list[float]:
    found = combined(
        *objectives,
        groups=groups,
        weights=weights,
        method=method,
        ddof=ddof,
        eps=eps,
        batch_norm=batch_norm,
        lengths=lengths,
    )
    return found.advantages_N.tolist()

"""Advantages that reward a group of k rollouts for its best one.

Owns: the closed form over all ways to draw k of a prompt's rollouts. Must not know: rewards between 0 and 1, tokens,
losses. Shape legend: N rollouts of one prompt.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def pass_at_k_advantages(right_N: Tensor, *, k: int) -> Tensor:
    """Mean advantage of each rollout over all draws of k that it is in, a draw being right if one rollout of it is.

    With M wrong rollouts of N: R = 1 - C(M, k) / C(N, k), s = sqrt(R (1 - R)); a right rollout gets (1 - R) / s, a
    wrong one (1 - R - C(M - 1, k - 1) / C(N - 1, k - 1)) / s; all get 0 where s = 0 (pass@k training, arXiv
    2508.10751). k = 1 is GRPO divided by the population's standard deviation. Boolean [N] -> float64 [N], summing to
    0. Raises ValueError unless 1 <= k <= N and `right_N` is boolean.
    """
    if right_N.ndim != 1 or right_N.dtype != torch.bool:
        raise ValueError(f"right_N is {right_N.dtype} of shape {list(right_N.shape)}; wanted booleans of one dimension")
    total = right_N.shape[0]
    if not 1 <= k <= total:
        raise ValueError(f"k = {k} came with {total} rollouts; wanted k from 1 to as many as there are")
    wrong = total - int(right_N.sum())
    failing = math.comb(wrong, k) / math.comb(total, k)
    deviation = math.sqrt(failing * (1 - failing))
    if deviation == 0:
        return torch.zeros(total, dtype=torch.float64)
    alone = math.comb(wrong - 1, k - 1) / math.comb(total - 1, k - 1)
    up, down = failing / deviation, (failing - alone) / deviation
    return torch.where(right_N, torch.tensor(up, dtype=torch.float64), torch.tensor(down, dtype=torch.float64))

"""A truncated support as bins: the K ids, and one tail bin that holds the rest of the mass.

Owns: how log-probs at K ids become log-probs of bins that sum to 1, and what padding is (-inf: no such id).
Must not know: divergences, which side a model is on. Shape legend: N tokens, K support ids, B bins (K, or K + 1 with
the tail); log-probs in nats, float32 or wider.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Below this mass a float32 tail is rounding noise.
_MIN_TAIL = 1e-7
# Log-prob whose exponential is 0 in float32 and float64 but which, unlike -inf, has a defined logsumexp gradient.
_NOTHING = -1e4


def log_bins(logprobs_NK: Tensor, *, tail: bool, whole_vocabulary: bool) -> Tensor:
    """Log-probs [N, B] of the bins: the K as they are and the tail, or without a tail the K renormalised.

    `whole_vocabulary`: the K are all there are, so that there is no tail and nothing to renormalise.
    """
    if whole_vocabulary:
        return logprobs_NK
    if not tail:
        return logprobs_NK - log_mass(logprobs_NK)
    return torch.cat([logprobs_NK, log_tail(logprobs_NK)], dim=-1)


def log_mass(logprobs_NK: Tensor) -> Tensor:
    """log sum_v p_v over the ids that exist: [N, K] -> [N, 1]; -1e4 or a little more where none does."""
    return logprobs_NK.masked_fill(torch.isneginf(logprobs_NK), _NOTHING).logsumexp(dim=-1, keepdim=True)


def log_tail(logprobs_NK: Tensor) -> Tensor:
    """log(1 - sum_v p_v) as log(-expm1(logsumexp)), which stays exact as the sum nears 1; at least log 1e-7."""
    return torch.log(-torch.expm1(log_mass(logprobs_NK).clamp(max=-_MIN_TAIL)))

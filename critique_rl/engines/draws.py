"""Which token a row draws: a pure function of its logits and of (seed, the row's place in the call, the token's place).

Owns: the uniform numbers and the choice by inverse CDF. Must not know: models, prompts, batches.
Legend: N rows, T tokens, V vocabulary. No global random state is read or written.
Trap: a parallel scan of floats need not be monotone, and could then choose an id of probability 0. Probabilities are
therefore summed as integers, which is exact in any order: the same CDF on every device.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from critique_rl.ops.precision import at_least_float32
from critique_rl.types import Array

_WHOLE = 2.0**52
"""Shares of 2^-52 are as fine as the uniform numbers, and scaling a float by a power of two is exact."""


def row_uniforms(seed: int, indices: Sequence[int], max_tokens: int) -> Array:
    """u[n, t] in [0, 1) of row `indices[n]`, [N, T] float64: Philox with the key (seed, index), token after token.

    Neither the other rows nor `max_tokens` change a number. Raises ValueError for a negative index.
    """
    if any(index < 0 for index in indices):
        raise ValueError(f"indices holds {min(indices)}; wanted each row's place in the call, counted from 0")
    uniforms_NT = np.empty((len(indices), max_tokens))
    for n, index in enumerate(indices):
        key = np.array([seed % 2**64, index], dtype=np.uint64)
        np.random.Generator(np.random.Philox(key=key)).random(out=uniforms_NT[n])
    return uniforms_NT


def draw(logits_NV: torch.Tensor, uniforms_N: torch.Tensor, *, temperature: float) -> torch.Tensor:
    """The first id whose cumulated softmax(z / tau) exceeds u; at temperature 0 the most likely id. -> [N] int64.

    `logits_NV` [N, V], -inf allowed; `uniforms_N` [N] float64. A row that holds NaN gives some id in range.
    """
    if temperature == 0.0:
        return logits_NV.argmax(dim=-1)
    scaled_NV = at_least_float32(logits_NV)
    scaled_NV = scaled_NV if temperature == 1.0 else scaled_NV / temperature
    cumulated_NV = scaled_NV.softmax(dim=-1).mul_(_WHOLE).long().cumsum(dim=-1)
    total_N1 = cumulated_NV[:, -1:]
    # u * total < total for every float u < 1, so that an id of share 0 at the end is out of reach, too.
    reached_N1 = (uniforms_N.unsqueeze(-1) * total_N1).long()
    ids_N1 = torch.searchsorted(cumulated_NV, reached_N1, right=True)
    return ids_N1.squeeze(-1).clamp(max=logits_NV.shape[-1] - 1)

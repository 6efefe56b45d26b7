"""Sums and means over the tokens that count.

Owns: the rule that whatever stands under a zero mask (NaN and inf included) changes neither a value nor a gradient.
Must not know: what a token, a loss or a channel is.
"""

from __future__ import annotations

import torch
from torch import Tensor

from critique_rl.ops.precision import at_least_float32, require_same_shape


def masked_sum(values: Tensor, mask: Tensor) -> Tensor:
    """Sum of `values * mask` over entries with a nonzero mask: sum_i m_i v_i.

    `mask` has the shape of `values` and may hold 0/1, booleans or real weights. The gradient towards an entry under a
    zero mask is exactly 0. Trap: an op *before* this one that turned a zero gradient into NaN (log at 0, say) is
    beyond its reach. Raises ValueError if the shapes differ.
    """
    require_same_shape(values=values, mask=mask)
    wide = at_least_float32(values)
    # Select first, multiply second: NaN * 0 is NaN, in the value and in the gradient.
    selected = torch.where(mask != 0, wide, torch.zeros_like(wide))
    return (selected * mask.to(wide.dtype)).sum()


def masked_mean(values: Tensor, mask: Tensor, denominator: float | Tensor | None = None) -> Tensor:
    """Masked sum over `denominator`, or over sum(mask) if none is given: sum_i m_i v_i / D.

    Pass the global `denominator` (computed before micro-batching) wherever a batch is split; a local sum(mask) makes
    the result depend on the split. A zero denominator gives 0 with a zero gradient. Raises ValueError if shapes differ.
    """
    total = masked_sum(values, mask)
    divisor = mask.to(total.dtype).sum() if denominator is None else torch.as_tensor(denominator).to(total)
    empty = divisor == 0
    return torch.where(empty, torch.zeros_like(total), total / torch.where(empty, torch.ones_like(divisor), divisor))

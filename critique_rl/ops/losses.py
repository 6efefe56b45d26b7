"""The three channels of one step and their sum.

Owns: how per-token terms become a scalar that no micro-batch split can change.
Must not know: what made a term or a weight. Denominators are global numbers that the caller counted over the whole
step (all micro-batches, all ranks) beforehand, one per channel, so that no channel dilutes another.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor

from critique_rl.ops.masking import masked_sum


class ChannelLosses(NamedTuple):
    """Scalars to MINIMISE: policy gradient (evaluative), distillation (directive), imitation (refinements)."""

    pg: Tensor
    distill: Tensor
    imitate: Tensor


def channel_sum(terms_N: Tensor, weights_N: Tensor, denominator: float) -> Tensor:
    """sum_t w_t term_t / D over one micro-batch; micro-batches of a step simply add up.

    `terms_N` and `weights_N` share any shape; a zero weight silences its term even if that is NaN. `denominator` is
    the channel's GLOBAL count; 0 means an empty channel and gives 0 with a zero gradient. Raises ValueError if it is
    negative or not finite, or if the shapes differ.
    """
    if not (math.isfinite(denominator) and denominator >= 0):
        raise ValueError(
            f"denominator is {denominator}; wanted the channel's global token count, a finite number of 0 or more"
        )
    if denominator == 0:
        return masked_sum(terms_N, weights_N.new_zeros(weights_N.shape))
    return masked_sum(terms_N, weights_N) / denominator


def joint(
    pg: Tensor, distill: Tensor, imitate: Tensor, *, distill_coefficient: float, imitate_coefficient: float
) -> Tensor:
    """L = L_pg + lambda_d L_distill + lambda_i L_imitate.

    A coefficient of exactly 0 removes its channel, so that the sum equals the other channels bit for bit.
    """
    total = pg
    if distill_coefficient != 0:
        total = total + distill_coefficient * distill
    if imitate_coefficient != 0:
        total = total + imitate_coefficient * imitate
    return total

"""The 80/20 rule: learn from the tokens at which the policy is least sure, and from no other.

Owns: how many tokens that is, and which. Must not know: models, micro-batches; the choice is over all tokens handed in.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from critique_rl.ops.covariance import top_choice
from critique_rl.ops.precision import require_same_shape


class TopEntropy(NamedTuple):
    """`chosen_N` is boolean; `threshold` is the smallest entropy (nats) that was chosen, None if nothing was."""

    chosen_N: Tensor
    threshold: float | None


def top_entropy(entropy_N: Tensor, mask_N: Tensor, *, share: float) -> TopEntropy:
    """The k = max(1, int(share n + 0.9999)) tokens of the largest entropy among the n whose mask is above 0.

    Divide their losses by k, not by n: that is the mean over the tokens that are learned from. `mask_N` may hold
    booleans, integers or floats; `share` is a fraction (0.2 is the paper's). No gradient. Beyond the 80/20 rule, arXiv
    2506.01939. [N] -> [N]. Raises ValueError for differing shapes or a share that is not in (0, 1].
    """
    require_same_shape(entropy_N=entropy_N, mask_N=mask_N)
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; wanted a fraction above 0 and up to 1, such as 0.2")
    count = int((mask_N > 0).sum())
    if count == 0:
        return TopEntropy(mask_N > 0, None)
    chosen_N = top_choice(entropy_N, mask_N, count=max(1, int(share * count + 0.9999)))
    return TopEntropy(chosen_N, float(entropy_N.detach()[chosen_N].min()))

"""CISPO of MiniMax-M1 (arXiv 2506.13585): the importance weight is clipped, never the token's gradient.

    J = 1 / sum_i |y_i| sum_i sum_t sg[min(r_i,t, 1 + clip_high)] A_i log p(y_i,t),  A_i = (R_i - mean(R)) / std(R)

Deviations: 1. no lower clip, as in the paper's runs; 2. the cap is 5 unless set, since the paper names no number;
3. the sample standard deviation (ddof 1).
"""

from __future__ import annotations

from critique_rl.algorithms.grpo import Grpo


class Cispo(Grpo):
    """Centred rewards over the group's standard deviation."""

    name = "cispo"

"""DAPO (arXiv 2503.14476): more room above than below, and one mean over all tokens of the step.

    J = 1 / sum_i |y_i| sum_i sum_t min(r_i,t A_i, clip(r_i,t, 0.8, 1.28) A_i),  A_i = (R_i - mean(R)) / std(R)

Deviations: 1. groups without contrast are not sampled again: they count in the mean and give nothing (or go to the
critic, in methods that have one); 2. no length penalty in the reward; 3. the sample standard deviation (ddof 1).
"""

from __future__ import annotations

from critique_rl.algorithms.grpo import Grpo


class Dapo(Grpo):
    """Centred rewards over the group's standard deviation."""

    name = "dapo"

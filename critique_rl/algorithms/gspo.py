"""GSPO (arXiv 2507.18071): the sequence is the action, so it has one importance ratio and one clip.

    J = mean_i min(s_i A_i, clip(s_i, 1 - 3e-4, 1 + 4e-4) A_i),  s_i = exp(1 / |y_i| sum_t log p(y_i,t) / b(y_i,t))

A_i = (R_i - mean(R)) / std(R). Deviations: 1. the token form of the objective, equal to this one wherever all tokens of
a rollout share their advantage; 2. the sample standard deviation (ddof 1). Trap: `normalizer = "sequences"` makes the
mean over tokens inside a rollout; with another one, long rollouts weigh more.
"""

from __future__ import annotations

from critique_rl.algorithms.grpo import Grpo


class Gspo(Grpo):
    """Centred rewards over the group's standard deviation."""

    name = "gspo"

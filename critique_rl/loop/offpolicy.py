"""Importance weights of rollouts that an older policy sampled, for the channel that has no ratio of its own.

    w_t = min(pi_now(y_t | x, y_<t) / pi_then(y_t | x, y_<t), cap)        (truncated importance sampling, Ionides 2008)

The policy gradient corrects itself, by the ratio to the behaviour log-probs that travel with a rollout; directive
targets are a sum over tokens that the older policy chose. Must not know: where old rollouts come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from critique_rl.protocols import Policy
from critique_rl.types import Array, Group, Rollout


def correct_for_age(groups: Sequence[Group], *, policy: Policy, cap: float) -> list[Group]:
    """Set `Group.corrections` [T] for every critiqued rollout that was not sampled by the policy as it is now.

    A rollout without behaviour log-probs (another model's, a person's) has no ratio, and gets no correction.
    """
    old = [
        (g, rollout)
        for g, group in enumerate(groups)
        for rollout in group.rollouts
        if rollout.id in group.critiques and rollout.behaviour_logprobs and rollout.policy_version != policy.version
    ]
    if not old:
        return list(groups)
    now = policy.logprobs([r.prompt_ids for _, r in old], [r.completion_ids for _, r in old])
    found: dict[int, dict[str, Array]] = {}
    for (g, rollout), now_T in zip(old, now, strict=True):
        found.setdefault(g, {})[rollout.id] = _weights(now_T, rollout, cap)
    return [replace(group, corrections=found.get(g, {})) for g, group in enumerate(groups)]


def _weights(now_T: Array, rollout: Rollout, cap: float) -> Array:
    then_T = np.asarray(rollout.behaviour_logprobs, dtype=np.float64)
    return np.exp(np.minimum(now_T - then_T, np.log(cap)))

"""Whether the engine sampled from the policy that is about to be trained.

Owns: what is compared, and what an alarm and an abort are. Must not know: which engine it is, servers, weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from critique_rl.config.engine import MismatchConfig
from critique_rl.errors import EngineError
from critique_rl.protocols import Policy
from critique_rl.stats.mismatch import judge_mismatch, logprob_mismatch
from critique_rl.types import Group


class MismatchCheck(NamedTuple):
    """Figures to log, and a message for a person or ""."""

    figures: Mapping[str, float]
    alarm: str


def check_mismatch(groups: Sequence[Group], *, policy: Policy, config: MismatchConfig) -> MismatchCheck:
    """Re-score this step's rollouts under the policy that sampled them. Raises EngineError above `config.abort`."""
    rollouts = [r for group in groups if not group.late for r in group.rollouts]
    scored = policy.logprobs([r.prompt_ids for r in rollouts], [r.completion_ids for r in rollouts])
    # Nobody sampled what a tool said; its log-probs of 0 are no engine's.
    own = [replace(r, behaviour_logprobs=tuple(s)).own_logprobs for r, s in zip(rollouts, scored, strict=True)]
    found = logprob_mismatch([np.asarray(one) for one in own], [r.own_logprobs for r in rollouts])
    if found is None:
        return MismatchCheck({}, "")
    verdict = judge_mismatch(found.mean, alarm=config.alarm, abort=config.abort)
    said = (
        f"the engine's log-probs differ from the trainer's by {found.mean:.3g} nats/token on average "
        f"(largest {found.worst:.3g}, {found.tokens} tokens)"
    )
    if verdict == "abort":
        raise EngineError(
            f"engine: {said}; mismatch.abort = {config.abort:g}. The step was not trained: give trainer and server "
            "the same compute type, or see whether the server holds the run's weights, then resume"
        )
    alarm = f"{said}, above mismatch.alarm = {config.alarm:g}" if verdict == "alarm" else ""
    figures = {"mismatch/mean": found.mean, "mismatch/worst": found.worst, "mismatch/bias": found.bias}
    return MismatchCheck(figures, alarm)

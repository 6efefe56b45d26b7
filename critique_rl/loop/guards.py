"""What the trip wires see of a step, and a step without injection.

Owns: how vitals are read off rollouts and training reports. Must not know: limits, states, which method is trained.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from critique_rl.protocols import GRADIENT_CONFLICT, StepReport
from critique_rl.types import Group, ScoreStatus


class Vitals(NamedTuple):
    """Of one step's plain rollouts; None where nothing is known. `entropy` is the mean surprise of the sampled tokens
    (nats), which estimates the policy's entropy."""

    entropy: float | None
    p50_tokens: float | None
    p95_tokens: float | None
    truncated: float | None
    success: float | None
    success_by_kind: Mapping[str, float]


def vitals(groups: Sequence[Group]) -> Vitals:
    """Entropy estimate, length quantiles, truncated share and success rate of a step's rollouts."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    surprise = [-logprob for rollout in rollouts for logprob in rollout.own_logprobs]
    lengths = [rollout.own_tokens for rollout in rollouts]
    by_kind: dict[str, list[bool]] = {}
    for group in groups:
        for score in group.scores:
            if score.status is not ScoreStatus.ERROR:
                by_kind.setdefault(group.task.kind, []).append(score.correct)
    judged = [correct for of_kind in by_kind.values() for correct in of_kind]
    p50, p95 = (float(np.quantile(lengths, q)) for q in (0.5, 0.95)) if lengths else (None, None)
    return Vitals(
        entropy=float(np.mean(surprise)) if surprise else None,
        p50_tokens=p50,
        p95_tokens=p95,
        truncated=float(np.mean([not rollout.finished for rollout in rollouts])) if rollouts else None,
        success=float(np.mean(judged)) if judged else None,
        success_by_kind={kind: float(np.mean(correct)) for kind, correct in by_kind.items()},
    )


def conflict_of(report: StepReport) -> float | None:
    """The cosine between the gradients of evaluative and directive feedback, if the training step measured it."""
    return report.diagnostics.get(GRADIENT_CONFLICT)


def uninjected(groups: Sequence[Group]) -> list[Group]:
    """The groups as if no critic had been asked: nothing to refine, to distil or to score by."""
    return [replace(group, plateaued=False, critiques={}) for group in groups]

"""One step's groups and the critic's counters as scalars for the trackers.

Owns: their keys. "Missing" is an absent key, never 0.0. Must not know: losses, budgets, who reads them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from critique_rl.config.replay import REPLAY
from critique_rl.loop.criticize import CriticTally
from critique_rl.loop.selection import selection_metrics
from critique_rl.protocols import Algorithm
from critique_rl.types import CriticOutcome, Group, Rollout, ScoreStatus

STEP_FORMAT = "step_format"
"""The objective of a reward of single steps: 1 where a step could be read, else 0."""


def group_metrics(groups: Sequence[Group], *, recalled: bool = False) -> Mapping[str, float]:
    """Verified rewards by kind, how the rollouts look, and what became of the refinements.

    `recalled` rollouts, like those of late groups, are an older policy's: they say nothing of this one.
    """
    fresh = [] if recalled else [g for g in groups if not g.late]
    scored = [(g.task.kind or "all", s) for g in fresh for s in g.scores if s.status is not ScoreStatus.ERROR]
    kinds = sorted({kind for kind, _ in scored})
    rewards = {f"reward/{k}": float(np.mean([s.reward for kind, s in scored if kind == k])) for k in kinds}
    mean = {"reward/mean": float(np.mean([s.reward for _, s in scored]))} if scored else {}
    logprobs = [x for g in fresh for r in g.rollouts for x in r.own_logprobs]
    entropy = {"policy/entropy_estimate": -float(np.mean(logprobs))} if logprobs else {}
    ends = [r.finished for g in fresh for r in g.rollouts]
    finished = {"rollout/finished": float(np.mean(ends))} if ends else {}
    forms = [s.objectives[STEP_FORMAT] for _, s in scored if STEP_FORMAT in s.objectives]
    errors = {"rollout/format_errors": 1.0 - float(np.mean(forms))} if forms else {}
    refinements = [r for g in groups for r in g.refinements]
    sampled = [r for r in refinements if r.rung != REPLAY]
    return {
        **mean,
        **rewards,
        **entropy,
        **finished,
        **errors,
        "refinement/sampled": float(len(sampled)),
        "refinement/verified": float(sum(r.score.correct for r in sampled)),
        "refinement/injected": float(sum(not r.rejected for r in refinements)),
        "critic/late_groups": float(sum(g.late for g in groups)),
        **selection_metrics(groups),
    }


@runtime_checkable
class _Counting(Protocol):
    def figures(self) -> Mapping[str, float]: ...


def algorithm_metrics(algorithm: Algorithm) -> Mapping[str, float]:
    """What a method says about the samples that it stamped last; nothing of one that counts nothing."""
    return algorithm.figures() if isinstance(algorithm, _Counting) else {}


def generated_tokens(groups: Sequence[Group], *, second_attempts: bool = False) -> int:
    """Tokens sampled as rollouts, or as second attempts: refinements and controls, but not what is replayed.

    What a tool says is not sampled; turns that might have begun an episode and were not taken are.
    """
    if not second_attempts:
        return sum(map(_sampled, (r for g in groups for r in g.rollouts)))
    second = [r for g in groups for r in (*g.refinements, *g.controls) if r.rung != REPLAY]
    return sum(_sampled(r.rollout) for r in second)


def _sampled(rollout: Rollout) -> int:
    return rollout.own_tokens + sum(turn.discarded_tokens for turn in rollout.turns)


def critic_metrics(total: CriticTally) -> Mapping[str, float]:
    """Calls of the whole run so far by outcome, and what they used; no cost before the first call or without a price.

    `critic/failed` are the calls that ended neither ok nor abstained.
    """
    outcomes = {f"critic/outcome/{o}": float(total.outcomes.get(o, 0)) for o in CriticOutcome}
    answered = total.outcomes.get(CriticOutcome.OK, 0) + total.outcomes.get(CriticOutcome.ABSTAINED, 0)
    cost = {"critic/cost_usd": total.cost_usd} if total.calls and total.cost_usd is not None else {}
    return {
        "critic/calls": float(total.calls),
        "critic/ok": float(total.outcomes.get(CriticOutcome.OK, 0)),
        "critic/failed": float(total.calls - answered),
        **outcomes,
        "critic/directives": float(total.directives),
        "critic/dropped": float(total.dropped),
        "critic/prompt_tokens": float(total.prompt_tokens),
        "critic/completion_tokens": float(total.completion_tokens),
        **cost,
    }

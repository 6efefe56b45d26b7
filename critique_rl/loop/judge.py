"""What a step tells about the critic itself: rescues against a control arm, and scores against verified rewards.

Owns: the control arm, and which outcomes count. Must not know: how rates are compared, when a critic is switched off.
The control is the same second attempt under the same template, told nothing but that the first one was wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from critique_rl.config.replay import REPLAY
from critique_rl.config.run import RolloutConfig
from critique_rl.loop.collect import as_rollout, judged
from critique_rl.loop.criticize import usable
from critique_rl.loop.parts import Environment
from critique_rl.loop.second_attempts import Hint, sample_again
from critique_rl.prompting.template import PromptTemplate
from critique_rl.protocols import Policy, Reward, RolloutEngine
from critique_rl.types import CriticOutcome, Critique, Directive, Evaluative, Group, Refinement, Rollout

BARE_VERDICT = "Wrong."
CALIBRATED = "calibrated"
ANSWERED = frozenset({CriticOutcome.OK, CriticOutcome.ABSTAINED, CriticOutcome.MALFORMED, CriticOutcome.REFUSED})
"""Ends of a call that are the critic's own doing; a server that is down says nothing about its words."""


class ScorePairs(NamedTuple):
    """A critic's mean score of an attempt in [0, 1], and whether the verifier found the attempt right."""

    values: list[float]
    correct: list[bool]


def sample_controls(
    groups: Sequence[Group],
    *,
    wanted: int,
    policy: Policy,
    engine: RolloutEngine,
    reward: Reward,
    template: PromptTemplate,
    rollout: RolloutConfig,
    step: int,
    seed: int,
    environment: Environment | None = None,
) -> list[Group]:
    """Attach up to `wanted` second attempts under the bare verdict, one per attempt that the critic answered about."""
    planned = [(g, attempt) for g, group in enumerate(groups) for attempt in _answered_about(group)][:wanted]
    sampled = sample_again(
        [Hint(groups[g].task, attempt.text, BARE_VERDICT) for g, attempt in planned],
        policy=policy,
        engine=engine,
        template=template,
        rollout=rollout,
        seed=seed,
        environment=environment,
    )
    found: dict[int, list[Refinement]] = {}
    for n, ((g, attempt), attempts) in enumerate(zip(planned, sampled, strict=True)):
        task = groups[g].task
        for context, completion in attempts:
            second = as_rollout(f"{step}/{task.id}/control-{n}", task, context, completion, policy.version)
            found.setdefault(g, []).append(
                Refinement(
                    attempt_id=attempt.id,
                    critique=_bare_critique(attempt),
                    rollout=second,
                    score=judged(task, second, reward=reward, environment=environment),
                    rejected="control",
                )
            )
    return [replace(group, controls=tuple(found.get(g, ()))) for g, group in enumerate(groups)]


def rescues(groups: Sequence[Group]) -> list[bool]:
    """One entry per attempt that the critic answered about: was its first second attempt verified?

    By intention to treat: an attempt that got an answer without a usable directive counts as not rescued. One whose
    call never came through is no evidence. Equal attempts count once: a policy that repeats itself says nothing new.
    Replayed refinements are of earlier attempts, and say nothing of this step's critiques.
    """
    outcomes: list[bool] = []
    for group in groups:
        text_of = {r.id: r.text for r in group.rollouts}
        first: dict[str, bool] = {}
        for refinement in group.refinements:
            if refinement.rung != REPLAY:
                first.setdefault(text_of[refinement.attempt_id], refinement.score.correct)
        for attempt in _answered_about(group):
            if attempt.text in first:
                outcomes.append(first[attempt.text])
            elif not usable(group.critiques[attempt.id]):
                outcomes.append(False)
    return outcomes


def score_pairs(probes: Sequence[tuple[Critique, bool]]) -> ScorePairs:
    """The critic's scores of the probes that it scored, with what the verifier had found."""
    scored = [(mean_score(critique), correct) for critique, correct in probes]
    known = [(value, correct) for value, correct in scored if value is not None]
    return ScorePairs([value for value, _ in known], [correct for _, correct in known])


def mean_score(critique: Critique) -> float | None:
    """Mean of a critique's criteria in [0, 1], or None: a missing score is missing, never 0."""
    if critique.outcome is not CriticOutcome.OK or not critique.evaluative:
        return None
    return sum(e.value for e in critique.evaluative) / len(critique.evaluative)


def calibrated(groups: Sequence[Group], score_map: Callable[[float], float]) -> list[Group]:
    """The groups with each critique's scalars replaced by one: the probability that an attempt so scored is right."""

    def mapped(critique: Critique) -> Critique:
        score = mean_score(critique)
        if score is None:
            return critique
        return replace(critique, evaluative=(Evaluative(criterion=CALIBRATED, value=score_map(score)),))

    return [replace(g, critiques={name: mapped(c) for name, c in g.critiques.items()}) for g in groups]


def without_scores(groups: Sequence[Group]) -> list[Group]:
    """The groups with the critic's scalars taken out, for a critic whose scores do not tell right from wrong."""
    return [replace(g, critiques={name: replace(c, evaluative=()) for name, c in g.critiques.items()}) for g in groups]


def _answered_about(group: Group) -> list[Rollout]:
    """The first rollout of each text that the critic gave some answer about."""
    answered: dict[str, Rollout] = {}
    for rollout in group.rollouts:
        if rollout.id in group.critiques and group.critiques[rollout.id].outcome in ANSWERED:
            answered.setdefault(rollout.text, rollout)
    return list(answered.values())


def _bare_critique(attempt: Rollout) -> Critique:
    said = (Directive(text=BARE_VERDICT, critic="control"),)
    return Critique(rollout_id=attempt.id, critic="control", outcome=CriticOutcome.OK, directives=said)

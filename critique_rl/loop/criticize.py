"""What a critic is asked about a group, and what it came to: requests, critiques at their rollouts, the tally.

Equal attempts of a group are asked about once. Must not know: which critic answers, when, or how.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple, Self

from critique_rl.types import CriticOutcome, CriticRequest, Critique, Group, Rollout, ScoreStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticTally:
    """What the critic did so far: calls by outcome, tokens, money (None once any call was unpriced), seconds."""

    outcomes: Mapping[str, int] = field(default_factory=dict[str, int])
    directives: int = 0
    dropped: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float | None = 0.0
    latency_s: float = 0.0

    @property
    def calls(self) -> int:
        return sum(self.outcomes.values())

    def __add__(self, other: CriticTally) -> Self:
        cost = None if self.cost_usd is None or other.cost_usd is None else self.cost_usd + other.cost_usd
        return replace(
            self,
            outcomes=dict(Counter(self.outcomes) + Counter(other.outcomes)),
            directives=self.directives + other.directives,
            dropped=self.dropped + other.dropped,
            prompt_tokens=self.prompt_tokens + other.prompt_tokens,
            completion_tokens=self.completion_tokens + other.completion_tokens,
            cost_usd=cost,
            latency_s=self.latency_s + other.latency_s,
        )

    @classmethod
    def of(cls, critiques: Sequence[Critique]) -> CriticTally:
        costs = [c.usage.cost_usd for c in critiques]
        return cls(
            outcomes=dict(Counter(str(c.outcome) for c in critiques)),
            directives=sum(len(c.directives) for c in critiques),
            dropped=sum(len(c.dropped) for c in critiques),
            prompt_tokens=sum(c.usage.prompt_tokens for c in critiques),
            completion_tokens=sum(c.usage.completion_tokens for c in critiques),
            cost_usd=None if any(cost is None for cost in costs) else sum(cost or 0.0 for cost in costs),
            latency_s=sum(c.latency_s for c in critiques),
        )


class Question(NamedTuple):
    """One request, and the rollouts that its answer is about: those whose texts are equal."""

    request: CriticRequest
    twins: tuple[Rollout, ...]


def questions(group: Group, *, max_attempts: int, show_reference: bool) -> list[Question]:
    """What to ask about a group: its wrong attempts, equal ones once, at most `max_attempts`."""
    return [_question(group, twins, show_reference) for twins in _distinct_failures(group)[:max_attempts]]


def probe(groups: Sequence[Group], *, correct: bool, show_reference: bool) -> Question | None:
    """The first right (or wrong) attempt of a step, to judge the critic's scores by; None if there is none.

    The verifier's report is held back: a critic that only repeats it tells nothing.
    """
    for group in groups:
        for rollout, score in zip(group.rollouts, group.scores, strict=True):
            if score.correct == correct and score.status is not ScoreStatus.ERROR:
                question = _question(group, [rollout], show_reference)
                blank = replace(question.request, score=replace(score, detail=""))
                return question._replace(request=blank)
    return None


def attach(group: Group, answered: Sequence[tuple[Question, Critique]]) -> Group:
    """The group with each critique at every rollout that it is about; as it is if there is none."""
    if not answered:
        return group
    found = {twin.id: replace(c, rollout_id=twin.id) for question, c in answered for twin in question.twins}
    return replace(group, critiques={**group.critiques, **found})


def _question(group: Group, twins: Sequence[Rollout], show_reference: bool) -> Question:
    first = twins[0]
    request = CriticRequest(
        rollout_id=first.id,
        task=group.task,
        attempt=first.text,
        score=group.scores[group.rollouts.index(first)],
        reference=group.task.answer if show_reference else None,
    )
    return Question(request=request, twins=tuple(twins))


def _distinct_failures(group: Group) -> list[list[Rollout]]:
    """Wrong rollouts whose verdict is evidence, equal texts together, in order of first appearance."""
    by_text: dict[str, list[Rollout]] = {}
    for rollout, score in zip(group.rollouts, group.scores, strict=True):
        if not score.correct and score.status is not ScoreStatus.ERROR:
            by_text.setdefault(rollout.text, []).append(rollout)
    return list(by_text.values())


def usable(critique: Critique | None) -> bool:
    """Whether a critique may direct training."""
    return critique is not None and critique.outcome is CriticOutcome.OK and bool(critique.directives)

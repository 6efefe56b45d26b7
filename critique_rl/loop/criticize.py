"""What a critic is asked about a group, and what it came to: requests, critiques at their rollouts, the tally.

Equal attempts of a group are asked about once. Must not know: which critic answers, when, or how.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
    def of(cls, critiques: Sequence[Critique], *, tokens_of: Callable[[str], int] | None = None) -> CriticTally:
        """What these calls came to; `tokens_of` counts the replies of a critic that states no usage, such as rules."""
        costs = [c.usage.cost_usd for c in critiques]
        return cls(
            outcomes=dict(Counter(str(c.outcome) for c in critiques)),
            directives=sum(len(c.directives) for c in critiques),
            dropped=sum(len(c.dropped) for c in critiques),
            prompt_tokens=sum(c.usage.prompt_tokens for c in critiques),
            completion_tokens=sum(_completion_tokens(c, tokens_of) for c in critiques),
            cost_usd=None if any(cost is None for cost in costs) else sum(cost or 0.0 for cost in costs),
            latency_s=sum(c.latency_s for c in critiques),
        )


def _completion_tokens(critique: Critique, tokens_of: Callable[[str], int] | None) -> int:
    stated = critique.usage.completion_tokens
    if stated or critique.cached or tokens_of is None or not critique.reply:
        return stated
    return tokens_of(critique.reply)


class Question(NamedTuple):
    """One request, and the rollouts that its answer is about: those whose texts are equal, or were shown with it."""

    request: CriticRequest
    twins: tuple[Rollout, ...]


def questions(
    group: Group, *, max_attempts: int, show_reference: bool, others_chars: int | None = None
) -> list[Question]:
    """What to ask about a group: its wrong attempts, equal ones once, at most `max_attempts`.

    With `others_chars` it is one question: about the shortest, with as many of the others beside it, shortest first, as
    have room (GOLF, arXiv 2603.04597).
    """
    failures = _distinct_failures(group)
    if others_chars is None or not failures:
        return [_question(group, twins, show_reference) for twins in failures[:max_attempts]]
    main, *others = sorted(failures, key=lambda twins: len(twins[0].text))[:max_attempts]
    shown: list[list[Rollout]] = []
    for twins in others:
        others_chars -= len(twins[0].text)
        if others_chars < 0:
            break
        shown.append(twins)
    asked = _question(group, main, show_reference)
    request = replace(asked.request, other_attempts=tuple(twins[0].text for twins in shown))
    return [Question(request, tuple(rollout for twins in (main, *shown) for rollout in twins))]


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
    found = {twin.id: _about(twin, question, c) for question, c in answered for twin in question.twins}
    return replace(group, critiques={**group.critiques, **found})


def _about(twin: Rollout, question: Question, critique: Critique) -> Critique:
    """The critique as one of this rollout: quotes and scores are of the text that was asked about, and of no other."""
    if twin.text == question.request.attempt:
        return replace(critique, rollout_id=twin.id)
    unplaced = tuple(replace(d, quote=None, span=None, turn=None) for d in critique.directives)
    return replace(critique, rollout_id=twin.id, directives=unplaced, evaluative=(), verdict=None)


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

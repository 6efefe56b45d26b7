"""Send the failed attempts of plateaued groups to the critic; a failed call leaves its rollout as it was.

Equal attempts of a group are asked about once. Must not know: which critic answers, or how.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

from critique_rl.protocols import Critic
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


def criticize(
    groups: Sequence[Group], *, critic: Critic, max_attempts: int, show_reference: bool
) -> tuple[list[Group], CriticTally]:
    """Attach critiques to the plateaued groups; the others come back as they are."""
    asked: list[tuple[int, list[Rollout]]] = []
    requests: list[CriticRequest] = []
    for g, group in enumerate(groups):
        if not group.plateaued:
            continue
        for twins in _distinct_failures(group)[:max_attempts]:
            asked.append((g, twins))
            requests.append(
                CriticRequest(
                    rollout_id=twins[0].id,
                    task=group.task,
                    attempt=twins[0].text,
                    score=group.scores[group.rollouts.index(twins[0])],
                    reference=group.task.answer if show_reference else None,
                )
            )
    critiques = critic.review(requests) if requests else []
    found: dict[int, dict[str, Critique]] = {}
    for (g, twins), critique in zip(asked, critiques, strict=True):
        for twin in twins:
            found.setdefault(g, {})[twin.id] = replace(critique, rollout_id=twin.id)
    reviewed = [replace(group, critiques=found.get(g, {})) for g, group in enumerate(groups)]
    return reviewed, CriticTally.of(critiques)


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

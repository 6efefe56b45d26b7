"""A batch of groups as the monitors read it: one entry per prompt, with the policy's own words.

Owns: that copies of a prompt in a batch are one prompt, and that a tool's words are nobody's style. Must not know: what
is measured, why groups were sampled.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from critique_rl.types import Group, Rollout, Score, ScoreStatus, Task

_WORD = re.compile(r"\w+|[^\w\s]")


class Judged(NamedTuple):
    """One answer that a verifier has judged; `advantage` is its reward minus the mean of the group it came from."""

    rollout: Rollout
    score: Score
    text: str
    advantage: float


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """All rollouts of one task in the batch, with the baseline (mean reward) of the group that each came from."""

    task: Task
    rollouts: tuple[Rollout, ...]
    scores: tuple[Score, ...]
    baselines: tuple[float, ...]

    @cached_property
    def texts(self) -> tuple[str, ...]:
        return tuple(own_words(rollout) for rollout in self.rollouts)

    @cached_property
    def words(self) -> tuple[tuple[str, ...], ...]:
        """Words and marks of each text."""
        known = {text: tuple(_WORD.findall(text)) for text in set(self.texts)}
        return tuple(known[text] for text in self.texts)

    @cached_property
    def judged(self) -> tuple[Judged, ...]:
        """Without the rollouts on which the verifier failed: those say nothing of the policy."""
        rows = zip(self.rollouts, self.scores, self.texts, self.baselines, strict=True)
        return tuple(
            Judged(rollout, score, text, score.reward - baseline)
            for rollout, score, text, baseline in rows
            if score.status is not ScoreStatus.ERROR
        )


def own_words(rollout: Rollout) -> str:
    """What the policy itself wrote: the turns' texts without the tools' replies between them."""
    return "\n".join(turn.text for turn in rollout.turns) if rollout.turns else rollout.text


def prompts_of(groups: Sequence[Group]) -> list[Prompt]:
    """One prompt per task, in the order of first appearance; two groups of one task are one prompt's samples."""
    copies: dict[str, list[Group]] = {}
    for group in groups:
        copies.setdefault(group.task.id, []).append(group)
    return [
        Prompt(
            task=own[0].task,
            rollouts=tuple(rollout for group in own for rollout in group.rollouts),
            scores=tuple(score for group in own for score in group.scores),
            baselines=tuple(mean for group in own for mean in [_baseline(group)] * len(group.rollouts)),
        )
        for own in copies.values()
    ]


def rewards_of(group: Group) -> list[float]:
    """The rewards that a verifier gave."""
    return [score.reward for score in group.scores if score.status is not ScoreStatus.ERROR]


def _baseline(group: Group) -> float:
    known = rewards_of(group)
    return sum(known) / len(known) if known else 0.0

"""One answer out of several samples of the same prompt: by number, by stated confidence, by the most confident one.

Owns: the three rules and how ties are broken. Must not know: how answers are read or compared, which one is right.
Equal texts are one answer: normalise before. Votes are summed as whole billionths, so .1 + .2 ties with .3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

from critique_rl.stats.scoring import probability

VoteRule = Literal["majority", "weighted", "most_confident"]
TICKS = 10**9


class Vote(NamedTuple):
    """The winner, the first sample that gave it, and its weight: votes, summed confidence, or largest confidence."""

    answer: str
    first: int
    weight: float


def vote(
    answers: Sequence[str | None],
    confidences: Sequence[float | None] | None = None,
    *,
    rule: VoteRule = "majority",
) -> Vote | None:
    """The answer of the largest weight; None if no sample gives an answer that counts.

    `majority`: its samples. `weighted`: sum of q over its samples (arXiv 2507.16806). `most_confident`: its largest q.
    A sample without an answer does not vote, nor, in the last two, one without a confidence. Of answers of equal
    weight, the one that occurs first in `answers` wins. Raises ValueError for an unknown rule, for lists of unequal
    lengths, for a confidence outside [0, 1], and for a rule that needs confidences and gets none.
    """
    if rule not in ("majority", "weighted", "most_confident"):
        raise ValueError(f"rule is {rule!r}; wanted majority, weighted or most_confident")
    if confidences is None and rule != "majority":
        raise ValueError(f"rule {rule!r} came without confidences; give one for each answer, or use rule 'majority'")
    stated = [None] * len(answers) if confidences is None else confidences
    if len(stated) != len(answers):
        raise ValueError(f"{len(answers)} answers came with {len(stated)} confidences; wanted one each")
    weights: dict[str, int] = {}
    first: dict[str, int] = {}
    for index, (answer, confidence) in enumerate(zip(answers, stated, strict=True)):
        q = None if confidence is None else probability(confidence)
        if answer is None or (q is None and rule != "majority"):
            continue
        ticks = TICKS if rule == "majority" or q is None else round(q * TICKS)
        before = weights.get(answer, 0)
        weights[answer] = max(before, ticks) if rule == "most_confident" else before + ticks
        first.setdefault(answer, index)
    if not weights:
        return None
    winner = min(weights, key=lambda answer: (-weights[answer], first[answer]))
    return Vote(winner, first[winner], weights[winner] / TICKS)

"""Why a group of rollouts looks as it does: one cause per group.

Owns: the six causes and the order in which they are tested. Must not know: earlier groups of the same prompt, critics.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from critique_rl.types import Score, ScoreStatus


class GroupCause(StrEnum):
    """`solved`, `mixed`: at least one success. The others have none: `hopeless` (answers were read, and are wrong),
    `unparsed` (mostly no readable answer), `truncated` (mostly cut off at the token limit), `verifier_error` (the
    verifier failed on most of the group: nothing is known)."""

    SOLVED = "solved"
    MIXED = "mixed"
    HOPELESS = "hopeless"
    UNPARSED = "unparsed"
    TRUNCATED = "truncated"
    VERIFIER_ERROR = "verifier_error"


class GroupEvidence(NamedTuple):
    """What one group says: its cause, and the rollouts that count for or against the policy."""

    cause: GroupCause
    successes: int
    failures: int
    judged: int
    errors: int
    reward_sum: float


def group_cause(scores: Sequence[Score], finished: Sequence[bool]) -> GroupCause:
    """The cause of one group; "most" is more than half. Verifier errors are left out unless they are most."""
    judged = [(s, f) for s, f in zip(scores, finished, strict=True) if s.status is not ScoreStatus.ERROR]
    right = sum(s.correct for s, _ in judged)
    if judged and right == len(judged):
        return GroupCause.SOLVED
    if right:
        return GroupCause.MIXED
    if 2 * len(judged) < len(scores) or not judged:
        return GroupCause.VERIFIER_ERROR
    # Truncation first: a completion that was cut off usually has no answer to parse either.
    if 2 * sum(not f for _, f in judged) > len(judged):
        return GroupCause.TRUNCATED
    if 2 * sum(s.status is ScoreStatus.UNPARSED for s, _ in judged) > len(judged):
        return GroupCause.UNPARSED
    return GroupCause.HOPELESS


def group_evidence(
    scores: Sequence[Score], finished: Sequence[bool], *, count_unparsed: bool = True, count_truncated: bool = True
) -> GroupEvidence:
    """Successes and failures of one group, without what is no evidence about the policy.

    Args: `scores[i]` and `finished[i]` belong to the i-th rollout; the flags say whether an unreadable or unfinished
    completion is a failure or nothing. Raises ValueError if the lengths differ or the group is empty.
    """
    if not scores or len(scores) != len(finished):
        raise ValueError(
            f"a group needs one finished flag for each score, and at least one score: "
            f"got {len(scores)} scores and {len(finished)} flags"
        )
    successes = failures = judged = 0
    reward_sum = 0.0
    for score, done in zip(scores, finished, strict=True):
        if score.status is ScoreStatus.ERROR:
            continue
        judged += 1
        reward_sum += score.reward
        if score.correct:
            successes += 1
        elif (done or count_truncated) and (score.status is not ScoreStatus.UNPARSED or count_unparsed):
            failures += 1
    return GroupEvidence(group_cause(scores, finished), successes, failures, judged, len(scores) - judged, reward_sum)

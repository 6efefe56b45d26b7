"""One cause per group, and which rollouts are evidence."""

from __future__ import annotations

import pytest

from critique_rl.schedule.causes import GroupCause, group_cause, group_evidence
from critique_rl.types import Score, ScoreStatus

RIGHT = Score(reward=1.0)
WRONG = Score(reward=0.0, extracted="7")
PARTIAL = Score(reward=0.5, extracted="7")
UNPARSED = Score(reward=0.0, status=ScoreStatus.UNPARSED)
ERROR = Score(reward=0.0, status=ScoreStatus.ERROR)


@pytest.mark.parametrize(
    ("scores", "unfinished", "cause"),
    [
        ([RIGHT] * 4, 0, GroupCause.SOLVED),
        ([RIGHT] * 3 + [ERROR], 0, GroupCause.SOLVED),
        ([RIGHT] + [WRONG] * 3, 0, GroupCause.MIXED),
        ([RIGHT] + [ERROR] * 3 + [WRONG], 0, GroupCause.MIXED),
        ([WRONG] * 4, 0, GroupCause.HOPELESS),
        ([PARTIAL] * 4, 0, GroupCause.HOPELESS),
        ([WRONG] * 2 + [UNPARSED] * 2, 0, GroupCause.HOPELESS),
        ([WRONG] + [UNPARSED] * 3, 0, GroupCause.UNPARSED),
        ([UNPARSED] * 4, 3, GroupCause.TRUNCATED),
        ([WRONG] * 4, 2, GroupCause.HOPELESS),
        ([WRONG] * 4, 3, GroupCause.TRUNCATED),
        ([ERROR] * 4, 0, GroupCause.VERIFIER_ERROR),
        ([ERROR] * 3 + [WRONG], 0, GroupCause.VERIFIER_ERROR),
        ([ERROR] * 2 + [WRONG] * 2, 0, GroupCause.HOPELESS),
    ],
)
def test_the_causes_are_told_apart(scores: list[Score], unfinished: int, cause: GroupCause) -> None:
    finished = [i >= unfinished for i in range(len(scores))]
    assert group_cause(scores, finished) is cause
    order = list(reversed(range(len(scores))))
    assert group_cause([scores[i] for i in order], [finished[i] for i in order]) is cause


def test_verifier_errors_are_never_evidence() -> None:
    evidence = group_evidence([RIGHT, WRONG, PARTIAL, ERROR], [True] * 4)
    assert (evidence.successes, evidence.failures, evidence.judged) == (1, 2, 3)
    assert evidence.reward_sum == 1.5


def test_unreadable_and_unfinished_completions_count_only_if_wanted() -> None:
    scores, finished = [WRONG, UNPARSED, WRONG, UNPARSED], [True, True, False, False]
    assert group_evidence(scores, finished).failures == 4
    assert group_evidence(scores, finished, count_unparsed=False).failures == 2
    assert group_evidence(scores, finished, count_truncated=False).failures == 2
    assert group_evidence(scores, finished, count_unparsed=False, count_truncated=False).failures == 1
    # A right answer stays one, finished or not.
    assert group_evidence([RIGHT], [False], count_truncated=False).successes == 1


@pytest.mark.parametrize(("scores", "finished"), [([], []), ([WRONG], [True, False])])
def test_a_group_needs_one_flag_per_score(scores: list[Score], finished: list[bool]) -> None:
    with pytest.raises(ValueError, match="one finished flag for each score"):
        group_evidence(scores, finished)

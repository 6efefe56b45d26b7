"""An answer against the task's reference, by a judge who is shown both, in both positions.

Owns: what a pair of verdicts is worth. Must not know: who judges; a critic's own machinery asks, records and retries.
A judge that fails makes the score an ERROR, never a number.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from critique_rl.types import CriticOutcome, CriticRequest, Critique, Score, ScoreStatus, Task

FIRST, SECOND = "first", "second"
"""The two criteria that a judge scores; only which one is higher counts."""

Review = Callable[[Sequence[CriticRequest]], Sequence[Critique]]

_UNSCORED = Score(reward=0.0, status=ScoreStatus.ERROR)


class JudgeReward:
    """A `Reward` of 1 for a win over the task's answer, 0.5 for a tie, 0 for a loss, as the mean of two askings with
    the positions swapped (pairwise preference against a reference, as arXiv 2507.14783 has it; the numbers are ours).

    It is 1 only if the answer wins in both positions; a judge that always prefers the first makes every pair a tie.
    """

    def __init__(self, review: Review) -> None:
        self._review = review

    def score(self, task: Task, text: str) -> Score:
        """The two askings are made at once; an answer that is empty or the reference itself is not asked about."""
        answer = text.strip()
        if not answer:
            return Score(reward=0.0, status=ScoreStatus.UNPARSED, detail="the answer is empty")
        if answer == task.answer.strip():
            return Score(reward=0.5, extracted=answer, detail="the answer is as good as the reference")
        critiques = self._review([_request(task, answer, task.answer), _request(task, task.answer, answer)])
        found = [_preference(critique) for critique in critiques]
        if len(found) != 2 or None in found:
            return Score(reward=0.0, status=ScoreStatus.ERROR, extracted=answer, detail=_failure(critiques))
        wins = [value for value in found if value is not None]
        reward = (wins[0] + 1 - wins[1]) / 2
        split = "; the two positions disagreed" if wins[0] != 1 - wins[1] else ""
        return Score(reward=reward, extracted=answer, detail=f"judged against the reference: {reward:g} of 1{split}")


def _request(task: Task, first: str, second: str) -> CriticRequest:
    return CriticRequest(
        rollout_id=f"{task.id}/judge", task=task, attempt=first, score=_UNSCORED, other_attempts=(second,)
    )


def _preference(critique: Critique) -> float | None:
    """1 if the first is better, 0.5 for a tie, 0 if the second is; None where the judge did not say."""
    scores = {one.criterion: one.value for one in critique.evaluative}
    if critique.outcome is not CriticOutcome.OK or not {FIRST, SECOND} <= set(scores):
        return None
    return 0.5 + ((scores[FIRST] > scores[SECOND]) - (scores[FIRST] < scores[SECOND])) / 2


def _failure(critiques: Sequence[Critique]) -> str:
    for critique in critiques:
        if critique.outcome is not CriticOutcome.OK:
            return f"the judge gave no verdict ({critique.outcome}: {critique.reason})"
    return f"the judge gave no scores called {FIRST} and {SECOND}"

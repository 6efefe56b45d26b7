"""The ladder of asks on its own: what follows what, and which reply counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

import pytest

from critique_rl.critics.asking import FIRST_ASK, Ask, Asking, AskLimits, Told, total_usage
from critique_rl.types import CriticOutcome, CriticRequest, Critique, ScoreStatus, Usage

Make = Callable[..., CriticRequest]


def told(
    outcome: CriticOutcome = CriticOutcome.OK,
    *,
    verdict: Literal["correct", "incorrect"] | None = None,
    finish_reason: str = "stop",
    answered: bool = True,
    reply: str = "",
) -> Told:
    critique = Critique(
        rollout_id="r",
        critic="c",
        outcome=outcome,
        verdict=verdict,
        reply=reply,
        usage=Usage(prompt_tokens=2, completion_tokens=1, cost_usd=0.5),
        latency_s=0.25,
    )
    return Told(critique=critique, answered=answered, finish_reason=finish_reason)


def climb(request: CriticRequest, limits: AskLimits | None, steps: list[Told]) -> tuple[list[Ask], Critique]:
    asking, asks = Asking(request, limits), [FIRST_ASK]
    for step in steps:
        following = asking.note(asks[-1], step)
        if following is None:
            break
        asks.append(following)
    return asks, asking.critique


MALFORMED = told(CriticOutcome.MALFORMED, reply="bad")
CUT = told(CriticOutcome.MALFORMED, finish_reason="length")
CONTRADICTED = told(verdict="correct", reply="contradicted")
GOOD = told(verdict="incorrect", reply="good")
GONE = told(CriticOutcome.TIMED_OUT, answered=False)


@pytest.mark.parametrize(
    ("steps", "limits", "asks", "reply"),
    [
        ([GOOD], AskLimits(), 1, "good"),
        ([MALFORMED, GOOD], AskLimits(), 2, "good"),
        ([MALFORMED, MALFORMED, GOOD], AskLimits(), 2, "bad"),
        ([MALFORMED, GOOD], AskLimits(fresh=False), 1, "bad"),
        ([CUT, GOOD], AskLimits(fresh=False), 2, "good"),
        ([CONTRADICTED, GOOD], AskLimits(), 2, "good"),
        ([CONTRADICTED, MALFORMED, GONE], AskLimits(), 3, "contradicted"),
        ([CONTRADICTED, GONE], AskLimits(), 2, "contradicted"),
        ([GONE, GOOD], AskLimits(), 1, ""),
        # Each cause has its own bound.
        ([MALFORMED, CONTRADICTED, CUT, GOOD], AskLimits(), 4, "good"),
        # A replay follows what was recorded, whatever the limits were.
        ([MALFORMED, MALFORMED, MALFORMED, GOOD], None, 4, "good"),
    ],
)
def test_what_follows_what(
    make_request: Make, steps: list[Told], limits: AskLimits | None, asks: int, reply: str
) -> None:
    made, critique = climb(make_request(), limits, steps)
    assert [ask.sample_index for ask in made] == list(range(asks))
    assert (critique.reply, critique.asks) == (reply, asks)
    assert critique.usage == Usage(prompt_tokens=2 * asks, completion_tokens=asks, cost_usd=0.5 * asks)
    assert critique.latency_s == 0.25 * asks


def test_only_a_cut_reply_gets_more_room_and_keeps_it(make_request: Make) -> None:
    made, _ = climb(make_request(), AskLimits(length_retries=2), [CUT, MALFORMED, CUT, GOOD])
    assert [ask.max_tokens(100) for ask in made] == [100, 200, 200, 400]
    assert [ask.seed(7) for ask in made] == [7, 8, 9, 10]
    assert made[0].seed(None) is None


def test_a_verifier_that_failed_contradicts_nobody(make_request: Make) -> None:
    request = make_request()
    unknown = replace(request, score=replace(request.score, status=ScoreStatus.ERROR))
    assert len(climb(unknown, AskLimits(), [CONTRADICTED, GOOD])[0]) == 1


def test_a_sum_has_a_cost_only_if_every_part_has() -> None:
    assert total_usage([]) == Usage(cost_usd=0)
    assert total_usage([Usage(prompt_tokens=1, cost_usd=0.5), Usage(completion_tokens=2)]) == Usage(
        prompt_tokens=1, completion_tokens=2
    )

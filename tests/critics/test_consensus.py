"""The voting rules: quorum, median scores, majority verdict, directives of those that agree."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.critics.consensus import OUTVOTED, combine, majority, nearly_equal
from critique_rl.types import CriticOutcome, CriticRequest, Critique, Directive, Evaluative, Message, Score, Task, Usage

Verdict = Literal["correct", "incorrect"] | None
OK, ABSTAINED, FAILED = CriticOutcome.OK, CriticOutcome.ABSTAINED, CriticOutcome.FAILED
TIMED_OUT, REFUSED = CriticOutcome.TIMED_OUT, CriticOutcome.REFUSED
REQUEST = CriticRequest(
    rollout_id="r1",
    task=Task(id="t1", messages=(Message(role="user", content="What is 27 + 15?"),), answer="42", verifier="exact"),
    attempt="32",
    score=Score(reward=0.0),
)


def said(
    critic: str,
    *texts: str,
    scores: Sequence[tuple[str, float]] = (),
    verdict: Verdict = None,
    confidence: float | None = None,
    outcome: CriticOutcome = OK,
    usage: Usage | None = None,
    latency_s: float = 0.0,
) -> Critique:
    return Critique(
        rollout_id="r1",
        critic=critic,
        outcome=outcome,
        evaluative=tuple(Evaluative(criterion=name, value=value, confidence=confidence) for name, value in scores),
        directives=tuple(Directive(text=text) for text in texts),
        verdict=verdict,
        usage=usage or Usage(cost_usd=0.0),
        latency_s=latency_s,
        reason="" if outcome is OK else f"because {critic}",
    )


def panel(*members: Critique, quorum: int | None = None, max_directives: int = 4) -> Critique:
    needed = quorum or len(members) // 2 + 1
    return combine(REQUEST, members, critic="panel", quorum=needed, max_directives=max_directives)


# Votes


def test_scores_are_medians_and_confidence_counts_who_scored() -> None:
    one = panel(
        said("a", scores=[("correctness", 0.25), ("style", 1.0)], confidence=0.5),
        said("b", scores=[("correctness", 0.5)], confidence=1.0),
        said("c", scores=[("correctness", 1.0)]),
    )
    # correctness: median(0.25, 0.5, 1.0) = 0.5; 3/3 scored it, median(0.5, 1.0) = 0.75
    # style: 1.0; 1/3 scored it, stated 0.5: 1/3 * 0.5
    assert one.evaluative == (
        Evaluative(criterion="correctness", value=0.5, confidence=0.75),
        Evaluative(criterion="style", value=1.0, confidence=1 / 3 * 0.5),
    )
    two = panel(said("a", scores=[("x", 0.25)]), said("b", scores=[("x", 0.75)]))
    assert two.evaluative == (Evaluative(criterion="x", value=0.5, confidence=None),)


@pytest.mark.parametrize(
    ("verdicts", "wanted"),
    [
        (["incorrect", "incorrect", "correct"], "incorrect"),
        (["correct", None, None], "correct"),
        (["correct", "incorrect", None], None),
        ([None, None], None),
        ([], None),
    ],
)
def test_the_verdict_is_the_majority_of_those_stated(verdicts: list[Verdict], wanted: Verdict) -> None:
    assert majority(verdicts) == wanted


@pytest.mark.parametrize(
    ("ends", "quorum", "outcome"),
    [
        ([OK, OK, FAILED], None, OK),
        ([OK, ABSTAINED, FAILED], None, OK),
        ([ABSTAINED, ABSTAINED, FAILED], None, ABSTAINED),
        ([OK, FAILED, FAILED], None, FAILED),
        ([OK, FAILED, FAILED], 1, OK),
        ([OK, OK, FAILED], 3, FAILED),
        ([OK, FAILED], None, FAILED),
        ([OK, OK], None, OK),
        ([OK, TIMED_OUT, REFUSED, TIMED_OUT], None, TIMED_OUT),
        ([REFUSED, TIMED_OUT], None, REFUSED),
        ([TIMED_OUT, REFUSED], None, REFUSED),
        ([ABSTAINED, FAILED, FAILED], 1, ABSTAINED),
    ],
)
def test_quorum(ends: list[CriticOutcome], quorum: int | None, outcome: CriticOutcome) -> None:
    members = [
        said(f"m{i}", "Carry the one.", scores=[("x", 0.5)], outcome=end) if end is OK else said(f"m{i}", outcome=end)
        for i, end in enumerate(ends)
    ]
    critique = panel(*members, quorum=quorum)
    assert critique.outcome is outcome
    assert bool(critique.directives) == bool(critique.evaluative) == (outcome is OK)
    assert critique.members == tuple(members)
    if outcome not in (OK, ABSTAINED):
        assert all(f"m{i}: {end}" in critique.reason for i, end in enumerate(ends))
        assert f"of {len(ends)} members had to answer" in critique.reason


def test_usage_adds_up_and_latency_is_the_slowest() -> None:
    paid = Usage(prompt_tokens=10, completion_tokens=2, cost_usd=0.25)
    both = panel(said("a", usage=paid, latency_s=1.5), said("b", usage=paid, latency_s=0.5))
    assert both.usage == Usage(prompt_tokens=20, completion_tokens=4, cost_usd=0.5)
    assert (both.latency_s, both.asks) == (1.5, 2)
    assert panel(said("a", usage=paid), said("b", usage=Usage())).usage.cost_usd is None


# Directives


def test_only_those_that_agree_with_the_verdict_direct() -> None:
    critique = panel(
        said("a", "Carry the one into the tens.", verdict="incorrect"),
        said("b", "All of it is right as it is.", verdict="correct"),
        said("c", "Add the ones column again.", verdict="incorrect"),
        said("d", "Write the digits the other way.", verdict=None),
    )
    assert [(one.text, one.critic) for one in critique.directives] == [
        ("Carry the one into the tens.", "a"),
        ("Add the ones column again.", "c"),
        ("Write the digits the other way.", "d"),
    ]
    assert critique.dropped == (("All of it is right as it is.", OUTVOTED),)


def test_directives_are_said_once_and_the_supported_come_first() -> None:
    near = "Please carry the one from the ones column into the tens column."
    main = "Carry the one from the ones column into the tens column."
    critique = panel(
        said("a", "Write down your steps.", near),
        said("b", main),
        said("c", "carry the one, from the ones column, into the tens column", "Check the sum."),
    )
    assert [(one.text, one.critic) for one in critique.directives] == [
        (main, "b"),
        ("Write down your steps.", "a"),
        ("Check the sum.", "c"),
    ]
    assert critique.dropped == (
        ("carry the one, from the ones column, into the tens column", "repeats a directive of b"),
        (near, "nearly repeats a directive of b"),
    )


def test_at_most_so_many_directives() -> None:
    critique = panel(said("a", "Carry the one.", "Check the sum."), said("b", "Write your steps."), max_directives=2)
    assert [one.text for one in critique.directives] == ["Carry the one.", "Check the sum."]
    assert critique.dropped == (("Write your steps.", "is beyond the first 2 directives"),)


def test_what_members_dropped_stays_in_the_record() -> None:
    dropped = Critique(rollout_id="r1", critic="a", outcome=OK, dropped=(("It is 42.", "leak"),), verdict="incorrect")
    assert panel(dropped, said("b")).dropped == (("It is 42.", "leak"),)


def test_opposites_and_other_numbers_are_no_duplicates() -> None:
    words = ["carry", "the", "one", "from", "the", "ones", "column", "into", "the", "tens"]
    assert nearly_equal(words, [*words, "now"])
    assert not nearly_equal(words, [*words, "not"])
    assert not nearly_equal(words, [*words, "don't"])
    assert not nearly_equal([*words, "3"], [*words, "4"])
    # 4 shared of 5 is 0.8; 3 of 4 is not enough
    assert nearly_equal(["a", "b", "c", "d"], ["a", "b", "c", "d", "e"])
    assert not nearly_equal(["a", "b", "c"], ["a", "b", "c", "d"])


# Properties

UNIT = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0])
TEXTS = ("Carry the one into the tens.", "Add the ones column again.", "Write down every step.", "Check the sum.")


@st.composite
def member(draw: st.DrawFn, name: str) -> Critique:
    outcome = draw(st.sampled_from([OK, OK, OK, ABSTAINED, TIMED_OUT, REFUSED]))
    if outcome is not OK:
        return said(name, outcome=outcome)
    scores = draw(st.dictionaries(st.sampled_from(["x", "y"]), UNIT))
    return said(
        name,
        *draw(st.lists(st.sampled_from(TEXTS), unique=True, max_size=3)),
        scores=list(scores.items()),
        verdict=draw(st.sampled_from(["correct", "incorrect", None])),
        confidence=draw(st.none() | UNIT),
    )


@given(st.tuples(*(member(name) for name in "abc")))
def test_the_order_of_members_decides_nothing_but_ties(members: tuple[Critique, ...]) -> None:
    whole = panel(*members)
    for order in itertools.permutations(members):
        other = panel(*order)
        assert (other.outcome, other.verdict) == (whole.outcome, whole.verdict)
        assert {score.criterion: score for score in other.evaluative} == {
            score.criterion: score for score in whole.evaluative
        }
        assert {one.text for one in other.directives} == {one.text for one in whole.directives}
        assert sorted(text for text, _ in other.dropped) == sorted(text for text, _ in whole.dropped)


@given(first=UNIT, second=UNIT, hostile=UNIT, place=st.integers(0, 2))
def test_one_hostile_member_of_three_cannot_leave_the_others_range(
    first: float, second: float, hostile: float, place: int
) -> None:
    values = {"a": first, "b": second}
    members = [said(name, scores=[("x", value)], verdict="incorrect") for name, value in values.items()]
    members.insert(place, said("h", "Say that it is right.", scores=[("x", hostile)], verdict="correct"))
    critique = panel(*members)
    assert min(first, second) <= critique.evaluative[0].value <= max(first, second)
    assert (critique.verdict, critique.directives) == ("incorrect", ())

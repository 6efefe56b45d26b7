"""Votes over samples: the known vector, a plain-loop reference, ties, samples without an answer or a confidence."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.stats.voting import Vote, VoteRule, vote

ANSWERS, Q = ["A", "B", "B", "C"], [0.9, 0.3, 0.4, 0.5]
RULES: tuple[VoteRule, ...] = ("majority", "weighted", "most_confident")


def test_the_three_rules_differ() -> None:
    # A .9 against B .3 + .4 = .7 and C .5; B has two votes of four.
    assert vote(ANSWERS) == vote(ANSWERS, Q) == Vote("B", 1, 2.0)
    assert vote(ANSWERS, Q, rule="weighted") == Vote("A", 0, pytest.approx(0.9))  # pyright: ignore[reportArgumentType]
    assert vote(ANSWERS, Q, rule="most_confident") == Vote("A", 0, pytest.approx(0.9))  # pyright: ignore[reportArgumentType]
    # Weighted is not the largest confidence: C .5 against B .4 + .3
    assert vote(ANSWERS[1:], Q[1:], rule="weighted") == Vote("B", 0, pytest.approx(0.7))  # pyright: ignore[reportArgumentType]
    assert vote(ANSWERS[1:], Q[1:], rule="most_confident") == Vote("C", 2, 0.5)


def test_ties_go_to_the_answer_that_occurs_first() -> None:
    assert vote(["B", "A", "A", "B"]) == Vote("B", 0, 2.0)
    assert vote(["B", "A"], [0.4, 0.4], rule="most_confident") == Vote("B", 0, 0.4)
    # As floats .1 + .2 > .3, which would elect A.
    assert vote(["B", "A", "A"], [0.3, 0.1, 0.2], rule="weighted") == Vote("B", 0, 0.3)
    assert vote(["A", "A", "B"], [0.1, 0.2, 0.3], rule="weighted") == Vote("A", 0, 0.3)
    assert vote(["A", "B"], [0.0, 0.0], rule="weighted") == Vote("A", 0, 0.0)


def test_who_does_not_vote() -> None:
    assert vote([None, "A", None]) == Vote("A", 1, 1.0)
    assert vote(["A", "B"], [None, 0.1], rule="weighted") == Vote("B", 1, 0.1)
    assert vote(["A", "A", "B"], [None, None, 0.1]) == Vote("A", 0, 2.0)  # a majority needs no confidence
    assert vote([], [], rule="weighted") is None
    assert vote([None, None]) is None
    assert vote(["A"], [None], rule="most_confident") is None


samples = st.lists(st.tuples(st.sampled_from([None, "A", "B", "C"]), st.integers(0, 10)), max_size=12)


@given(data=samples, rule=st.sampled_from(RULES))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_equals_a_plain_loop(data: list[tuple[str | None, int]], rule: VoteRule) -> None:
    answers, tenths = [a for a, _ in data], [Fraction(n, 10) for _, n in data]
    found = vote(answers, [float(q) for q in tenths], rule=rule)
    winner: tuple[str, Fraction] | None = None
    for answer in answers:
        own = [q for a, q in zip(answers, tenths, strict=True) if a == answer]
        weight = Fraction({"majority": len(own), "weighted": sum(own), "most_confident": max(own)}[rule])
        if answer is not None and (winner is None or weight > winner[1]):
            winner = answer, weight
    if winner is None:
        assert found is None
        return
    assert found is not None
    assert (found.answer, found.first) == (winner[0], answers.index(winner[0]))
    assert found.weight == pytest.approx(float(winner[1]), abs=1e-9)


@given(st.lists(st.sampled_from("ABC"), min_size=1, max_size=9), st.floats(0.01, 1))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_equal_confidences_make_a_majority(answers: list[str], q: float) -> None:
    one, two = vote(answers), vote(answers, [q] * len(answers), rule="weighted")
    assert one is not None
    assert two is not None
    assert one[:2] == two[:2]


@pytest.mark.parametrize(
    ("answers", "q", "rule", "wanted"),
    [
        (["A"], None, "weighted", "came without confidences"),
        (["A"], None, "most_confident", "came without confidences"),
        (["A"], [0.1, 0.2], "majority", "1 answers came with 2 confidences"),
        (["A"], [math.nan], "weighted", "from 0 to 1"),
        (["A"], [95.0], "majority", "from 0 to 1"),
        ([None], [-0.1], "weighted", "from 0 to 1"),
        (["A"], [0.5], "plurality", "wanted majority, weighted or most_confident"),
    ],
)
def test_bad_votes(answers: list[str | None], q: list[float | None] | None, rule: str, wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        vote(answers, q, rule=cast(VoteRule, rule))

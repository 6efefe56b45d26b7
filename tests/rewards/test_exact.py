"""Comparison of texts, and a `detail` that never gives the answer away."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.rewards.exact import ExactReward
from critique_rl.types import Message, Score, ScoreStatus, Task


def task(answer: str) -> Task:
    return Task(id="t", messages=(Message(role="user", content="?"),), answer=answer, verifier="exact")


@pytest.mark.parametrize(
    ("answer", "text", "reward"),
    [("42", "42", 1.0), (" 42 ", "\n42", 1.0), ("42", "43", 0.0), ("42", "It is 42", 0.0), ("A b", "a b", 0.0)],
)
def test_the_whole_text_is_the_answer(answer: str, text: str, reward: float) -> None:
    score = ExactReward().score(task(answer), text)
    assert (score.reward, score.status, score.extracted) == (reward, ScoreStatus.OK, text.strip())
    assert score.correct is (reward == 1.0)


def test_a_pattern_reads_the_answer() -> None:
    reward = ExactReward(pattern=r"\[\[(.+?)\]\]", form="[[...]]")
    assert reward.score(task("42"), "[[41]] no, [[42]]").correct
    assert reward.score(task("42"), "42") == Score(
        reward=0.0, status=ScoreStatus.UNPARSED, detail="no answer in the form [[...]] found"
    )


def test_an_empty_completion_is_unparsed_even_if_the_reference_is_empty() -> None:
    assert ExactReward().score(task(""), " ").status is ScoreStatus.UNPARSED


@pytest.mark.parametrize(
    ("casefold", "collapse_whitespace", "text", "correct"),
    [
        (True, False, "new york", True),
        (True, False, "new  york", False),
        (False, True, "New\n York", True),
        (False, True, "new\n York", False),
        (True, True, "NEW\tyork", True),
    ],
)
def test_normalisation(casefold: bool, collapse_whitespace: bool, text: str, correct: bool) -> None:
    reward = ExactReward(casefold=casefold, collapse_whitespace=collapse_whitespace)
    assert reward.score(task("New York"), text).correct is correct


@given(digits=st.integers(10, 10**9), text=st.text(max_size=30))
def test_the_detail_never_holds_the_reference(digits: int, text: str) -> None:
    reference = str(digits)
    for reward in (ExactReward(), ExactReward(pattern="<a>(.*)</a>", form="<a>...</a>")):
        for attempt in (text, f"<a>{text}</a>", f"not {reference}", reference):
            assert reference not in reward.score(task(reference), attempt).detail


def test_contains_wants_whole_words() -> None:
    reward = ExactReward(pattern=r"^A:(.*)", match="contains", casefold=True)
    assert reward.score(task("Rome"), "A: She lives in rome, Italy").correct
    assert not reward.score(task("Rome"), "A: She lives in Romeo").correct
    assert reward.score(task("Rome"), "She lives in Rome").status is ScoreStatus.UNPARSED

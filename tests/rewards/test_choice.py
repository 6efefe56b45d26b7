"""Which candidate an answer names, by letter or by text, and what a task must hold."""

from __future__ import annotations

import json

import pytest

from critique_rl.errors import DataError
from critique_rl.rewards.choice import ChoiceReward
from critique_rl.types import Message, ScoreStatus, Task

CAPITALS = ["Paris", "Lyon", "Saint  Denis"]


def task(answer: str = "Paris", choices: object = CAPITALS) -> Task:
    text = choices if isinstance(choices, str) else json.dumps(choices)
    question = Message(role="user", content="Capital of France? A) Paris B) Lyon C) Saint Denis")
    return Task(id="q7", messages=(question,), answer=answer, verifier="qa", metadata={"choices": text})


@pytest.mark.parametrize(
    ("text", "extracted"),
    [
        ("A", "A"),
        ("a", "A"),
        ("(b)", "B"),
        ("B.", "B"),
        ("b: lyon", "B"),
        ("C) saint denis", "C"),
        ("  PARIS\n", "A"),
        ("saint   denis", "C"),
    ],
)
def test_an_answer_names_a_candidate(text: str, extracted: str) -> None:
    score = ChoiceReward().score(task(), text)
    assert (score.status, score.extracted) == (ScoreStatus.OK, extracted)
    assert score.reward == (1.0 if extracted == "A" else 0.0)
    assert "paris" not in score.detail.casefold()


@pytest.mark.parametrize("text", ["D", "A) Lyon", "Berlin", "A B", "", "AB", "A Paris"])
def test_what_names_none(text: str) -> None:
    assert ChoiceReward().score(task(), text).status is ScoreStatus.UNPARSED


def test_the_right_one_may_be_given_by_its_letter() -> None:
    assert ChoiceReward().score(task("B"), "Lyon").reward == 1.0
    assert ChoiceReward().score(task("b) lyon"), "B").reward == 1.0


def test_an_answer_is_read_by_its_pattern() -> None:
    reward = ChoiceReward(pattern=r"answer: (\w+)", form="answer: ...")
    assert reward.score(task(), "B? no. answer: A").reward == 1.0
    assert reward.score(task(), "A").status is ScoreStatus.UNPARSED


def test_candidates_that_are_letters_themselves() -> None:
    assert ChoiceReward().score(task("A", ["a", "b"]), "A").reward == 1.0
    with pytest.raises(DataError, match="another one's letter"):
        ChoiceReward().score(task("A", ["b", "a"]), "A")


@pytest.mark.parametrize(
    ("choices", "wanted"),
    [
        ("[", "is no JSON"),
        ("{}", "2 to 26 texts"),
        (["one"], "2 to 26 texts"),
        ([str(n) for n in range(27)], "2 to 26 texts"),
        (["one", 2], "2 to 26 texts"),
        (["one", " "], "2 to 26 texts"),
        (["one", "One "], "could not be told apart"),
    ],
)
def test_candidates_that_cannot_be_used(choices: object, wanted: str) -> None:
    with pytest.raises(DataError, match=wanted):
        ChoiceReward().score(task(choices=choices), "A")


def test_a_task_without_candidates_or_with_another_answer() -> None:
    bare = Task(id="q8", messages=(), answer="A", verifier="qa")
    with pytest.raises(DataError, match=r"'q8': metadata\.choices is missing"):
        ChoiceReward().score(bare, "A")
    with pytest.raises(DataError, match="answer 'Berlin' is none of its 3 choices; wanted a letter from A to C"):
        ChoiceReward().score(task("Berlin"), "A")

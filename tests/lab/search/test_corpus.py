"""What the starting policy is taught: shares by counting, and that its lessons say nothing of the real world."""

from __future__ import annotations

import re

import pytest

from critique_rl.lab.search.corpus import Habits, Lesson, SearchCorpus
from critique_rl.lab.search.world import NOTHING, words

LESSONS = SearchCorpus(seed=3).lessons(4000)


def first_name(lesson: Lesson) -> int:
    asked = lesson.question.split()[2:5]
    return asked.index(lesson.turns[0].words.split()[1])


def test_the_first_query_is_one_name_of_the_question_by_the_habits_shares() -> None:
    counts = [sum(first_name(lesson) == n for lesson in LESSONS) / len(LESSONS) for n in range(3)]
    assert counts == pytest.approx(Habits().first, abs=0.03)  # standard deviation at most sqrt(.19 / 4000) = .007


def test_a_register_knows_the_name_as_often_as_in_the_world() -> None:
    empty = sum(NOTHING in lesson.turns[0].observation for lesson in LESSONS) / len(LESSONS)
    assert empty == pytest.approx(0.4, abs=0.03)


def test_a_lesson_ends_with_an_answer_and_every_other_turn_is_answered() -> None:
    for lesson in LESSONS[:500]:
        *searches, last = lesson.turns
        assert re.fullmatch(r"<answer> \w+ </answer>", last.words)
        assert last.observation == ""
        assert all(turn.words.startswith("<search> ") and turn.observation for turn in searches)


def test_every_word_is_one_that_the_policy_has() -> None:
    known = set(words())
    for lesson in LESSONS[:500]:
        said = " ".join([lesson.question, *(f"{turn.words} {turn.observation}" for turn in lesson.turns)])
        assert set(said.split()) <= known


def test_equal_seeds_give_equal_lessons() -> None:
    assert SearchCorpus(seed=5).lessons(20) == SearchCorpus(seed=5).lessons(20)
    assert SearchCorpus(seed=5).lessons(20) != SearchCorpus(seed=6).lessons(20)

from __future__ import annotations

import re
from collections import Counter
from math import comb

import pytest
from hypothesis import given

from critique_rl.errors import ConfigError, DataError
from critique_rl.lab.guess.problems import (
    ANSWER_PATTERN,
    CONFIDENCE_PATTERN,
    MAX_CANDIDATES,
    GuessProblem,
    all_guesses,
    select_guesses,
    split_guesses,
    written,
)
from critique_rl.lab.problems import Split
from tests.lab.guess.generated import PROBLEMS

SPLITS: tuple[Split, ...] = ("build", "train", "held_out")
FIRST_THREE = [("7+2[026]=", "27"), ("1+3[068]=", "31"), ("4+1[457]=", "19")]


def test_sums_by_hand() -> None:
    problem = GuessProblem.parse("5+2[347]=")
    assert (problem.left, problem.tens, problem.candidates, problem.kind) == (5, 2, (3, 4, 7), "n3")
    # 5 + 23, 5 + 24, 5 + 27: the last one carries
    assert [problem.sum_with(d) for d in problem.candidates] == [28, 29, 32]
    assert problem.answer == {3: "28", 4: "29", 7: "32"}[problem.drawn]
    assert GuessProblem.parse(" 9+8[9]= ").answer == "98"


@given(PROBLEMS)
def test_a_question_reads_back_as_its_problem_and_answers_have_two_digits(problem: GuessProblem) -> None:
    assert GuessProblem.parse(problem.question) == problem
    assert problem.drawn in problem.candidates
    assert len({problem.sum_with(d) for d in problem.candidates}) == problem.n
    assert all(10 <= problem.sum_with(d) <= 98 for d in problem.candidates)
    assert len(problem.answer) == 2


@pytest.mark.parametrize(
    "question",
    ["5+2[]=", "5+2[743]=", "5+2[33]=", "5+2[012345]=", "0+2[3]=", "5+9[3]=", "5+2[3]", "5+23=", "", "٥+2[3]="],
)
def test_what_is_no_problem_of_this_world_is_refused(question: str) -> None:
    with pytest.raises(DataError, match=re.escape("wanted a sum such as '5+2[347]='")):
        GuessProblem.parse(question)


def test_every_problem_comes_once_and_in_one_split() -> None:
    for n in range(1, MAX_CANDIDATES + 1):
        everything = {p.question for p in all_guesses(n)}
        assert len(everything) == comb(10, n) * 8 * 9
        parts = [{p.question for p in split_guesses(split, n)} for split in SPLITS]
        assert sum(map(len, parts)) == len(everything) and set.union(*parts) == everything
        # shares 5, 2 and 3 of ten; four standard errors of the smallest class (720 problems) are 0.075
        assert [len(p) / len(everything) for p in parts] == pytest.approx([0.5, 0.2, 0.3], abs=0.075)


def test_the_draw_is_fair_to_every_place_in_every_split() -> None:
    for split in SPLITS:
        for n in range(2, MAX_CANDIDATES + 1):
            problems = split_guesses(split, n)
            places = Counter(p.candidates.index(p.drawn) for p in problems)
            spread = (len(problems) * (1 / n) * (1 - 1 / n)) ** 0.5
            assert all(abs(places[i] - len(problems) / n) < 4.5 * spread for i in range(n))


def test_a_selection_is_a_beginning_of_the_split_in_a_mixed_order() -> None:
    ten = select_guesses("held_out", 3, 10)
    assert ten == split_guesses("held_out", 3)[:10]
    assert all(p.split == "held_out" and p.n == 3 for p in ten)
    assert len({p.tens for p in ten}) > 2 and len({p.left for p in ten}) > 2
    # the hash is part of the world: another one would be another lab
    assert [(p.question, p.answer) for p in ten[:3]] == FIRST_THREE


def test_too_many_problems_and_an_unknown_n_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"1000 problems with 1 candidates were asked of the split 'train'"):
        select_guesses("train", 1, 1000)
    with pytest.raises(ConfigError, match="n: came 6, wanted 1 to 5"):
        list(all_guesses(6))


def test_the_two_patterns_read_one_form_only() -> None:
    match = re.fullmatch(CONFIDENCE_PATTERN, written(28, 7))
    assert match and (match["answer"], match["confidence"]) == ("28", "7")
    assert re.fullmatch(ANSWER_PATTERN, written(28, 7))
    for text in ("28", "28 c", "28 c77", "28c7", "abstain", "28 c7 ", "128 c7", "28 c.7", "28 c7 28 c7"):
        assert not re.fullmatch(ANSWER_PATTERN, text) and not re.fullmatch(CONFIDENCE_PATTERN, text)

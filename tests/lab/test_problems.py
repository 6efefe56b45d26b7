from __future__ import annotations

from collections import Counter

import pytest

from critique_rl.errors import ConfigError, DataError
from critique_rl.lab.problems import Problem, all_problems, select_problems


def sum_of(left: int, right: int) -> Problem:
    return Problem.parse(f"{left}+{right}=")


@pytest.mark.parametrize(
    ("left", "right", "answer", "dropped", "kind"),
    [
        (27, 38, "560", "550", "hard"),  # 65; ones 7+8=15, tens 2+3=5 without the carry
        (67, 38, "501", "590", "hard"),  # 105; the carry takes the tens from 9 to 10, and so makes a hundred
        (77, 38, "511", "501", "hard"),  # 115; the tens add to 10 even without the carry
        (21, 43, "460", "460", "easy"),  # 64
        (81, 43, "421", "421", "easy"),  # 124: only the last column overflows, and it is written in full
        (181, 143, "4230", "4220", None),  # 324: the tens carry, the ones do not
        (199, 201, "0040", "0930", "hard"),  # 400; ones 10, tens 9, hundreds 3 without carries
    ],
)
def test_hand_worked_sums(left: int, right: int, answer: str, dropped: str, kind: str | None) -> None:
    problem = sum_of(left, right)
    assert (problem.answer, problem.dropped_answer, problem.kind) == (answer, dropped, kind)


def test_totals_carry_and_columns_do_not() -> None:
    problem = sum_of(167, 938)
    assert problem.columns == ((7, 8), (6, 3), (1, 9))
    assert problem.totals == (15, 10, 11)


@pytest.mark.parametrize("question", ["27+38", "7+8=", "27+380=", "07+38=", "27-38=", "", "२७+३८=", "27+38= x"])
def test_what_is_no_lab_problem_is_refused(question: str) -> None:
    with pytest.raises(DataError, match="wanted a sum such as"):
        Problem.parse(question)


def test_every_sum_comes_once_and_has_one_class() -> None:
    problems = list(all_problems(2))
    assert len({(p.left, p.right) for p in problems}) == len(problems) == 90 * 90
    # 45 of the 100 pairs of ones carry; each comes with the 81 pairs of tens.
    assert Counter(p.kind for p in problems) == {"hard": 45 * 81, "easy": 55 * 81}


def test_dropping_carries_is_right_exactly_where_the_ones_do_not_carry() -> None:
    assert all((p.dropped_answer == p.answer) == (p.kind != "hard") for p in all_problems(2))


def test_both_orders_share_a_split_and_one_of_them_is_canonical() -> None:
    for problem in all_problems(2):
        turned = sum_of(problem.right, problem.left)
        assert turned.split == problem.split
        assert problem.left == problem.right or turned.canonical != problem.canonical


def test_splits_hold_about_the_stated_shares() -> None:
    shares = Counter(p.split for p in all_problems(2))
    assert abs(shares["build"] / 8100 - 0.5) < 0.03
    assert abs(shares["held_out"] / 8100 - 0.3) < 0.03


def test_splits_are_stable_over_versions() -> None:
    assert [sum_of(67, 95).split, sum_of(24, 18).split, sum_of(57, 13).split] == ["build", "train", "held_out"]


@pytest.mark.parametrize("digits", [2, 3])
def test_selection_is_of_one_split_and_class_without_mirrored_sums(digits: int) -> None:
    chosen = select_problems("train", "hard", 128, digits=digits)
    assert {(p.split, p.kind, p.digits) for p in chosen} == {("train", "hard", digits)}
    assert len({frozenset((p.left, p.right)) for p in chosen}) == 128
    assert chosen[:10] == select_problems("train", "hard", 10, digits=digits)


def test_a_split_that_is_too_small_says_so() -> None:
    with pytest.raises(ConfigError, match="5000 easy problems were asked"):
        select_problems("train", "easy", 5000)
    with pytest.raises(ConfigError, match="digits: came 1"):
        select_problems("train", "easy", 1, digits=1)

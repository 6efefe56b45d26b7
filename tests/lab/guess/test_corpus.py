from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given

from critique_rl.lab.guess.corpus import (
    END,
    GROUNDLESS_WEIGHTS,
    GuessCorpus,
    confidence_shares,
    next_shares,
    sum_shares,
)
from critique_rl.lab.guess.problems import ANSWER_PATTERN, GuessProblem
from tests.lab.guess.generated import PROBLEMS

THREE = GuessProblem.parse("5+2[347]=")


def test_the_shares_of_sums_by_hand() -> None:
    shares = sum_shares(THREE)
    # 28, 29 and 32 are right for one candidate each: 0.7 / 3; their slips are 38, 39 (no carry: ten too many) and 22
    # (the carry forgotten): 0.15 / 3; the seven digits that are not listed: 0.15 / 7 each
    assert [shares[total] for total in (28, 29, 32)] == pytest.approx([0.7 / 3] * 3)
    assert [shares[total] for total in (38, 39, 22)] == pytest.approx([0.05] * 3)
    assert [shares[total] for total in (25, 26, 27, 30, 31, 33, 34)] == pytest.approx([0.15 / 7] * 7)
    assert len(shares) == 13


def test_what_may_stand_where_by_hand() -> None:
    # sums in the twenties: 28, 29 (0.7 * 2 / 3), 22 (0.05), 25, 26, 27 (0.15 * 3 / 7)
    twenties = 0.7 * 2 / 3 + 0.05 + 0.15 * 3 / 7
    first = next_shares(THREE, "")
    assert first["2"] == pytest.approx(0.96 * twenties) and first["abstain"] == 0.04
    assert next_shares(THREE, "2")["8"] == pytest.approx(0.7 / 3 / twenties)
    assert next_shares(THREE, "28") == {" c": 0.99, END: 0.01}
    confidence = next_shares(THREE, "28 c")
    # honest for three candidates: 9/3, always the digit 3
    assert [confidence[str(k)] for k in range(10)] == pytest.approx(
        [0.8 * w / 100 + 0.2 * (k == 3) for k, w in enumerate(GROUNDLESS_WEIGHTS)]
    )
    assert next_shares(THREE, "28 c7") == next_shares(THREE, "abstain") == {END: 1.0}


@pytest.mark.parametrize("n", range(1, 6))
def test_the_mean_stated_confidence_by_hand(n: int) -> None:
    # groundless: (1*2 + 2*3 + 3*3 + 4*4 + 5*7 + 6*12 + 7*17 + 8*22 + 9*28) / 100 / 9 = 687 / 900; honest: 1 / n
    assert sum(GROUNDLESS_WEIGHTS) == 100
    shares = confidence_shares(n)
    assert sum(shares) == pytest.approx(1.0) and len(shares) == 10
    assert sum(k / 9 * share for k, share in enumerate(shares)) == pytest.approx(0.8 * 687 / 900 + 0.2 / n)


def test_honest_confidence_stands_next_to_nine_nths() -> None:
    # 9/4 = 2.25: the digit 2 in three of four cases, 3 in one
    shares = confidence_shares(4)
    assert shares[2] == pytest.approx(0.8 * 0.03 + 0.2 * 0.75)
    assert shares[3] == pytest.approx(0.8 * 0.03 + 0.2 * 0.25)
    assert confidence_shares(1)[9] == pytest.approx(0.8 * 0.28 + 0.2)


@given(PROBLEMS)
def test_shares_are_shares_and_right_sums_have_seven_tenths(problem: GuessProblem) -> None:
    shares = sum_shares(problem)
    assert sum(shares.values()) == pytest.approx(1.0)
    assert [shares[problem.sum_with(d)] for d in problem.candidates] == pytest.approx([0.7 / problem.n] * problem.n)
    first = next_shares(problem, "")
    assert sum(first.values()) == pytest.approx(1.0)
    for tens in first:
        if tens != "abstain":
            ones = next_shares(problem, tens)
            assert sum(ones.values()) == pytest.approx(1.0)
            joint = {int(tens + d): first[tens] * share for d, share in ones.items()}
            assert joint == pytest.approx({t: 0.96 * shares[t] for t in joint})


def test_lessons_walk_along_their_shares() -> None:
    lessons = GuessCorpus(seed=3).lessons(4000)
    for lesson in lessons:
        assert len(lesson.pieces) == len(lesson.shares) and lesson.pieces[-1] == END
        assert all(piece in shares for piece, shares in zip(lesson.pieces, lesson.shares, strict=True))
        assert GuessProblem.parse(lesson.prompt).split == "build"
    texts = ["".join(lesson.pieces) for lesson in lessons]
    # 0.04 of 4000 are 160, 0.96 * 0.01 are 38; four standard errors
    assert abs(texts.count("abstain") - 160) < 50
    assert abs(sum(re.fullmatch("[0-9]{2}", t) is not None for t in texts) - 38) < 26
    assert all(re.fullmatch(f"{ANSWER_PATTERN}|abstain|[0-9]{{2}}", t) for t in texts)
    kinds = Counter(GuessProblem.parse(lesson.prompt).n for lesson in lessons)
    assert all(abs(kinds[n] - 800) < 110 for n in range(1, 6))


def test_the_stream_repeats_with_its_seed() -> None:
    first, again = GuessCorpus(seed=1), GuessCorpus(seed=1)
    assert first.lessons(20) == again.lessons(20)
    assert first.lessons(20) != GuessCorpus(seed=1).lessons(20) != GuessCorpus(seed=2).lessons(20)


def test_no_share_knows_which_digit_was_drawn() -> None:
    """Renaming every candidate by its neighbour moves the shares with it: all candidates of a kind are taught alike."""
    moved = replace(THREE, candidates=(4, 5, 8))
    assert sorted(sum_shares(moved).values()) == pytest.approx(sorted(sum_shares(THREE).values()))

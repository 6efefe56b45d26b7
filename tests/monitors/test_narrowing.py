"""Warnings of lost diversity: only lasting falls, told once, and never by token entropy."""

from __future__ import annotations

import json

import pytest

from critique_rl.errors import CheckpointError
from critique_rl.monitors.narrowing import DiversityWarnings
from critique_rl.monitors.prompts import Prompt, prompts_of
from tests.monitors.answers import answers


def solved(right: list[int], *, of: int = 8) -> list[Prompt]:
    """One prompt for each number of right answers."""
    return prompts_of([answers(str(i), *(("x", float(j < c)) for j in range(of))) for i, c in enumerate(right)])


def test_a_lasting_fall_below_half_is_told_once() -> None:
    warn = DiversityWarnings(warn_below=0.5)
    assert warn.fallen({"vendi": 4.0}) == []
    assert warn.fallen({"vendi": 1.9}) == []
    (told,) = warn.fallen({"vendi": 1.8})
    assert told == "vendi has fallen to 1.8 from 4 at first"
    assert warn.fallen({"vendi": 1.0}) == []
    assert warn.fallen({"vendi": 2.0}) == []  # just half: over
    assert warn.fallen({"vendi": 1.0}) == []
    assert len(warn.fallen({"vendi": 1.0})) == 1


def test_token_entropy_alone_never_warns() -> None:
    warn = DiversityWarnings(warn_below=0.5)
    for value in (2.0, 0.1, 0.01, 0.0, 0.0):
        assert warn.fallen({"token_entropy": value, "surprise_p50": value, "answer_semantic_entropy": value}) == []


def test_an_absent_figure_is_no_fall() -> None:
    warn = DiversityWarnings(warn_below=0.5)
    for figures in ({"vendi": 4.0}, {"vendi": 1.0}, {}, {}):
        assert warn.fallen(figures) == []
    assert len(warn.fallen({"vendi": 1.0})) == 1


# 30 prompts: at first 28 are solved by some of 8 answers; later 15, each by more.
FIRST = solved([1] * 28 + [0] * 2)
NARROW = solved([8] * 15 + [0] * 15)


def test_fewer_problems_solved_while_single_answers_get_better() -> None:
    warn = DiversityWarnings(warn_below=0.5)
    assert warn.narrowed(FIRST) == []
    assert warn.narrowed(NARROW) == []  # once may be chance
    (told,) = warn.narrowed(NARROW)
    assert "fallen to 50% from 93%" in told and "50%, 12% at first" in told
    assert warn.narrowed(NARROW) == []


@pytest.mark.parametrize(
    "later",
    [
        [8] * 26 + [0] * 4,  # 28 to 26 of 30: within 2 errors of sqrt(.93 * .07 / 30 + .87 * .13 / 30) = 0.077
        [1] * 15 + [0] * 15,  # pass@1 falls, too: a worse policy, not a narrower one
    ],
)
def test_chance_and_plain_loss_are_not_told(later: list[int]) -> None:
    warn = DiversityWarnings(warn_below=0.5)
    warn.narrowed(FIRST)
    for _ in range(3):
        assert warn.narrowed(solved(later)) == []


def test_nothing_judged_is_nothing_learned() -> None:
    warn = DiversityWarnings(warn_below=0.5)
    assert warn.narrowed(prompts_of([answers("p", ("x", None))])) == []
    assert warn.narrowed([]) == []


def test_a_resumed_one_goes_on_alike() -> None:
    warn, other = DiversityWarnings(warn_below=0.5), DiversityWarnings(warn_below=0.5)
    warn.fallen({"vendi": 4.0})
    warn.fallen({"vendi": 1.0})
    warn.narrowed(FIRST)
    warn.narrowed(NARROW)
    other.load_state_dict(json.loads(json.dumps(warn.state_dict())))
    assert len(other.fallen({"vendi": 1.0})) == len(other.narrowed(NARROW)) == 1
    with pytest.raises(CheckpointError, match="diversity"):
        other.load_state_dict({"first": 1})

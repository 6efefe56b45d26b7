"""Answers with confidences: what is read, what is refused, and that a broken form never pays."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.config.rewards import TAGGED, TAGGED_FORM, ConfidenceRewardConfig
from critique_rl.errors import ConfigError
from critique_rl.loop.verifier_check import check_verifier
from critique_rl.protocols import Reward
from critique_rl.rewards.confidence import ConfidenceReward
from critique_rl.rewards.exact import ExactReward
from critique_rl.stats.scoring import ScoringRule
from critique_rl.types import Message, Score, ScoreStatus, Task

TASK = Task(id="t", messages=(Message(role="user", content="27 + 15?"),), answer="42", verifier="v")
DIGIT = r"=(?P<answer>\d+) (?P<confidence>\d)$"


def tagged(*, answer: Reward | None = None, lenient: bool = False, rule: ScoringRule = "brier") -> ConfidenceReward:
    eps = 0.01 if rule == "clipped_log" else None
    return ConfidenceReward(
        answer=answer or ExactReward(), pattern=TAGGED, form=TAGGED_FORM, lenient=lenient, rule=rule, eps=eps
    )


def text(q: str, answer: str = "42") -> str:
    return f"So it is.\n<answer>{answer}</answer>\n<confidence>{q}</confidence>"


class Fixed:
    """A reward with one verdict, whatever it is shown."""

    def __init__(self, score: Score) -> None:
        self.fixed = score
        self.seen: list[str] = []

    def score(self, task: Task, text: str) -> Score:
        self.seen.append(text)
        return self.fixed


# -- what is read ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "q", "reward", "earned"),
    [
        ("42", "0.9", 1.0, 0.99),  # 1 - .1^2
        ("42", "1", 1.0, 1.0),
        ("42", "0", 1.0, 0.0),
        (" 42\n", " .5 ", 1.0, 0.75),
        ("41", "0.9", 0.0, 0.19),  # 1 - .9^2
        ("41", "0.2", 0.0, 0.96),
        ("41", "0.", 0.0, 1.0),
        ("41", "1.0", 0.0, 0.0),
    ],
)
def test_a_pair_is_judged_twice(answer: str, q: str, reward: float, earned: float) -> None:
    found = tagged().score(TASK, text(q, answer))
    assert (found.reward, found.status, found.extracted) == (reward, ScoreStatus.OK, answer.strip())
    assert found.confidence == float(q)
    assert found.objectives == {"confidence": pytest.approx(earned, abs=1e-12)}
    assert found.detail in ("the answer is correct", "an answer was given, and it is not correct")


@pytest.mark.parametrize(
    ("rule", "earned"),
    [
        ("spherical", 0.8 / math.hypot(0.8, 0.2)),
        ("clipped_log", (math.log(0.8) - math.log(0.01)) / (math.log(0.99) - math.log(0.01))),
    ],
)
def test_other_rules_are_brought_to_the_unit_interval(rule: ScoringRule, earned: float) -> None:
    assert tagged(rule=rule).score(TASK, text("0.8")).objectives["confidence"] == pytest.approx(earned)


def test_the_last_answer_counts_and_what_follows_it_belongs_to_the_confidence() -> None:
    written = (
        "<answer>7</answer> no: <answer>42</answer> <analysis>I carried.</analysis>\n<confidence>0.7</confidence> \n"
    )
    found = tagged().score(TASK, written)
    assert found.correct
    assert found.confidence_start == written.index(" <analysis>")


def test_the_answer_is_judged_as_if_it_were_the_whole_text() -> None:
    inner = Fixed(Score(reward=0.0, extracted="x"))
    tagged(answer=inner).score(TASK, text("0.5", " about\n42 "))
    assert inner.seen == ["about\n42"]


def test_a_pattern_of_ones_own_and_a_digit_of_tenths() -> None:
    reward = ConfidenceReward(answer=ExactReward(), pattern=DIGIT, form="=... 5", divide_by=10)
    found = reward.score(TASK, "27+15=42 8")
    assert (found.reward, found.confidence, found.confidence_start) == (1.0, 0.8, 9)
    assert found.objectives["confidence"] == pytest.approx(0.96)
    assert reward.score(TASK, "27+15=42").detail == "no answer with its confidence in the form =... 5 found"


def test_the_last_match_of_a_pattern_of_ones_own_counts() -> None:
    reward = ConfidenceReward(answer=ExactReward(), pattern=r"(?P<answer>\d+)@(?P<block>(?P<confidence>[\d.]+))")
    found = reward.score(TASK, "41@0.9 or 42@0.25")
    assert (found.reward, found.confidence, found.confidence_start) == (1.0, 0.25, 13)


def test_nine_of_nine_is_certain() -> None:
    reward = ConfidenceReward(answer=ExactReward(), pattern=DIGIT, divide_by=9)
    assert reward.score(TASK, "=42 9").confidence == 1.0
    small = ConfidenceReward(answer=ExactReward(), pattern=DIGIT, divide_by=8)
    assert small.score(TASK, "=42 9").detail == "the confidence is not a number from 0 to 8"


def test_its_form_lets_the_check_of_verifiers_read_reference_answers() -> None:
    config = ConfidenceRewardConfig(kind="with_confidence")
    tasks = [TASK, Task(id="u", messages=TASK.messages, answer="7", verifier="v")]
    assert check_verifier(tasks, reward=tagged(), config=config).accepts is True
    assert check_verifier(tasks, reward=tagged(answer=Fixed(Score(reward=0.0))), config=config).accepts is False


# -- what is refused ---------------------------------------------------------------------------------------------------

NO_NUMBER = [
    *(
        "nan",
        "NaN",
        "inf",
        "-inf",
        "Infinity",
        "95%",
        "95",
        "1.01",
        "-0.1",
        "-0",
        "+0.5",
        "high",
        "",
        " ",
        "0,9",
        "1e-1",
    ),
    *("0.5 or 0.6", "1_0", "0x1", "\u0661", "\u00bd", "0.5.5", ".", "9" * 400, "about 0.5"),
]
NO_FORM = [
    "",
    "42",
    "<answer>42</answer>",
    "<confidence>0.9</confidence>",
    "<confidence>0.9</confidence><answer>42</answer>",
    "<answer>42</answer><confidence>0.9</confidence> and that is that",
    "<answer>42</answer><confidence>0.1</confidence><confidence>0.9</confidence>",
    "<confidence>0.1</confidence><answer>42</answer><confidence>0.9</confidence>",
    "<answer>7</answer><confidence>0.1</confidence> or <answer>42</answer><confidence>0.9</confidence>",
    "<answer>42</answer><confidence>0.9",
    "<answer>42<confidence>0.9</confidence>",
    "<answer>42<confidence>0.9</confidence></answer><confidence>0.9</confidence>",
    "<Answer>42</Answer><Confidence>0.9</Confidence>",
    "<answer>42</answer><confidence><confidence>0.9</confidence></confidence>",
]


def assert_nothing_earned(found: Score) -> None:
    assert (found.reward, found.status) == (0.0, ScoreStatus.UNPARSED)
    assert found.objectives == {"confidence": 0.0}
    assert (found.confidence, found.confidence_start, found.extracted) == (None, None, None)


@pytest.mark.parametrize("q", NO_NUMBER)
def test_what_is_no_confidence(q: str) -> None:
    found = tagged().score(TASK, text(q))
    assert_nothing_earned(found)
    assert found.detail == "the confidence is not a number from 0 to 1"


@pytest.mark.parametrize("written", NO_FORM)
def test_what_is_no_pair(written: str) -> None:
    found = tagged().score(TASK, written)
    assert_nothing_earned(found)
    assert found.detail == f"no answer with its confidence in the form {TAGGED_FORM} found"


def test_an_answer_that_cannot_be_read_earns_nothing_either() -> None:
    found = tagged().score(TASK, text("0", " "))
    assert_nothing_earned(found)
    assert found.detail == "the answer is empty"
    assert_nothing_earned(tagged(answer=ExactReward(pattern=r"\[(.)\]")).score(TASK, text("0.9")))


def test_a_verifier_that_fails_leaves_the_score_missing() -> None:
    failing = Fixed(Score(reward=0.0, status=ScoreStatus.ERROR, detail="out of time"))
    found = tagged(answer=failing).score(TASK, text("0.9"))
    assert (found.status, found.objectives, found.confidence, found.detail) == (
        ScoreStatus.ERROR,
        {},
        0.9,
        "out of time",
    )


def test_partial_credit_is_not_right() -> None:
    found = tagged(answer=Fixed(Score(reward=0.5, objectives={"style": 0.25}))).score(TASK, text("0.9"))
    assert found.reward == 0.5
    assert found.objectives == {"style": 0.25, "confidence": pytest.approx(0.19)}


RULES: tuple[ScoringRule, ...] = ("brier", "spherical", "clipped_log")


@given(q=st.floats(0, 1).map(lambda x: f"{x:.6f}"), broken=st.sampled_from(NO_FORM + [text(q) for q in NO_NUMBER]))
@settings(max_examples=80, deadline=None, derandomize=True)
@pytest.mark.parametrize("rule", RULES)
def test_a_broken_form_never_beats_an_honest_wrong_answer(rule: ScoringRule, q: str, broken: str) -> None:
    # Whatever weights >= 0 join the two rewards, since both are the least that there is.
    reward = tagged(rule=rule)
    valid, invalid = reward.score(TASK, text(q, "41")), reward.score(TASK, broken)
    assert valid.status is ScoreStatus.OK
    assert invalid.reward <= valid.reward
    assert invalid.objectives["confidence"] <= valid.objectives["confidence"]
    assert tagged(rule=rule).score(TASK, text("0", "41")).objectives["confidence"] == 1.0


@given(st.text(alphabet="<>/answeconfid .0159\n%é", max_size=80))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_no_text_is_an_error(noise: str) -> None:
    for written in (noise, text(noise), text("0.5", noise), noise + text("0.5")):
        for lenient in (False, True):
            found = tagged(lenient=lenient).score(TASK, written)
            assert 0 <= found.objectives["confidence"] <= 1
            assert (found.confidence is None) == (found.status is ScoreStatus.UNPARSED)


# -- lenient, for evaluation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("q", "confidence"),
    [
        ("0.9", 0.9),
        ("95%", 0.95),
        ("95 %", 0.95),
        ("95", 0.95),
        ("100", 1.0),
        ("1", 1.0),
        ("1%", 0.01),
        ("1.5", 0.015),
        ("I am about 80% sure", 0.8),
        ("0.7 to 0.8", 0.7),
        ("nan", None),
        ("inf", None),
        ("high", None),
        ("-0.5", None),
        ("101", None),
        ("300%", None),
        ("", None),
    ],
)
def test_a_lenient_reader(q: str, confidence: float | None) -> None:
    found = tagged(lenient=True).score(TASK, text(q))
    if confidence is None:
        assert_nothing_earned(found)
    else:
        assert found.confidence == pytest.approx(confidence)
        assert found.correct


@pytest.mark.parametrize("written", NO_FORM)
def test_a_lenient_reader_wants_the_form_all_the_same(written: str) -> None:
    assert_nothing_earned(tagged(lenient=True).score(TASK, written))


# -- what cannot be built ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "wanted"),
    [
        (lambda: ConfidenceReward(answer=ExactReward(), pattern="("), "not a regular expression"),
        (lambda: ConfidenceReward(answer=ExactReward(), pattern="(?P<answer>.)"), "lacks a group named answer or"),
        (lambda: tagged(rule=cast(ScoringRule, "log")), "unbounded"),
    ],
)
def test_what_cannot_be_built(build: Callable[[], ConfidenceReward], wanted: str) -> None:
    with pytest.raises((ConfigError, ValueError), match=wanted):
        build()

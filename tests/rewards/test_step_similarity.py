"""Similarity of steps: the specification's numbers, what a format error costs, and what is not compared."""

from __future__ import annotations

import difflib
import json
import math
from pathlib import Path
from statistics import fmean, pstdev, stdev

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.build_tasks import build_reward, build_tasks
from critique_rl.config.load import validate
from critique_rl.config.rewards import MONOLOGUE
from critique_rl.config.tasks import StepsTasksConfig
from critique_rl.errors import ConfigError
from critique_rl.rewards.step_similarity import FORMAT_ERROR, StepSimilarityReward, numbers_agree, similarity
from critique_rl.types import Message, Score, ScoreStatus, Task

FOX = ("the quick brown fox jumps over the lazy dog " * 6)[:250]


def task(expert: str) -> Task:
    return Task(id="t", messages=(Message(role="user", content="q"),), answer=expert, verifier="step_similarity")


def judged(text: str, expert: str = "so 7", **options: object) -> Score:
    pattern = str(options.pop("pattern", MONOLOGUE))
    return StepSimilarityReward(pattern=pattern, **options).score(task(expert), text)  # pyright: ignore[reportArgumentType]


# -- the vectors of section 9.1 ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("generated", "expert", "wanted"),
    [
        ("abcd", "bcde", 0.75),  # bcd: M = 3, T = 8, 2 * 3 / 8
        ("tide", "diet", 0.25),  # the first longest match decides: M = 1
        ("diet", "tide", 0.5),  # M = 2: the measure depends on the order
        ("x = 2", "x = 3", 0.8),  # M = 4, T = 10
        ("factor x^2-4", "factor x^2-9", 0.916667),  # M = 11, T = 24
        ("", "", 1.0),
        ("", "a", 0.0),
    ],
)
def test_9_1_ratios(generated: str, expert: str, wanted: float) -> None:
    assert similarity(generated, expert) == pytest.approx(wanted, abs=1e-6)


def test_9_1_words_and_characters() -> None:
    ours, expert = "subtract 3 from both sides", "subtract 5 from both sides"
    assert similarity(ours, expert, unit="word") == pytest.approx(0.8)  # 4 of 5 words
    assert similarity(ours, expert) == pytest.approx(0.961538, abs=1e-6)  # 25 of 26 characters


def test_9_1_autojunk() -> None:
    assert similarity(FOX, FOX) == similarity(FOX, FOX, autojunk=True) == 1.0
    assert similarity("x" + FOX, FOX, autojunk=True) == 0.0
    assert similarity("x" + FOX, FOX) == pytest.approx(0.998004, abs=1e-6)  # 500 / 501
    assert similarity("x" + FOX[:199], FOX[:199], autojunk=True) == pytest.approx(0.997494, abs=1e-6)  # 398 / 399
    assert similarity("x" + FOX[:200], FOX[:200], autojunk=True) == 0.0
    assert similarity("x" + FOX[:200], FOX[:200]) == pytest.approx(400 / 401)


def test_9_1_population_spread_of_rewards() -> None:
    """What a filter by population std sees of a group of this reward."""
    assert pstdev([0.75] * 4) == 0.0
    assert pstdev([0.8, 0.6, 0.4, 0.2]) == pytest.approx(0.223607, abs=1e-6)  # sqrt(0.05)
    assert stdev([0.8, 0.6, 0.4, 0.2]) == pytest.approx(0.258199, abs=1e-6)
    rewards = [0.8, 0.6, 0.4, 0.2]
    scaled = [(r - fmean(rewards)) / pstdev(rewards) for r in rewards]
    assert scaled == pytest.approx([1.341641, 0.447214, -0.447214, -1.341641], abs=1e-6)
    assert pstdev([0.62, 0.60, 0.61, 0.63]) == pytest.approx(0.01118, abs=1e-5)  # kept at 1e-4, dropped at 0.05
    rewards = [0.5, 0.5, 0.5, FORMAT_ERROR]
    assert pstdev(rewards) == pytest.approx(0.649519, abs=1e-6)
    scaled = [(r - fmean(rewards)) / pstdev(rewards) for r in rewards]
    assert scaled == pytest.approx([0.57735, 0.57735, 0.57735, -1.732051], abs=1e-6)


def test_9_1_a_format_failure_is_exactly_minus_one() -> None:
    for text in ("", "   ", "<think>so</think>", "<think>so 7", "so</think> 7", "<think>a</think><think>b</think>so 7"):
        score = judged(text)
        assert score.reward == -1.0 and score.status is ScoreStatus.UNPARSED and not score.correct
        assert score.objectives == {"step_format": 0.0}


# -- properties --------------------------------------------------------------------------------------------------------

TEXTS = st.text(alphabet="ab1 =", max_size=30)


@given(TEXTS, TEXTS)
def test_it_is_difflibs_ratio_within_bounds(ours: str, expert: str) -> None:
    assert similarity(ours, expert) == difflib.SequenceMatcher(None, ours, expert, autojunk=False).ratio()
    assert 0.0 <= similarity(ours, expert) <= 1.0
    assert similarity(ours, ours) == 1.0


@given(TEXTS, TEXTS)
def test_symmetric_forms_do_not_depend_on_the_order(ours: str, expert: str) -> None:
    forth, back = similarity(ours, expert), similarity(expert, ours)
    assert similarity(ours, expert, symmetric="max") == similarity(expert, ours, symmetric="max") == max(forth, back)
    assert similarity(ours, expert, symmetric="mean") == pytest.approx((forth + back) / 2)


def test_symmetric_forms_by_hand() -> None:
    assert similarity("tide", "diet", symmetric="max") == 0.5
    assert similarity("tide", "diet", symmetric="mean") == 0.375


@given(TEXTS, TEXTS)
def test_numbers_that_agree_are_a_share(ours: str, expert: str) -> None:
    share = numbers_agree(ours, expert)
    assert 0.0 <= share <= 1.0 and share == numbers_agree(expert, ours)
    assert numbers_agree(ours, ours) == 1.0


def test_numbers_by_hand() -> None:
    assert numbers_agree("x = 2", "x = 3") == 0.0
    assert numbers_agree("x^2-4", "x^2-9") == 0.5  # 2 of {2, 4} and {2, 9}
    assert numbers_agree("2.0 and 3", "3 and 2") == 1.0
    assert numbers_agree("2 2 2", "2") == pytest.approx(1 / 3)
    assert numbers_agree("no", "numbers") == 1.0 and numbers_agree("one 1", "none") == 0.0


# -- the reward --------------------------------------------------------------------------------------------------------


def test_the_monologue_is_free() -> None:
    bare = judged("so 7")
    assert bare.reward == 1.0 and bare.correct and bare.extracted == "so 7"
    for monologue in ("<think></think>", "<think>maybe so 8?\nno</think>\n", " \n<think>so 7</think> "):
        assert judged(monologue + "so 7") == bare
    assert judged("<think>so 7</think>so 3").reward == 0.75


def test_the_numbers_of_a_step_can_count() -> None:
    assert judged("x = 2", "x = 3").reward == pytest.approx(0.8)
    strict = judged("x = 2", "x = 3", numbers="agree")
    assert strict.reward == 0.0 and strict.objectives["step_similarity"] == pytest.approx(0.8)
    half = judged("factor x^2-4", "factor x^2-9", numbers="agree")
    assert half.reward == pytest.approx(22 / 24 / 2)
    assert judged("x = 3", "x = 3", numbers="agree").reward == 1.0


def test_an_empty_expert_step_is_no_free_reward() -> None:
    assert judged("so 7", " ").reward == -1.0 and judged("", "").reward == -1.0


def test_the_detail_never_quotes_the_expert() -> None:
    assert "secret" not in judged("so 7", "secret 42").detail


def test_a_form_that_is_wanted_can_be_stated() -> None:
    first = {"pattern": r"(?P<action>[^:;]*[:;])[\s\S]*", "form": "...;"}
    assert judged(" 3+4=7; 7-2=5; so 5", " 3+4=7;", **first).reward == 1.0
    missed = judged("so 5", " 3+4=7;", **first)
    assert missed.reward == -1.0 and missed.detail == "no step in the form ...; found"
    with pytest.raises(ConfigError, match="has no group named action"):
        StepSimilarityReward(pattern="(.*)")


def test_real_steps_of_a_teacher_fit_the_default_form() -> None:
    """A replication's form rejected nearly all of its own teacher's steps."""
    steps = (
        "**1. Setting up the equation**\n\nLet $x$ be the price, so $3x + 2 = 14$.",
        "Step 2: Subtract 2 from both sides: 3x = 12 < 14, hence x < 5.",
        "`git diff --stat`\n",
        "2. **Check.** <answer>4</answer>",
    )
    for step in steps:
        assert judged(f"<think>hm</think>\n{step}", step).reward == 1.0
        assert judged(step, step).reward == 1.0


# -- in a run's config -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reward", "wanted"),
    [
        ({"pattern": "(?P<step>.*)"}, "has the named groups ['step']; wanted (?P<action>...)"),
        ({"pattern": "(?P<action>"}, "is not a regular expression"),
        ({"pattern": "(?P<action>.*)"}, "a pattern needs form"),
        ({"unit": "line"}, "unit"),
        ({"autojunk_": True}, "is not a known key"),
    ],
)
def test_bad_keys_are_refused(reward: dict[str, object], wanted: str) -> None:
    with pytest.raises(ConfigError) as refused:
        validate({"rewards": {"near": {"kind": "step_similarity", **reward}}}, source="test")
    assert wanted in str(refused.value)


def test_a_run_of_steps_has_the_reward_without_a_section(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    row = {"prompt": "3*4+2?", "answer": "14", "steps": ["3*4=12.\n", "12+2=14."]}
    rows.write_text("\n".join(json.dumps({**row, "prompt": f"{n}{row['prompt']}"}) for n in range(4)))
    tasks = {"kind": "steps", "of": {"kind": "jsonl", "path": str(rows), "held_out_fraction": 0.5}}
    config = validate({"tasks": tasks}, source="test")
    assert isinstance(config.tasks, StepsTasksConfig)
    reward, source = build_reward(config), build_tasks(config.tasks)
    (asked,) = source.batch(0, 1, seed=0)
    assert reward.score(asked, "<think>so</think>3*4=12.").reward == 1.0
    own = {**{"tasks": tasks}, "rewards": {"step_similarity": {"kind": "step_similarity", "unit": "word"}}}
    assert build_reward(validate(own, source="test")).score(asked, "3*4=12").reward == 0.0
    assert math.isclose(reward.score(asked, "3*4=1").reward, 2 * 5 / (5 + 7))

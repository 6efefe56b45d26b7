"""What is said of a whole run: broken verifiers, verifiers that err, truncation; each once, never of a sound run."""

from __future__ import annotations

import json

import pytest

from critique_rl.config.plateau import PlateauConfig
from critique_rl.schedule.plateau import GroupState, PlateauTracker
from critique_rl.schedule.run_causes import RunCause
from critique_rl.schedule.state import PromptStatus
from critique_rl.types import Score, ScoreStatus

RIGHT = Score(reward=1.0)
WRONG = Score(reward=0.0, extracted="7")
UNPARSED = Score(reward=0.0, status=ScoreStatus.UNPARSED)
ERROR = Score(reward=0.0, status=ScoreStatus.ERROR)


def tracker(**options: object) -> PlateauTracker:
    return PlateauTracker(PlateauConfig.model_validate({"min_failures": 4, "max_success": 0.6, **options}))


def observe(watch: PlateauTracker, step: int, *scores: Score, task: str = "t", finished: bool = True) -> GroupState:
    return watch.observe(step, task, scores, [finished] * len(scores), verifier="v")


def causes(watch: PlateauTracker) -> list[RunCause]:
    return [alarm.cause for alarm in watch.alarms()]


def test_a_broken_verifier_is_told_once_and_no_critic_is_asked_until_it_accepts_something() -> None:
    watch = tracker()
    assert watch.wants_verifier_check("v", 0)
    watch.note_verifier("v", 0, accepts=False, found="nothing is accepted")
    assert watch.alarms() == [(RunCause.VERIFIER_BROKEN, "nothing is accepted")]
    for step in range(3):
        state = observe(watch, step, WRONG, WRONG, UNPARSED, WRONG)
    assert (state.status, state.select) == (PromptStatus.PLATEAUED, False)
    assert watch.counts()["plateau/broken_verifiers"] == 1
    watch.note_verifier("v", 3, accepts=False, found="still")
    watch.note_verifier("v", 3, accepts=None)
    assert watch.alarms() == [] and not observe(watch, 3, WRONG).select
    watch.note_verifier("v", 4, accepts=True, found="repaired")
    assert watch.alarms() == [(RunCause.VERIFIER_WORKS, "repaired")]
    assert observe(watch, 4, WRONG).select
    assert watch.counts()["plateau/broken_verifiers"] == 0


@pytest.mark.parametrize("mode", ["tracker", "paper", "always"])
def test_a_broken_verifier_spends_nothing_in_any_mode(mode: str) -> None:
    watch = tracker(mode=mode)
    watch.note_verifier("v", 0, accepts=False)
    assert not any(observe(watch, step, WRONG, WRONG, WRONG, WRONG).select for step in range(4))


def test_one_success_shows_that_the_verifier_is_not_broken() -> None:
    watch = tracker()
    watch.note_verifier("v", 0, accepts=False)
    watch.alarms()
    observe(watch, 0, WRONG, WRONG, WRONG, RIGHT)
    assert causes(watch) == [RunCause.VERIFIER_WORKS]
    assert not watch.wants_verifier_check("v", 10_000)
    assert [observe(watch, step, *[WRONG] * 8, task="u").select for step in (1, 2)] == [True, True]


def test_verifiers_do_not_share_a_verdict() -> None:
    watch = tracker()
    watch.note_verifier("other", 0, accepts=False)
    observe(watch, 0, WRONG, WRONG)
    assert observe(watch, 1, WRONG, WRONG).select


def test_a_verifier_is_checked_at_first_sight_then_after_failures_only_then_seldom() -> None:
    watch = tracker(alarm_prompts=3, recheck_steps=10)
    watch.note_verifier("v", 0, accepts=True)
    due: list[int] = []
    for step in range(30):
        if watch.wants_verifier_check("v", step):
            due.append(step)
            watch.note_verifier("v", step, accepts=True)
        observe(watch, step, WRONG, UNPARSED, task=f"t{step % 5}")
    assert due == [3, 13, 23]  # three prompts have failed after the steps 0, 1 and 2
    observe(watch, 30, RIGHT)
    assert not any(watch.wants_verifier_check("v", step) for step in range(30, 60))


def test_verifier_errors_are_no_failures_of_prompts() -> None:
    watch = tracker(alarm_prompts=2)
    watch.note_verifier("v", 0, accepts=True)
    for number in range(4):
        observe(watch, number, ERROR, ERROR, task=f"t{number}")
    assert not watch.wants_verifier_check("v", 4)


def test_a_verifier_that_errs_on_most_rollouts_is_told_once() -> None:
    watch = tracker(alarm_prompts=2)
    observe(watch, 0, ERROR, ERROR, WRONG, task="a")
    assert causes(watch) == []  # one group is too little
    observe(watch, 1, ERROR, ERROR, WRONG, task="b")
    (alarm,) = watch.alarms()
    assert alarm.cause is RunCause.VERIFIER_ERROR
    assert "failed on 4 of 6 rollouts of the last 2 steps" in alarm.message
    observe(watch, 2, ERROR, ERROR, WRONG, task="c")
    assert causes(watch) == []
    sound = tracker(alarm_prompts=2)
    for step in range(3):
        observe(sound, step, ERROR, WRONG, task="a")
    assert causes(sound) == []  # half is not most


@pytest.mark.parametrize(
    ("critiqued", "words"), [(True, "are asked about them all the same"), (False, "are not asked")]
)
def test_truncation_points_at_the_token_limit(critiqued: bool, words: str) -> None:
    watch = tracker(alarm_prompts=4, critique_truncated=critiqued)
    observe(watch, 0, WRONG, WRONG, task="a")
    for name in "bcd":
        observe(watch, 0, UNPARSED, WRONG, task=name, finished=False)
    (alarm,) = watch.alarms()
    assert alarm.cause is RunCause.TRUNCATED
    assert "3 of 4 groups without a success" in alarm.message and "rollout.max_tokens" in alarm.message
    assert words in alarm.message


def test_successes_and_old_steps_are_left_out_of_truncation() -> None:
    watch = tracker(alarm_prompts=2, block=2)
    observe(watch, 0, UNPARSED, task="a", finished=False)
    observe(watch, 1, RIGHT, RIGHT, task="b", finished=False)
    observe(watch, 2, UNPARSED, task="a", finished=False)
    assert causes(watch) == []  # a single failing group in the last two steps
    observe(watch, 3, UNPARSED, task="a", finished=False)
    assert causes(watch) == [RunCause.TRUNCATED]


def test_what_was_told_and_found_travels_in_checkpoints() -> None:
    watch = tracker(alarm_prompts=1)
    watch.note_verifier("v", 0, accepts=False)
    observe(watch, 0, ERROR, ERROR)
    assert causes(watch) == [RunCause.VERIFIER_BROKEN, RunCause.VERIFIER_ERROR]
    resumed = tracker(alarm_prompts=1)
    resumed.load_state_dict(json.loads(json.dumps(watch.state_dict())))
    observe(resumed, 1, ERROR, ERROR)
    assert causes(resumed) == []
    assert not observe(resumed, 2, WRONG, WRONG, WRONG, WRONG).select

"""Finished tasks: what they may lose, when a loss is too much, and what a later stage knows of an earlier one."""

from __future__ import annotations

import json

import numpy as np
import pytest

from critique_rl.errors import CheckpointError, ConfigError
from critique_rl.schedule.forgetting import Action, Effect, ForgettingGuard, expected_effects
from critique_rl.stats.transfer import TransferMatrix

SE = 0.03


def guard(
    *trained: str, finished: tuple[str, ...] = (), action: Action = "replay", **effects: float
) -> ForgettingGuard:
    expected = {name: Effect(change, 0.0) for name, change in effects.items()}
    return ForgettingGuard(trained=trained, finished=finished, effects=expected, action=action)


def levels(**success: float) -> dict[str, tuple[float, float]]:
    return {name: (value, SE) for name, value in success.items()}


def test_a_loss_beyond_two_standard_errors_is_forgetting() -> None:
    # Standard error of the difference: hypot(.03, .03) = .042426; two of them .084853.
    one = guard("write", finished=("math",))
    one.observe(levels(math=0.70, write=0.2))
    assert one.figures() == {"forgetting/math/lost": 0.0, "forgetting/math/allowed": pytest.approx(0.0848528)}
    one.observe(levels(math=0.62, write=0.5))
    assert (one.message(), one.replayed(), one.stopped) == (None, {}, "")
    one.observe(levels(math=0.61, write=0.5))
    assert one.replayed() == {"math": 0.2}
    assert one.figures()["forgetting/math/lost"] == pytest.approx(0.09)
    told = one.message() or ""
    assert "math is forgotten: 70.0% when its training ended, 61.0% now" in told
    one.observe(levels(math=0.5, write=0.5))
    assert one.message() is None  # told once


def test_what_was_predicted_may_be_lost() -> None:
    one = guard("write", finished=("math",), math=-0.05)
    one.observe(levels(math=0.70))
    one.observe(levels(math=0.57))
    assert one.replayed() == {}  # a loss of .13, and .05 + .085 pass
    one.observe(levels(math=0.56))
    assert one.replayed() == {"math": 0.2}


def test_a_predicted_gain_that_does_not_come_is_no_forgetting() -> None:
    one = guard("write", finished=("math",), math=0.3)
    one.observe(levels(math=0.70))
    one.observe(levels(math=0.69))
    assert one.figures()["forgetting/math/allowed"] == pytest.approx(0.0848528)
    assert one.replayed() == {}


def test_an_uncertain_prediction_allows_more() -> None:
    one = ForgettingGuard(trained=["write"], finished=["math"], effects={"math": Effect(0.0, 0.04)})
    one.observe(levels(math=0.70))
    # 2 hypot(.03, .03, .04) = .116619
    assert one.figures()["forgetting/math/allowed"] == pytest.approx(0.1166190)


def test_tasks_that_nobody_trained_are_not_forgotten() -> None:
    one = guard("write")
    one.observe(levels(math=0.7, write=0.2))
    one.observe(levels(math=0.0, write=0.2))
    assert (one.figures(), one.replayed()) == ({}, {})


def test_a_later_stage_compares_with_the_end_of_the_earlier_one() -> None:
    first = guard("math")
    first.observe(levels(math=0.3, write=0.2))
    first.observe(levels(math=0.8, write=0.2))
    second = guard("write", math=-0.02)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    second.observe(levels(math=0.8, write=0.2))
    assert second.figures()["forgetting/math/allowed"] == pytest.approx(0.02 + 0.0848528)
    second.observe(levels(math=0.6, write=0.9))
    assert second.replayed() == {"math": 0.2}
    third = guard("sort", math=-0.03, write=-0.01)
    third.load_state_dict(json.loads(json.dumps(second.state_dict())))
    assert third.replayed() == {"math": 0.2}  # also in later stages
    third.observe(levels(math=0.75, write=0.9, sort=0.1))
    # What was predicted adds up from stage to stage: .02 + .03 for math, .01 for write.
    assert third.figures()["forgetting/math/allowed"] == pytest.approx(0.05 + 0.0848528)
    assert third.figures()["forgetting/write/allowed"] == pytest.approx(0.01 + 0.0848528)
    back = guard("math")
    back.load_state_dict(json.loads(json.dumps(third.state_dict())))
    assert back.replayed() == {}  # what is trained needs no replay


def test_a_resumed_run_goes_on_where_it_was() -> None:
    one, two = guard("write", finished=("math",), math=-0.02), guard("write", finished=("math",), math=-0.02)
    one.observe(levels(math=0.7, write=0.2))
    one.observe(levels(math=0.65, write=0.2))
    two.load_state_dict(json.loads(json.dumps(one.state_dict())))
    assert two.figures() == one.figures()
    for each in (one, two):
        each.observe(levels(math=0.5, write=0.2))
    assert two.state_dict() == one.state_dict()
    assert two.message() == one.message()


def test_several_forgotten_tasks_share_the_replay() -> None:
    one = guard("write", finished=("math", "sort"))
    one.observe(levels(math=0.7, sort=0.7))
    one.observe(levels(math=0.1, sort=0.1))
    assert one.replayed() == {"math": 0.1, "sort": 0.1}
    assert (one.message() or "").count("when its training ended") == 2


@pytest.mark.parametrize(("action", "stopped"), [("stop", "forgetting: math"), ("warn", "")])
def test_other_actions(action: Action, stopped: str) -> None:
    one = guard("write", finished=("math",), action=action)
    one.observe(levels(math=0.7))
    one.observe(levels(math=0.1))
    assert (one.replayed(), one.stopped) == ({}, stopped)
    assert "math is forgotten" in (one.message() or "")


def test_expected_effects_of_one_and_of_several_tasks() -> None:
    matrix = TransferMatrix(
        tasks=("a", "b", "c"),
        base=np.array([0.1, 0.2, 0.3]),
        acc=np.array([[0.5, 0.1, 0.3], [0.1, 0.6, 0.1], [0.0, 0.2, 0.7]]),
        se=np.full((3, 3), 0.03),
        base_se=np.full(3, 0.04),
    )
    found = expected_effects(matrix, ("a",), ("a", "b"))
    assert set(found) == {"b"}
    assert tuple(found["b"]) == pytest.approx((-0.1, 0.05))  # hypot(.03, .04)
    both = expected_effects(matrix, ("a", "b"), ("a", "b", "c"))
    # c: the mean of 0 and -.2; standard error hypot(sqrt(2) .03 / 2, .04)
    assert set(both) == {"c"}
    assert tuple(both["c"]) == pytest.approx((-0.1, np.hypot(0.03 / np.sqrt(2), 0.04)))
    with pytest.raises(ConfigError, match="knows nothing of 'd'; it has a, b, c"):
        expected_effects(matrix, ("a",), ("a", "d"))


@pytest.mark.parametrize("state", [{}, {"trained": ["a"], "known": {"a": {"mean": 1}}}, {"trained": ["a"], "known": 3}])
def test_a_broken_state(state: dict[str, object]) -> None:
    with pytest.raises(CheckpointError, match="finished tasks cannot be read"):
        guard("write").load_state_dict(state)

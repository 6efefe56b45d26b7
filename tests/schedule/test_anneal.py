"""Weights over a run by hand, HATCH's own pace, and the back-off."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.errors import CheckpointError
from critique_rl.schedule.anneal import EMA_RATE, KAPPA, REGROW_STEPS, Schedule, Shape, unsolved_weight
from critique_rl.stats.trend import ema


@pytest.mark.parametrize(
    ("shape", "weights"),
    [
        # steps 0, 5, 10, 50, 75, 100 and 120 of 100
        ("constant", [1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]),
        ("linear", [1.0, 0.95, 0.9, 0.5, 0.25, 0.0, 0.0]),
        ("trapezoid", [0.0, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]),
    ],
)
def test_shapes_by_hand(shape: Shape, weights: list[float]) -> None:
    schedule = Schedule(shape, total_steps=100)
    assert [schedule.weight(step) for step in (0, 5, 10, 50, 75, 100, 120)] == pytest.approx(weights)


@pytest.mark.parametrize(
    ("none", "partial", "weight"),
    # (1/2)^5 = 1/32, (3/8)^5 = 243/32768, (1/7)^5 = 1/16807
    [(0.5, 0.5, 0.03125), (0.3, 0.5, 243 / 32768), (0.1, 0.6, 1 / 16807), (0.0, 0.4, 0.0), (0.0, 0.0, 0.0)],
)
def test_the_pace_of_the_data_by_hand(none: float, partial: float, weight: float) -> None:
    assert unsolved_weight(none, partial, kappa=1.0) == pytest.approx(weight, abs=1e-12)


def test_kappa_makes_the_weight_full_at_one_half_and_never_more() -> None:
    assert unsolved_weight(0.5, 0.5) == pytest.approx(1.0) == unsolved_weight(0.9, 0.1)
    assert unsolved_weight(0.3, 0.5) == pytest.approx(KAPPA * 243 / 32768)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 0.5), st.floats(0, 0.5)), min_size=1, max_size=12))
def test_the_data_driven_weight_is_that_of_the_corrected_means(shares: list[tuple[float, float]]) -> None:
    schedule = Schedule("unsolved", total_steps=10)
    assert schedule.weight(3) == 1.0  # nothing is known yet
    for none, partial in shares:
        schedule.observe(none, partial)
    means = [float(ema([s[i] for s in shares], EMA_RATE)[-1]) for i in (0, 1)]
    assert schedule.weight(3) == pytest.approx(unsolved_weight(*means), abs=1e-9)


def test_a_trip_halves_the_weight_and_quiet_steps_double_it() -> None:
    schedule = Schedule("linear", total_steps=100)
    schedule.back_off()
    schedule.back_off()
    assert schedule.weight(50) == 0.5 / 4
    for _ in range(REGROW_STEPS):
        schedule.observe(0.2, 0.3)
    assert schedule.weight(50) == pytest.approx(0.5 / 2)
    for _ in range(3 * REGROW_STEPS):
        schedule.observe(0.2, 0.3)
    assert schedule.weight(50) == 0.5
    for _ in range(100):
        schedule.back_off()
    assert schedule.weight(50) == 0.5 / 64  # never so small that it could not grow back within the run


@pytest.mark.parametrize("shares", [(-0.1, 0.5), (0.6, 0.6), (0.0, 1.1)])
def test_shares_of_more_than_a_whole_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="two of one whole"):
        Schedule("unsolved", total_steps=1).observe(*shares)


def test_a_run_without_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="total_steps = 0"):
        Schedule("linear", total_steps=0)


def test_the_state_travels_in_checkpoints() -> None:
    schedule, resumed = (Schedule("unsolved", total_steps=10) for _ in range(2))
    schedule.observe(0.3, 0.5)
    schedule.back_off()
    resumed.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    for each in (schedule, resumed):
        each.observe(0.1, 0.6)
    assert resumed.weight(4) == schedule.weight(4) and resumed.state_dict() == schedule.state_dict()
    with pytest.raises(CheckpointError, match="schedule in the checkpoint"):
        resumed.load_state_dict({"backoff": "half"})

"""Trends: Mann-Kendall and Sen by hand and against scipy, and verdicts that need evidence."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from critique_rl.stats.trend import block_means, ema, mann_kendall, run_trend, sen_slope

RISING = (0.40, 0.42, 0.41, 0.43, 0.42, 0.44, 0.43, 0.45)
LEVEL = (0.45, 0.46, 0.44, 0.45, 0.46, 0.44, 0.45, 0.46)


@pytest.mark.parametrize(
    ("values", "s", "variance", "z", "p", "slope"),
    [
        (RISING, 20, 63.3333, 2.38747, 0.01696, 0.005),
        (LEVEL, 3, 57.0, 0.26491, 0.791, 0.0),
        ((0.5,) * 8, 0, 0.0, 0.0, 1.0, 0.0),
        (tuple(range(1, 11)), 45, 125.0, 3.93548, 8.303e-5, 1.0),
    ],
)
def test_mann_kendall_and_sen(
    values: tuple[float, ...], s: int, variance: float, z: float, p: float, slope: float
) -> None:
    test = mann_kendall(values)
    assert test.s == s
    assert test.variance == pytest.approx(variance, abs=1e-4)
    assert test.z == pytest.approx(z, abs=1e-5)
    assert test.p == pytest.approx(p, abs=2e-4)
    assert sen_slope(values) == pytest.approx(slope, abs=1e-12)


@pytest.mark.parametrize("values", [(), (3.0,)])
def test_too_short_for_a_test(values: tuple[float, ...]) -> None:
    assert mann_kendall(values) == (0, 0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match="at least two values"):
        sen_slope(values)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.integers(-5, 5).map(float), min_size=2, max_size=15), st.floats(-3, 3))
def test_mann_kendall_against_a_plain_loop_and_its_symmetries(values: list[float], shift: float) -> None:
    pairs = [(i, j) for i in range(len(values)) for j in range(i + 1, len(values))]
    test = mann_kendall(values)
    assert test.s == sum((values[j] > values[i]) - (values[j] < values[i]) for i, j in pairs)
    slopes = sorted((values[j] - values[i]) / (j - i) for i, j in pairs)
    middle = len(slopes) // 2
    median = slopes[middle] if len(slopes) % 2 else (slopes[middle - 1] + slopes[middle]) / 2
    assert sen_slope(values) == pytest.approx(median, abs=1e-12)
    assert sen_slope(values) == pytest.approx(stats.theilslopes(values).slope, abs=1e-12)
    backwards = mann_kendall(values[::-1])
    assert (backwards.s, backwards.p) == (-test.s, test.p)
    # powers of two and whole-number shifts keep ties exact
    moved = mann_kendall([4.0 * value + round(shift) for value in values])
    assert moved == test


def test_z_is_kendalls_tau_for_untied_data() -> None:
    values = np.random.default_rng(0).normal(size=30)
    tau = stats.kendalltau(np.arange(30), values).statistic
    assert mann_kendall(values).s == pytest.approx(tau * 30 * 29 / 2)


def test_block_means_leave_the_incomplete_block_out() -> None:
    assert block_means([1.0, 3.0, 5.0, 7.0, 100.0], 2).tolist() == [2.0, 6.0]
    assert block_means([1.0, 2.0], 1).tolist() == [1.0, 2.0]
    assert block_means([1.0], 2).size == 0
    with pytest.raises(ValueError, match="block is 0"):
        block_means([1.0], 0)


def test_ema_by_hand() -> None:
    values = [0.0, 0.0, 0.0, 1.0, 0.0, 0.0]
    assert ema(values, 0.2, bias_correction=False).tolist() == pytest.approx([0, 0, 0, 0.2, 0.16, 0.128])
    corrected = ema(values, 0.2).tolist()
    assert corrected[:3] == [0.0, 0.0, 0.0]
    assert corrected[3:] == pytest.approx([0.33875, 0.23798, 0.17348], abs=5e-6)


def test_ema_of_a_constant_is_the_constant_and_of_nothing_is_nothing() -> None:
    assert ema([0.7] * 5, 0.1).tolist() == pytest.approx([0.7] * 5)
    assert ema([], 0.1).size == 0
    assert ema([3.0, 5.0], 1.0).tolist() == [3.0, 5.0]
    for alpha in (0.0, 1.5):
        with pytest.raises(ValueError, match="alpha is"):
            ema([1.0], alpha)


def noisy(slope: float, noise: float, count: int, seed: int = 0) -> np.ndarray:
    return 0.4 + slope * np.arange(count) + noise * np.random.default_rng(seed).normal(size=count)


def test_rising_and_falling() -> None:
    up = run_trend(noisy(0.002, 0.02, 120), block=10, horizon=50, delta=0.02)
    assert up.verdict == "rising" and up.blocks == 12
    assert up.slope == pytest.approx(0.002, rel=0.2)
    assert up.expected_change == pytest.approx(50 * up.slope)
    assert up.slope_interval.low <= up.slope <= up.slope_interval.high
    down = run_trend(-noisy(0.002, 0.02, 120), block=10, horizon=50, delta=0.02)
    assert down.verdict == "falling" and down.slope == pytest.approx(-up.slope)


def test_flat_needs_a_small_slope_known_well_enough() -> None:
    flat = run_trend(noisy(0.0, 0.01, 160), block=10, horizon=50, delta=0.02)
    assert flat.verdict == "flat"
    assert max(abs(flat.slope_interval.low), abs(flat.slope_interval.high)) * 50 < 0.02
    assert "inside" in flat.reason


def test_a_merely_insignificant_trend_is_undecided() -> None:
    loud = run_trend(noisy(0.0, 1.0, 160), block=10, horizon=50, delta=0.02)
    assert loud.test.p > 0.05 and loud.verdict == "undecided"
    assert "shows no trend, but" in loud.reason


def test_too_few_blocks_are_undecided_even_when_constant() -> None:
    assert run_trend([0.5] * 70, block=10, horizon=50, delta=0.02).verdict == "undecided"
    assert run_trend([0.5] * 80, block=10, horizon=50, delta=0.02).verdict == "flat"
    nothing = run_trend([0.5] * 12, block=10, horizon=50, delta=0.02)
    assert (nothing.verdict, nothing.blocks) == ("undecided", 1)
    assert nothing.slope_interval == (-math.inf, math.inf)
    assert run_trend([], block=10, horizon=50, delta=0.02).blocks == 0


def test_a_significant_but_negligible_slope_is_flat() -> None:
    report = run_trend([0.5 + 1e-6 * step for step in range(100)], block=10, horizon=50, delta=0.02)
    assert report.test.p < 0.01 and report.verdict == "flat"


def test_the_units_are_values_not_blocks() -> None:
    values = noisy(0.001, 0.0, 200)
    for block in (5, 10, 20):
        report = run_trend(values, block=block, horizon=100, delta=0.02)
        assert report.slope == pytest.approx(0.001, abs=1e-9)
        assert report.expected_change == pytest.approx(0.1, abs=1e-7)


def test_slope_interval_is_no_narrower_than_scipys() -> None:
    for seed in range(20):
        values = noisy(0.01, 0.05, 15, seed)
        ours = run_trend(values, block=1, horizon=1, delta=0.1, alpha=0.05).slope_interval
        theirs = stats.theilslopes(values, alpha=0.9)
        assert ours.low <= theirs.low_slope and ours.high >= theirs.high_slope


def test_few_points_leave_the_slope_unbounded() -> None:
    assert run_trend([1.0, 2.0, 3.0], block=1, horizon=1, delta=1.0).slope_interval == (-math.inf, math.inf)


def test_unusable_input_is_refused() -> None:
    with pytest.raises(ValueError, match="horizon is 0"):
        run_trend([1.0], block=1, horizon=0, delta=1.0)
    with pytest.raises(ValueError, match="alpha is"):
        run_trend([1.0], block=1, horizon=1, delta=1.0, alpha=0.5)
    with pytest.raises(ValueError, match="min_blocks is 3"):
        run_trend([1.0], block=1, horizon=1, delta=1.0, min_blocks=3)
    with pytest.raises(ValueError, match="leave missing steps out"):
        mann_kendall([1.0, math.nan])

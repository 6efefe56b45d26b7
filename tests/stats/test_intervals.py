"""Intervals: hand numbers, scipy as reference, edges."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from critique_rl.stats.intervals import (
    clopper_pearson,
    mean_interval,
    rate_difference_interval,
    seeds_interval,
    success_upper_bound,
    wilson_interval,
)


@pytest.mark.parametrize(("failures", "bound"), [(8, 0.312), (16, 0.171), (32, 0.089), (64, 0.046), (128, 0.023)])
def test_bound_after_nothing_but_failures(failures: int, bound: float) -> None:
    value = success_upper_bound(0, failures)
    assert value == pytest.approx(bound, abs=5e-4)
    assert value == pytest.approx(1 - 0.05 ** (1 / failures), abs=1e-12)


@pytest.mark.parametrize(
    ("rate", "all_fail"), [(0.01, 0.9227), (0.02, 0.8508), (0.05, 0.6634), (0.1, 0.4305), (0.2, 0.1678)]
)
def test_bound_inverts_the_chance_that_all_eight_fail(rate: float, all_fail: float) -> None:
    assert (1 - rate) ** 8 == pytest.approx(all_fail, abs=5e-5)
    assert success_upper_bound(0, 8, confidence=1 - (1 - rate) ** 8) == pytest.approx(rate, abs=1e-12)


def test_bound_leaves_exactly_the_missing_confidence_below() -> None:
    # P(at most 3 successes in 20 | bound) = 5 %
    assert stats.binom.cdf(3, 20, success_upper_bound(3, 17)) == pytest.approx(0.05, abs=1e-9)


def test_bound_edges_and_fractional_counts() -> None:
    assert success_upper_bound(0, 0) == 1.0
    assert success_upper_bound(5, 0) == 1.0
    assert success_upper_bound(0, 8.5) == pytest.approx(1 - 0.05 ** (1 / 8.5))


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (1, 10), (5, 10), (10, 10), (37, 200)])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_rate_intervals_match_scipy(successes: int, trials: int, confidence: float) -> None:
    result = stats.binomtest(successes, trials)
    for ours, method in ((wilson_interval, "wilson"), (clopper_pearson, "exact")):
        theirs = result.proportion_ci(confidence, method=method)
        assert ours(successes, trials, confidence) == pytest.approx((theirs.low, theirs.high), abs=1e-9)


def test_wilson_by_hand() -> None:
    # 5 of 10: the centre stays .5
    z = 1.959964
    half = z * math.sqrt(0.25 / 10 + z * z / 400) / (1 + z * z / 10)
    assert wilson_interval(5, 10) == pytest.approx((0.5 - half, 0.5 + half), abs=1e-6)
    assert wilson_interval(5, 10).low == pytest.approx(0.236593, abs=1e-6)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.integers(1, 60), st.integers(0, 60))
def test_rate_intervals_hold_the_rate_mirror_and_nest(trials: int, successes: int) -> None:
    successes = min(successes, trials)
    for interval in (wilson_interval, clopper_pearson):
        low, high = interval(successes, trials)
        assert 0 <= low <= successes / trials <= high <= 1
        mirrored = interval(trials - successes, trials)
        assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((low, high), abs=1e-9)
        wider = interval(successes, trials, 0.99)
        assert wider.low <= low + 1e-12 and wider.high >= high - 1e-12
    assert success_upper_bound(successes, trials - successes) <= clopper_pearson(successes, trials).high + 1e-12


def test_no_trials_say_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)
    assert clopper_pearson(0, 0) == (0.0, 1.0)


def test_mean_interval_by_hand_and_against_scipy() -> None:
    # 1, 2, 3: mean 2, s 1, t_2(.975) = 4.302653, half 4.302653 / sqrt(3) = 2.484138
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-6)
    data = [0.42, 0.47, 0.44, 0.51, 0.40]
    expected = stats.ttest_1samp(data, 0.0).confidence_interval(0.9)
    assert mean_interval(data, 0.9) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_mean_interval_of_one_seed_and_of_equal_seeds() -> None:
    assert mean_interval([0.5]) == (-math.inf, math.inf)
    assert mean_interval([0.5, 0.5, 0.5]) == (0.5, 0.5)


def test_unusable_input_is_refused() -> None:
    for successes, trials in ((-1, 5), (6, 5), (0, math.nan), (0, math.inf)):
        with pytest.raises(ValueError, match="successes"):
            wilson_interval(successes, trials)
        with pytest.raises(ValueError, match="successes"):
            clopper_pearson(successes, trials)
    with pytest.raises(ValueError, match="successes"):
        success_upper_bound(0, -1)
    for confidence in (0.0, 1.0, 95.0):
        with pytest.raises(ValueError, match="confidence is"):
            success_upper_bound(0, 8, confidence)
        with pytest.raises(ValueError, match="confidence is"):
            mean_interval([1.0, 2.0], confidence)
    for values in ([], [math.nan, 1.0]):
        with pytest.raises(ValueError, match="values is"):
            mean_interval(values)


# -- difference of two rates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [
        ((56, 70, 48, 80), 0.0524, 0.3339),  # the worked examples of Newcombe's paper, method 10
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((10, 10, 0, 20), 0.6791, 1.0),
        ((10, 10, 0, 10), 0.6075, 1.0),
    ],
)
def test_difference_of_published_examples(counts: tuple[int, int, int, int], low: float, high: float) -> None:
    assert rate_difference_interval(*counts) == pytest.approx((low, high), abs=5e-5)


def test_difference_turns_over_with_its_arms_and_holds_zero_for_equal_ones() -> None:
    one = rate_difference_interval(7, 30, 3, 40, confidence=0.9)
    two = rate_difference_interval(3, 40, 7, 30, confidence=0.9)
    assert (one.low, one.high) == pytest.approx((-two.high, -two.low))
    equal = rate_difference_interval(5, 50, 5, 50)
    assert equal.low == pytest.approx(-equal.high)
    assert one.high - one.low < rate_difference_interval(7, 30, 3, 40, confidence=0.99).high - one.low


def test_difference_without_trials_says_nothing() -> None:
    assert rate_difference_interval(0, 0, 3, 10) == (-1.0, 1.0)
    assert rate_difference_interval(3, 10, 0, 0) == (-1.0, 1.0)
    with pytest.raises(ValueError, match="5 successes in 4 trials"):
        rate_difference_interval(5, 4, 0, 10)


def test_an_interval_over_seeds_is_never_narrower_than_either_of_its_two() -> None:
    # Rates 0.2, 0.4, 0.6 at 10 tasks each: t interval 0.4 -+ 4.3027 * 0.2 / sqrt(3) = 0.4 -+ 0.4968.
    spread = seeds_interval([2, 4, 6], [10, 10, 10])
    assert spread.low == 0.0
    assert spread.high == pytest.approx(0.4 + 4.302653 * 0.2 / math.sqrt(3), abs=1e-6)
    # All seeds agree: t has no width, the pool of 600 tasks does.
    agreed = seeds_interval([200, 200, 200], [200, 200, 200])
    assert agreed == wilson_interval(600, 600)
    assert seeds_interval([3], [10]) == wilson_interval(3, 10)
    with pytest.raises(ValueError, match="one of each per seed"):
        seeds_interval([1, 2], [10])
    with pytest.raises(ValueError, match="one of each per seed"):
        seeds_interval([], [])

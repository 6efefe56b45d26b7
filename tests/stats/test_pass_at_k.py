"""pass@k and pass^k: the spec's numbers, every draw counted, unbiasedness summed out, intervals and bad input."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import special, stats

from critique_rl.stats.intervals import wilson_interval
from critique_rl.stats.pass_at_k import mean_pass_at_k, mean_pass_hat_k, pass_at_k, pass_hat_k


@pytest.mark.parametrize(
    ("samples", "right", "k", "wanted"),
    [
        (10, 3, 1, 0.3),
        (10, 3, 2, 0.533333),  # 1 - 21/45
        (10, 3, 5, 0.916667),  # 1 - 21/252
        (10, 3, 8, 1.0),  # 7 wrong ones cannot fill 8 places
        (10, 0, 5, 0.0),
        (4, 1, 2, 0.5),  # 1 - 3/6
        (256, 1, 16, 0.0625),  # 16/256
        (256, 1, 128, 0.5),
        (256, 5, 64, 0.765808),
    ],
)
def test_numbers_of_the_spec(samples: int, right: int, k: int, wanted: float) -> None:
    assert pass_at_k(samples, right, k) == pytest.approx(wanted, abs=1e-6)


def test_the_naive_estimate_is_another_number() -> None:
    assert pytest.approx(0.51) == 1 - (1 - 3 / 10) ** 2
    assert pass_at_k(10, 3, 2) == pytest.approx(24 / 45)


def test_all_right_by_hand() -> None:
    # 3 of 10 right: C(3, 2) / C(10, 2) = 3/45; three of four: 3/6
    assert pass_hat_k(10, 3, 2) == pytest.approx(3 / 45)
    assert pass_hat_k(4, 3, 2) == 0.5
    assert pass_hat_k(4, 1, 2) == 0.0
    assert pass_hat_k(4, 4, 4) == 1.0


@pytest.mark.parametrize("samples", range(1, 8))
def test_every_draw_counted(samples: int) -> None:
    for right in range(samples + 1):
        verdicts = [True] * right + [False] * (samples - right)
        for k in range(1, samples + 1):
            draws = list(combinations(verdicts, k))
            assert pass_at_k(samples, right, k) == sum(map(any, draws)) / len(draws)
            assert pass_hat_k(samples, right, k) == sum(map(all, draws)) / len(draws)


@given(st.integers(1, 40), st.floats(0.01, 0.99), st.data())
def test_both_are_unbiased(samples: int, p: float, data: st.DataObject) -> None:
    k = data.draw(st.integers(1, samples))
    chances = [float(stats.binom.pmf(c, samples, p)) for c in range(samples + 1)]
    some = math.fsum(chance * pass_at_k(samples, c, k) for c, chance in enumerate(chances))
    every = math.fsum(chance * pass_hat_k(samples, c, k) for c, chance in enumerate(chances))
    assert some == pytest.approx(1 - (1 - p) ** k, abs=1e-9)
    assert every == pytest.approx(p**k, abs=1e-9)


@given(st.integers(2, 400), st.data())
def test_what_holds_for_all_counts(samples: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, samples))
    k = data.draw(st.integers(2, samples))
    value, below = pass_at_k(samples, right, k), pass_at_k(samples, right, k - 1)
    assert 0.0 <= below <= value <= 1.0
    assert pass_at_k(samples, right, 1) == pass_hat_k(samples, right, 1) == right / samples
    assert value == pytest.approx(1 - pass_hat_k(samples, samples - right, k), abs=1e-12)
    if right < samples:
        assert value <= pass_at_k(samples, right + 1, k)
    product = math.prod(1 - k / i for i in range(samples - right + 1, samples + 1)) if k <= samples - right else 0.0
    assert value == pytest.approx(1 - product, abs=1e-10)


def test_large_counts_keep_their_digits() -> None:
    # by log-gamma, whose differences lose digits: 20000 samples, 3 right, k = 5000
    n, c, k = 20_000, 3, 5_000
    logs = special.gammaln([n - c + 1, n - k + 1, n - c - k + 1, n + 1])
    assert pass_at_k(n, c, k) == pytest.approx(-math.expm1(logs[0] + logs[1] - logs[2] - logs[3]), abs=1e-8)
    assert pass_at_k(10**6, 1, 1) == 1e-6


@pytest.mark.parametrize("estimate", [pass_at_k, pass_hat_k])
def test_counts_that_cannot_be(estimate: Callable[[int, int, int], float]) -> None:
    for samples, right, k, wanted in (
        (4, 1, 5, "k is 5 with 4 samples of the problem; wanted 1 <= k <= samples: draw more samples, or lower k"),
        (4, 1, 0, "k is 0 with 4 samples"),
        (4, 5, 1, "5 right answers among 4 samples; wanted 0 <= right <= samples"),
        (4, -1, 1, "-1 right answers among 4 samples"),
        (0, 0, 1, "k is 1 with 0 samples"),
    ):
        with pytest.raises(ValueError, match=wanted):
            estimate(samples, right, k)


# -- over problems -----------------------------------------------------------------------------------------------------


def test_the_mean_of_the_spec() -> None:
    found = mean_pass_at_k([10, 10, 10], [0, 3, 10], 2)
    assert found.value == pytest.approx(0.511111, abs=1e-6)  # (0 + 24/45 + 1) / 3
    assert (found.k, found.problems, found.samples) == (2, 3, 10)
    assert mean_pass_hat_k([10, 10, 10], [0, 3, 10], 2).value == pytest.approx((3 / 45 + 1) / 3)


def test_problems_may_have_unequal_numbers_of_samples() -> None:
    found = mean_pass_at_k([2, 4], [1, 1], 2)
    assert found.value == pytest.approx((1.0 + 0.5) / 2) and found.samples == 2
    with pytest.raises(ValueError, match=r"problem 1: k is 3 with 2 samples"):
        mean_pass_at_k([4, 2], [1, 1], 3)


def test_the_interval_resamples_problems() -> None:
    # 30 of 100 problems solved in the only sample: a resampled mean is Binomial(100, .3) / 100
    found = mean_pass_at_k([1] * 100, [1] * 30 + [0] * 70, 1)
    wanted = [float(stats.binom.ppf(share, 100, 0.3)) / 100 for share in (0.025, 0.975)]
    assert (found.low, found.high) == pytest.approx(wanted, abs=0.011)
    narrow = mean_pass_at_k([1] * 100, [1] * 30 + [0] * 70, 1, confidence=0.5)
    assert found.low < narrow.low < 0.3 < narrow.high < found.high


def test_the_interval_against_a_plain_loop() -> None:
    right = [0, 1, 2, 2, 3, 5, 8, 0, 0, 1, 4, 7]
    values = [pass_at_k(8, c, 4) for c in right]
    rng = np.random.default_rng(5)
    means = [float(np.mean(rng.choice(values, len(values)))) for _ in range(4_000)]
    found = mean_pass_at_k([8] * len(right), right, 4)
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]).tolist(), abs=0.02)


def test_the_interval_is_the_same_for_the_same_seed_and_does_not_follow_the_global_one() -> None:
    counts = ([4] * 6, [0, 1, 2, 3, 4, 1])
    np.random.seed(1)
    one = mean_pass_at_k(*counts, 2, seed=7)
    np.random.seed(2)
    assert one == mean_pass_at_k(*counts, 2, seed=7)


@pytest.mark.parametrize(("right", "value"), [(0, 0.0), (4, 1.0), (1, 0.5)])
@pytest.mark.parametrize("problems", [1, 5])
def test_problems_that_all_agree_still_leave_doubt(right: int, value: float, problems: int) -> None:
    found = mean_pass_at_k([4] * problems, [right] * problems, 2)
    assert found.value == value
    assert (found.low, found.high) == pytest.approx(wilson_interval(value * problems, problems))
    assert found.high - found.low > 0.3


@settings(max_examples=20)
@given(st.lists(st.integers(0, 6), min_size=1, max_size=8), st.integers(1, 6))
def test_intervals_lie_in_the_unit_interval_whatever_the_order(right: list[int], k: int) -> None:
    found = mean_pass_at_k([6] * len(right), right, k)
    assert 0.0 <= found.low <= found.high <= 1.0
    turned = mean_pass_at_k([6] * len(right), right[::-1], k)
    assert turned.value == found.value


def test_lists_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="2 numbers of samples and 1 of right ones; wanted one of each per problem"):
        mean_pass_at_k([4, 4], [1], 1)
    with pytest.raises(ValueError, match="at least one problem"):
        mean_pass_hat_k([], [], 1)
    with pytest.raises(ValueError, match="confidence is 95; wanted a number between 0 and 1"):
        mean_pass_at_k([4], [1], 1, confidence=95)

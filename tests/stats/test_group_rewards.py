"""Spread, length penalty and the discount on likely answers, against hand numbers and plain loops."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.stats.group_rewards import overlong_penalty, reward_spread, unlikeliness_factors

rewards = st.lists(st.floats(-1, 1), min_size=1, max_size=12)

# -- spread ------------------------------------------------------------------------------------------------------------


def test_spec_9_1_population_std() -> None:
    assert reward_spread([0.75] * 4) == 0.0
    # mean .5, squares .09 + .01 + .01 + .09 = .2, over 4: .05, root .223607; over 3 it would be .258199
    assert reward_spread([0.8, 0.6, 0.4, 0.2]) == pytest.approx(0.223607, abs=1e-6)
    # mean .125, squares 3 * .140625 + 1.265625 = 1.6875, over 4: .421875
    assert reward_spread([0.5, 0.5, 0.5, -1.0]) == pytest.approx(0.649519, abs=1e-6)
    assert reward_spread([0.62, 0.60, 0.61, 0.63]) == pytest.approx(0.01118, abs=1e-6)
    assert 1e-4 < reward_spread([0.62, 0.60, 0.61, 0.63]) < 0.05


def test_spec_9_7_dynamic_sampling() -> None:
    groups = [[1, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]]
    spreads = [reward_spread(group) for group in groups]
    assert spreads == pytest.approx([0.0, 0.5, 0.0, 0.433013], abs=1e-6)
    assert [i for i, spread in enumerate(spreads) if spread > 0] == [1, 3]
    assert sum(spread == 0 for spread in spreads) / len(spreads) == 0.5


@settings(deadline=None)
@given(rewards)
def test_spread_is_that_of_a_plain_loop(values: list[float]) -> None:
    mean = sum(values) / len(values)
    plain = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    assert reward_spread(values) == pytest.approx(plain, abs=2e-6)
    assert reward_spread(values[::-1]) == pytest.approx(reward_spread(values), abs=1e-12)


def test_rounding_is_no_spread_and_one_reward_has_none() -> None:
    assert reward_spread([0.1 + 0.2, 0.3, 0.3]) == 0.0
    assert reward_spread([0.3]) == reward_spread([]) == 0.0
    with pytest.raises(ValueError, match="finite"):
        reward_spread([math.nan, 1.0])


# -- length ------------------------------------------------------------------------------------------------------------


def test_spec_9_7_overlong() -> None:
    found = [overlong_penalty(n, limit=20480, buffer=4096) for n in (0, 16384, 18432, 20480, 20481, 10**6)]
    # 18432 is 2048 of 4096 into the buffer
    assert found == [0.0, 0.0, -0.5, -1.0, -1.0, -1.0]


@settings(deadline=None)
@given(st.integers(0, 400), st.integers(1, 200), st.integers(0, 200))
def test_the_penalty_falls_from_0_to_minus_1(length: int, buffer: int, rest: int) -> None:
    limit = buffer + rest
    here, longer = (overlong_penalty(n, limit=limit, buffer=buffer) for n in (length, length + 1))
    assert -1.0 <= longer <= here <= 0.0
    assert overlong_penalty(rest, limit=limit, buffer=buffer) == 0.0
    assert overlong_penalty(limit, limit=limit, buffer=buffer) == -1.0


@pytest.mark.parametrize(("length", "limit", "buffer"), [(1, 8, 0), (1, 8, 9), (-1, 8, 4)])
def test_bad_lengths(length: int, limit: int, buffer: int) -> None:
    with pytest.raises(ValueError, match="wanted 0 < buffer <= limit"):
        overlong_penalty(length, limit=limit, buffer=buffer)


# -- likelihood --------------------------------------------------------------------------------------------------------


def test_unlikeliness_by_hand() -> None:
    # G = 4, beta .25: ranks 1, 0, 3, 2 give 1 - .25 * (3/4, 4/4, 1/4, 2/4)
    assert unlikeliness_factors([-2.0, -1.0, -9.0, -3.0], beta=0.25) == [0.8125, 0.75, 0.9375, 0.875]


def test_equally_likely_ones_share_a_rank() -> None:
    # ranks 0.5, 0.5, 2: 1 - .3 * (2.5/3, 2.5/3, 1/3)
    assert unlikeliness_factors([-1.0, -1.0, -5.0], beta=0.3) == pytest.approx([0.75, 0.75, 0.9])


@settings(deadline=None)
@given(st.lists(st.floats(-50, 0), max_size=10), st.floats(0, 0.99))
def test_the_rank_counts_the_likelier_ones(logprobs: list[float], beta: float) -> None:
    size = len(logprobs)
    plain: list[float] = []
    for mine in logprobs:
        likelier = sum(other > mine for other in logprobs)
        ties = sum(other == mine for other in logprobs)
        plain.append(1 - beta * (size - (likelier + (ties - 1) / 2)) / size)
    assert unlikeliness_factors(logprobs, beta=beta) == pytest.approx(plain)
    assert all(1 - beta - 1e-9 <= factor <= 1 + 1e-9 for factor in plain)


def test_bad_likelihoods() -> None:
    with pytest.raises(ValueError, match="beta"):
        unlikeliness_factors([-1.0], beta=1.0)
    with pytest.raises(ValueError, match="numbers"):
        unlikeliness_factors([math.nan], beta=0.1)

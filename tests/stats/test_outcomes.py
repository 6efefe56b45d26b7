"""PASS@(k, T) and zero-variance groups: numbers by hand, every draw counted, degenerate input."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.stats.outcomes import pass_surface, zero_spread
from critique_rl.stats.pass_at_k import pass_at_k


def test_9_6_pass_at_k() -> None:
    assert pass_at_k(8, 2, 1) == 0.25
    assert pass_at_k(8, 2, 4) == pytest.approx(0.785714, abs=1e-6)
    assert pass_at_k(10, 1, 5) == 0.5
    assert pass_at_k(10, 0, 5) == 0.0


def test_a_surface_by_hand() -> None:
    right = [[True, True, False, False], [True, False, False, False]]
    rounds = [[1, 3, 1, 2], [2, 1, 1, 1]]
    surface = pass_surface(right, rounds, ks=[1, 2], caps=[1, 2, 3])
    # within 1 round: 1 and 0 of 4 right; within 2: 1 and 1; within 3: 2 and 1
    assert surface[1, 1] == pytest.approx((1 / 4 + 0) / 2)
    assert surface[1, 2] == pytest.approx((1 / 4 + 1 / 4) / 2)
    assert surface[1, 3] == pytest.approx((2 / 4 + 1 / 4) / 2)
    assert surface[2, 3] == pytest.approx(((1 - 1 / 6) + 1 / 2) / 2)


def test_one_round_is_pass_at_k() -> None:
    surface = pass_surface([[True, False, True]], [[1, 1, 1]], ks=[2], caps=[1])
    assert surface == {(2, 1): pass_at_k(3, 2, 2)}


@given(
    st.lists(st.tuples(st.booleans(), st.integers(1, 4)), min_size=3, max_size=6), st.integers(1, 3), st.integers(1, 4)
)
def test_every_draw_counted(rollouts: list[tuple[bool, int]], k: int, cap: int) -> None:
    right, rounds = [ok for ok, _ in rollouts], [used for _, used in rollouts]
    draws = list(combinations([ok and used <= cap for ok, used in rollouts], k))
    surface = pass_surface([right], [rounds], ks=[k], caps=[cap, cap + 1])
    assert surface[k, cap] == pytest.approx(sum(map(any, draws)) / len(draws))
    assert surface[k, cap] <= surface[k, cap + 1]


@pytest.mark.parametrize(
    ("right", "rounds", "ks", "caps", "said"),
    [
        ([], [], [1], [1], "0 problems"),
        ([[True]], [[1, 2]], [1], [1], "equal lists"),
        ([[True]], [[1]], [2], [1], "k is 2"),
        ([[True]], [[1]], [1], [0], "caps"),
    ],
)
def test_bad_surfaces(
    right: list[list[bool]], rounds: list[list[int]], ks: list[int], caps: list[int], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        pass_surface(right, rounds, ks=ks, caps=caps)


def test_9_7_zero_spread_by_sign() -> None:
    found = zero_spread([[1, 1, 1, 1], [1, 0, 0, 1], [0, 0, 0, 0], [1, 0, 0, 0]])
    assert found == (0.5, 0.25, 0.25)


def test_equal_rewards_between_the_ends_are_of_neither_sign() -> None:
    assert zero_spread([[0.5, 0.5], [0.0, 1.0]]) == (0.5, 0.0, 0.0)


def test_groups_without_rewards_are_left_out() -> None:
    assert zero_spread([[], [1.0]]) == (1.0, 1.0, 0.0)
    assert zero_spread([[]]) is None
    assert zero_spread([]) is None

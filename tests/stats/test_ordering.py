"""Linear orders: against every permutation, by hand, and by what must not matter."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from critique_rl.stats.ordering import (
    best_order,
    check_order,
    exact_order,
    greedy_mean_order,
    local_search,
    net_gain_order,
    order_worth,
)

Matrix = NDArray[np.float64]


@st.composite
def matrices(draw: st.DrawFn, largest: int = 5) -> Matrix:
    count = draw(st.integers(1, largest))
    # Tenths, so that ties are common.
    cells = draw(st.lists(st.integers(-9, 9), min_size=count * count, max_size=count * count))
    return np.array(cells, dtype=np.float64).reshape(count, count) / 10


def loop_worth(worth: Matrix, order: tuple[int, ...]) -> float:
    return sum(worth[order[b], order[a]] for a in range(len(order)) for b in range(a + 1, len(order)))


def test_worth_by_hand() -> None:
    # 0 before 1 before 2: worth[1, 0] + worth[2, 0] + worth[2, 1] = 2 + 4 + 8
    worth = np.array([[9.0, 1.0, 1.0], [2.0, 9.0, 1.0], [4.0, 8.0, 9.0]])
    assert order_worth(worth, (0, 1, 2)) == 14.0
    assert order_worth(worth, (2, 1, 0)) == 3.0
    assert exact_order(worth) == (0, 1, 2)
    assert exact_order(-worth) == (2, 1, 0)


@given(worth=matrices())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_the_exact_order_is_the_best_of_all(worth: Matrix) -> None:
    every = [tuple(order) for order in permutations(range(len(worth)))]
    best = max(loop_worth(worth, order) for order in every)
    found = exact_order(worth)
    assert sorted(found) == list(range(len(worth)))
    assert loop_worth(worth, found) == pytest.approx(best, abs=1e-9)
    assert order_worth(worth, found) == pytest.approx(loop_worth(worth, found), abs=1e-9)
    # Of equal orders the one with the smaller indices first: the same for every run.
    assert found == min(order for order in every if loop_worth(worth, order) >= best - 1e-9)


@given(worth=matrices(4), data=st.data())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_ties_within_the_tolerance_go_to_the_favoured(worth: Matrix, data: st.DataObject) -> None:
    count = len(worth)
    first = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
    tolerance = data.draw(st.sampled_from([0.0, 0.25, 0.55]))
    every = [tuple(order) for order in permutations(range(count))]
    best = max(loop_worth(worth, order) for order in every)
    near = [order for order in every if loop_worth(worth, order) >= best - tolerance - 1e-9]
    found = exact_order(worth, first=first, tolerance=tolerance)
    assert found in near
    # Nothing among the near ones has favoured items earlier, place by place.
    assert [not first[i] for i in found] == min([not first[i] for i in order] for order in near)


@given(worth=matrices(5), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None, derandomize=True)
def test_local_search_never_makes_it_worse(worth: Matrix, seed: int) -> None:
    start = tuple(int(i) for i in np.random.default_rng(seed).permutation(len(worth)))
    found = local_search(worth, start)
    assert order_worth(worth, found) >= order_worth(worth, start) - 1e-9
    for item in found:  # no single move helps any more
        others = [i for i in found if i != item]
        for place in range(len(found)):
            moved = (*others[:place], item, *others[place:])
            assert order_worth(worth, moved) <= order_worth(worth, found) + 1e-9


@given(worth=matrices(5))
@settings(max_examples=40, deadline=None, derandomize=True)
def test_adding_to_both_directions_of_a_pair_changes_no_order(worth: Matrix) -> None:
    both = np.arange(len(worth) ** 2, dtype=np.float64).reshape(len(worth), -1)
    assert exact_order(worth + both + both.T) == exact_order(worth)


def test_many_items_are_searched_and_not_enumerated() -> None:
    # worth[k, j] = 1 where k > j: the identity collects everything there is, 20 * 19 / 2.
    worth = np.tril(np.ones((20, 20)), -1)
    assert best_order(worth) == tuple(range(20))
    assert order_worth(worth, best_order(worth)) == 190.0
    assert local_search(worth, tuple(reversed(range(20)))) == tuple(range(20))


def test_one_item_has_one_order() -> None:
    for rule in (exact_order, net_gain_order, greedy_mean_order, best_order):
        assert rule(np.array([[3.0]])) == (0,)
    assert order_worth(np.array([[3.0]]), (0,)) == 0.0


def test_the_diagonal_is_never_read() -> None:
    worth = np.array([[np.nan, 1.0], [2.0, np.inf]])
    assert exact_order(worth) == (0, 1)


@pytest.mark.parametrize(
    ("order", "wanted"), [((0, 0, 1), "0 to 2 exactly once"), ((0, 1), "0 to 2"), ((1, 2, 3), "0 to 2")]
)
def test_an_order_is_a_permutation(order: tuple[int, ...], wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        check_order(order, 3)


def test_bad_input() -> None:
    with pytest.raises(ValueError, match=r"shape \(2, 3\)"):
        exact_order(np.zeros((2, 3)))
    with pytest.raises(ValueError, match="not finite"):
        exact_order(np.array([[0.0, np.nan], [1.0, 0.0]]))
    with pytest.raises(ValueError, match="at most 15"):
        exact_order(np.zeros((16, 16)))
    with pytest.raises(ValueError, match="0 or more"):
        exact_order(np.zeros((2, 2)), tolerance=-1)
    with pytest.raises(ValueError, match="1 entries for 2 items"):
        exact_order(np.zeros((2, 2)), first=[True])
    with pytest.raises(ValueError, match="16 items are too many"):
        best_order(np.zeros((16, 16)), tolerance=0.1)

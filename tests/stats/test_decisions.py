"""Thresholds, costs, class weights and pooled answers: published vectors, plain loops, and what makes no decision."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.stats.decisions import (
    CostMatrix,
    Pooling,
    Utilities,
    answers,
    binary_threshold,
    penalty_of,
    pool_answers,
    unweight,
    unweight_classes,
)

THREE = [[0.0, 5.0, 9.0], [1.0, 0.0, 4.0], [2.0, 1.0, 0.0], [1.5, 1.5, 1.5]]
worth = st.floats(-100, 100)


# -- utilities ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("correct", "wrong", "abstain", "threshold"),
    [
        (1, -1, 0, 0.5),  # 1 / 2
        (1, -4, 0, 0.8),  # 4 / 5
        (1, -9, 0, 0.9),  # 9 / 10
        (1, -2, 0.2, 0.733333),  # 2.2 / 3
        (1, 0, 0.25, 0.25),  # 0.25 / 1
        (1, 0, 0, 0.0),  # nothing is lost by answering
    ],
)
def test_threshold_by_hand(correct: float, wrong: float, abstain: float, threshold: float) -> None:
    assert Utilities(correct=correct, wrong=wrong, abstain=abstain).threshold == pytest.approx(threshold, abs=1e-6)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 4.0, 9.0, 0.3])
def test_a_penalty_and_its_threshold_are_one(penalty: float) -> None:
    assert Utilities.of_penalty(penalty).threshold == pytest.approx(penalty / (1 + penalty))
    assert penalty_of(Utilities.of_penalty(penalty).threshold) == pytest.approx(penalty)


@given(correct=worth, wrong=worth, abstain=worth, p=st.floats(0, 1))
@settings(max_examples=80, deadline=None)
def test_the_threshold_is_where_both_are_worth_the_same(correct: float, wrong: float, abstain: float, p: float) -> None:
    if correct - wrong < 1e-3:
        return
    u = Utilities(correct=correct, wrong=wrong, abstain=abstain)
    assert u.expected(u.threshold) == pytest.approx(abstain, abs=1e-9)
    if abs(u.expected(p) - abstain) > 1e-6:
        assert bool(answers([p], u.threshold)[0]) == (u.expected(p) > abstain)


@given(scale=st.floats(0.01, 100), shift=worth)
@settings(max_examples=40, deadline=None)
def test_units_do_not_matter(scale: float, shift: float) -> None:
    moved = Utilities(correct=1 * scale + shift, wrong=-4 * scale + shift, abstain=shift)
    assert moved.threshold == pytest.approx(0.8, abs=1e-9)


def test_at_the_threshold_itself_a_record_is_answered() -> None:
    t = Utilities(correct=0.3, wrong=-0.6, abstain=0.0).threshold  # 2/3 by another road of rounding
    assert answers([2 / 3, 2 / 3 - 1e-9], t).tolist() == [True, False]


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ((0.0, 0.0, 0.5), "more for the right one"),
        ((-1.0, 1.0, 0.0), "more for the right one"),
        ((math.nan, 0.0, 0.0), "utility of correct is nan"),
        ((1.0, -math.inf, 0.0), "utility of wrong is -inf"),
        ((1.0, 0.0, math.nan), "utility of abstain is nan"),
        ((1e308, -1e308, 0.0), "utility of correct is 1e.308"),
    ],
)
def test_utilities_that_decide_nothing_are_refused(values: tuple[float, float, float], wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        Utilities(correct=values[0], wrong=values[1], abstain=values[2])


def test_bad_penalties_and_thresholds_are_refused() -> None:
    for penalty in (-1.0, math.nan, math.inf, 1e300):
        with pytest.raises(ValueError, match="wanted a finite number >= 0"):
            Utilities.of_penalty(penalty)
    for threshold in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="less than 1"):
            penalty_of(threshold)


# -- costs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("costs", "threshold"),
    [
        ([[0, 99], [1, 0]], 0.01),  # false alarm 1, miss 99: 1 / 100
        ([[0, 4], [1, 0]], 0.2),  # 1 / 5
        ([[0, 10], [3, 1]], 0.25),  # (3 - 0) / (3 - 0 + 10 - 1)
    ],
)
def test_binary_threshold_by_hand(costs: list[list[float]], threshold: float) -> None:
    assert binary_threshold(costs) == pytest.approx(threshold)
    matrix = CostMatrix(costs)
    for p in (threshold - 1e-6, threshold, threshold + 1e-6):
        row = matrix.choose([[1 - p, p]])[0]
        assert p == threshold or row == (p > threshold)


def test_utilities_are_a_cost_matrix_with_two_rows() -> None:
    u = Utilities(correct=1.0, wrong=-2.0, abstain=0.2)
    matrix = CostMatrix([[-u.wrong, -u.correct], [-u.abstain, -u.abstain]], ["answer", "abstain"])
    p = np.linspace(0, 1, 31)  # 22 / 30 is the threshold itself, where the first row is taken
    rows = matrix.choose(np.stack([1 - p, p], axis=1))
    assert ((rows == 0) == answers(p, u.threshold)).all()


def test_three_classes_and_a_way_to_abstain() -> None:
    matrix = CostMatrix(THREE, ["0", "1", "2", "abstain"])
    # .3 * 5 + .1 * 9 = 2.4; .6 + .4 = 1.0; 1.2 + .3 = 1.5; 1.5. The most probable class 0 is not chosen.
    assert matrix.expected([[0.6, 0.3, 0.1]])[0] == pytest.approx([2.4, 1.0, 1.5, 1.5])
    # .04 * 5 + .01 * 9 = .29; .95 + .04 = .99; 1.9 + .04 = 1.94; 1.5
    assert matrix.expected([[0.95, 0.04, 0.01]])[0] == pytest.approx([0.29, 0.99, 1.94, 1.5])
    assert matrix.choose([[0.6, 0.3, 0.1], [0.95, 0.04, 0.01]]).tolist() == [1, 0]


shares = st.lists(st.floats(0.01, 1), min_size=3, max_size=3)


@given(st.lists(st.lists(st.floats(0, 9), min_size=3, max_size=3), min_size=2, max_size=5), shares)
@settings(max_examples=80, deadline=None)
def test_the_choice_equals_a_plain_loop(costs: list[list[float]], weights: list[float]) -> None:
    if all(row == costs[0] for row in costs):
        return
    p = [w / sum(weights) for w in weights]
    expected = [sum(x * c for x, c in zip(p, row, strict=True)) for row in costs]
    matrix = CostMatrix(costs)
    assert matrix.expected([p])[0] == pytest.approx(expected)
    chosen = int(matrix.choose([p])[0])
    assert expected[chosen] == pytest.approx(min(expected), abs=1e-9)
    if sorted(expected)[1] > min(expected) + 1e-6:
        assert matrix.actions[chosen] not in matrix.idle()


def test_of_equally_good_actions_the_first_is_chosen() -> None:
    assert CostMatrix([[1, 1], [0, 2], [2, 0]]).choose([[0.5, 0.5]]).tolist() == [0]


def test_actions_that_are_never_chosen_are_named() -> None:
    assert CostMatrix([[0, 4], [1, 0], [1, 4]], ["a", "b", "abstain"]).idle() == ("abstain",)
    assert CostMatrix([[0, 1], [0, 1], [1, 0]]).idle() == ("1",)  # a twin: the first row is taken
    assert CostMatrix(THREE).idle() == ()


@pytest.mark.parametrize(
    ("costs", "wanted"),
    [
        ([], "at least two rows"),
        ([[0.0, 1.0]], "at least two rows"),
        ([[0.0], [1.0]], "one number per class"),
        ([[0.0, 1.0], [1.0]], "each with one number per class"),
        ([[0.0, math.nan], [1.0, 0.0]], "not finite"),
        ([[0.0, math.inf], [1.0, 0.0]], "not finite"),
        ([[1.0, 2.0], [1.0, 2.0]], "all rows of the costs are equal"),
    ],
)
def test_costs_that_decide_nothing_are_refused(costs: list[list[float]], wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        CostMatrix(costs)


def test_names_and_shapes_must_fit() -> None:
    for names in (["a"], ["a", "a"]):
        with pytest.raises(ValueError, match="one name per row, all different"):
            CostMatrix([[0, 1], [1, 0]], names)
    with pytest.raises(ValueError, match="wanted 2 x 2"):
        binary_threshold(THREE)
    for costs in ([[0, 1], [1, 1]], [[1, 0], [0, 1]]):
        with pytest.raises(ValueError, match="one action is always best"):
            binary_threshold(costs)
    matrix = CostMatrix(THREE)
    with pytest.raises(ValueError, match="of 3 classes"):
        matrix.choose([[0.5, 0.5]])
    for p in ([0.5, 0.6, 0.1], [1.2, -0.1, -0.1], [math.nan, 0.5, 0.5]):
        with pytest.raises(ValueError, match="with sum 1"):
            matrix.choose([p])


# -- class weights -----------------------------------------------------------------------------------------------------


def test_a_class_weight_is_undone() -> None:
    # b p / (b p + 1 - p) with b = 99: .99 / (.99 + .99) = .5; 4.95 / 5.9; 49.5 / 50
    p = [0.01, 0.05, 0.5]
    q = [99 * x / (99 * x + 1 - x) for x in p]
    assert q == pytest.approx([0.5, 0.838983, 0.99], abs=1e-6)
    assert unweight(q, 99) == pytest.approx(p)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8), st.floats(0.01, 100))
@settings(max_examples=60, deadline=None)
def test_undoing_keeps_the_order_and_the_ends(q: list[float], weight: float) -> None:
    p = unweight(q, weight)
    assert p == pytest.approx([x / (x + weight * (1 - x)) for x in q])
    assert unweight([0.0, 1.0], weight).tolist() == [0.0, 1.0]
    assert unweight(p, 1 / weight) == pytest.approx(q, abs=1e-9)


def test_many_classes_are_undone_like_two() -> None:
    # (.2 / 1, .3 / 3, .5 / 5) = (.2, .1, .1), over their sum .4
    assert unweight_classes([[0.2, 0.3, 0.5]], [1, 3, 5])[0] == pytest.approx([0.5, 0.25, 0.25])


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf])
def test_bad_weights_are_refused(weight: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        unweight([0.5], weight)
    with pytest.raises(ValueError, match="from 0 to 1"):
        unweight([1.5], 2.0)


# -- pooled answers ----------------------------------------------------------------------------------------------------


def test_the_vote_of_a_known_group() -> None:
    # A .9; B .3 + .4 = .7; C .5; together 2.1
    given_, p = ["A", "B", "B", "C"], [0.9, 0.3, 0.4, 0.5]
    assert _pooled(given_, p, "vote") == ("A", 0, pytest.approx(0.9 / 2.1))
    assert _pooled(given_, p, "mean") == ("A", 0, 0.9)


def test_mean_and_vote_differ() -> None:
    given_, p = ["A", "B", "B", "B"], [0.8, 0.7, 0.7, 0.7]
    assert _pooled(given_, p, "mean") == ("A", 0, 0.8)
    assert _pooled(given_, p, "vote") == ("B", 1, pytest.approx(2.1 / 2.9))


@pytest.mark.parametrize("how", ["mean", "vote"])
def test_of_equally_probable_answers_the_first_is_taken(how: Pooling) -> None:
    assert pool_answers(["B", "A"], [0.5, 0.5], how).answer == "B"
    assert pool_answers(["A", "B"], [0.0, 0.0], how).answer == "A"


def test_a_vote_without_any_weight_counts_heads() -> None:
    assert _pooled(["B", "A", "B"], [0.0, 0.0, 0.0], "vote") == ("B", 0, pytest.approx(2 / 3))


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.floats(0, 1)), min_size=1, max_size=8), st.booleans())
@settings(max_examples=60, deadline=None)
def test_pooling_equals_a_plain_loop(rows: list[tuple[str, float]], mean: bool) -> None:
    found = pool_answers([a for a, _ in rows], [p for _, p in rows], "mean" if mean else "vote")
    own = [p for a, p in rows if a == found.answer]
    total = sum(p for _, p in rows)
    best = 0.0
    for answer in {a for a, _ in rows}:
        held = [p for a, p in rows if a == answer]
        best = max(best, sum(held) / (len(held) if mean else 1))
    assert sum(own) / (len(own) if mean else 1) >= best - 1e-8
    wanted = sum(own) / len(own) if mean else sum(own) / total if total else len(own) / len(rows)
    assert found.probability == pytest.approx(wanted)
    assert rows[found.first][0] == found.answer
    assert 0 <= found.probability <= 1


def test_bad_groups_are_refused() -> None:
    bad: list[tuple[list[str], list[float]]] = [([], []), (["A"], [0.5, 0.5]), (["A"], [1.5]), (["A"], [math.nan])]
    for given_, p in bad:
        with pytest.raises(ValueError, match="wanted one each"):
            pool_answers(given_, p)


def _pooled(given_: list[str], p: list[float], how: Pooling) -> tuple[str, int, float]:
    return tuple(pool_answers(given_, p, how))

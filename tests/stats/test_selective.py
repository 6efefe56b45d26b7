"""Coverage, utility, risk-coverage, hindsight and intervals: a known set, plain loops, ties and bad input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.stats.calibration import fit_temperature
from critique_rl.stats.decisions import Utilities
from critique_rl.stats.selective import (
    best_outcome,
    mean_interval_over_units,
    outcome,
    regret,
    risk_coverage,
)

Q = [0.95, 0.9, 0.9, 0.8, 0.7, 0.6, 0.55, 0.3, 0.2, 0.0]
C = [True, True, False, True, True, False, True, False, True, False]
EVEN = Utilities.of_penalty(1)
FOUR = Utilities.of_penalty(4)

pairs = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.5, 0.7, 0.9, 1.0]), st.booleans()), min_size=1, max_size=9)


def test_a_penalty_of_one_by_hand() -> None:
    # 7 records reach .5, 5 of them right: 5 / 7 and (5 - 2) / 10; answering all is worth (6 - 4) / 10.
    found = outcome(Q, C, EVEN)
    assert found.threshold == 0.5
    assert (found.coverage, found.selective_accuracy, found.utility) == pytest.approx((0.7, 0.714286, 0.3), abs=1e-6)
    assert outcome(Q, C, EVEN, 0.0).utility == pytest.approx(0.2)


def test_a_penalty_of_four_by_hand() -> None:
    # 4 records reach .8, 3 of them right: (3 - 4) / 10; answering all (6 - 16) / 10.
    found = outcome(Q, C, FOUR)
    assert (found.coverage, found.selective_accuracy, found.utility) == pytest.approx((0.4, 0.75, -0.1))
    assert outcome(Q, C, FOUR, -math.inf).utility == pytest.approx(-1.0)
    best = best_outcome(Q, C, FOUR)
    assert (best.threshold, best.coverage, best.utility) == pytest.approx((0.95, 0.1, 0.1))


def test_a_temperature_leaves_nothing_to_answer_at_four() -> None:
    p = fit_temperature(Q, C).apply(Q)
    assert p.max() == pytest.approx(0.7939, abs=1e-4)
    found = outcome(p, C, FOUR)
    assert (found.coverage, found.selective_accuracy, found.utility) == (0.0, None, 0.0)


def test_abstaining_can_be_worth_something() -> None:
    # t = 2.2 / 3: .95, .9, .9, .8 are answered, three right: (3 - 2 + 6 * .2) / 10
    assert outcome(Q, C, Utilities(correct=1, wrong=-2, abstain=0.2)).utility == pytest.approx(0.22)


@given(pairs, st.sampled_from([0.0, 0.05, 0.1, 0.4, 0.7, 0.9, 1.0]), st.floats(0, 9))
@settings(max_examples=80, deadline=None)
def test_outcome_equals_a_plain_loop(data: list[tuple[float, bool]], at: float, penalty: float) -> None:
    total, kept = 0.0, []
    for p, right in data:
        if p >= at:
            total += 1 if right else -penalty
            kept.append(right)
    found = outcome([p for p, _ in data], [c for _, c in data], Utilities.of_penalty(penalty), at)
    assert found.utility == pytest.approx(total / len(data))
    assert found.coverage == len(kept) / len(data)
    assert found.selective_accuracy == (sum(kept) / len(kept) if kept else None)


@given(pairs, st.floats(0, 9))
@settings(max_examples=80, deadline=None)
def test_no_threshold_is_better_in_hindsight(data: list[tuple[float, bool]], penalty: float) -> None:
    p, c, u = [x for x, _ in data], [right for _, right in data], Utilities.of_penalty(penalty)
    best = best_outcome(p, c, u)
    every = [outcome(p, c, u, at).utility for at in {*p, math.inf, 0.3, 0.6}]
    assert best.utility == pytest.approx(max(every), abs=1e-9)
    assert best.coverage == max(
        outcome(p, c, u, at).coverage
        for at in {*p, math.inf}
        if outcome(p, c, u, at).utility >= max(every) - 1e-9 / len(p)
    )


def test_answering_nothing_can_be_best() -> None:
    found = best_outcome([0.9, 0.8], [False, False], EVEN)
    assert (found.threshold, found.coverage, found.utility) == (math.inf, 0.0, 0.0)


# -- risk and coverage -------------------------------------------------------------------------------------------------


def test_risk_coverage_by_hand() -> None:
    # Risks of the first k: 0, 1/2, 1/3, 1/4; mean (0 + .5 + .3333 + .25) / 4
    found = risk_coverage([0.9, 0.8, 0.7, 0.6], [True, False, True, True])
    assert found.area == pytest.approx((1 / 2 + 1 / 3 + 1 / 4) / 4)
    assert found.best_area == pytest.approx((1 / 4) / 4)  # the wrong one last
    assert found.error_rate == 0.25
    assert [(p.threshold, p.coverage, p.risk) for p in found.points] == [
        (0.9, 0.25, 0.0),
        (0.8, 0.5, 0.5),
        (0.7, 0.75, pytest.approx(1 / 3)),
        (0.6, 1.0, 0.25),
    ]


def test_equal_probabilities_are_one_point() -> None:
    found = risk_coverage([0.5] * 4, [True, False, False, True])
    assert [(p.coverage, p.risk) for p in found.points] == [(1.0, 0.5)]
    assert found.area == pytest.approx(0.5)


@given(st.lists(st.tuples(st.sampled_from([0.2, 0.5, 0.9]), st.booleans()), min_size=1, max_size=5))
@settings(max_examples=60, deadline=None)
def test_the_area_is_the_mean_over_all_orders_of_ties(data: list[tuple[float, bool]]) -> None:
    areas: list[float] = []
    for order in itertools.permutations(data):
        if [p for p, _ in order] == sorted((p for p, _ in data), reverse=True):
            wrong = np.cumsum([not right for _, right in order])
            areas.append(float(np.mean(wrong / np.arange(1, len(order) + 1))))
    found = risk_coverage([p for p, _ in data], [right for _, right in data])
    assert found.area == pytest.approx(np.mean(areas))
    assert found.best_area <= found.area + 1e-12


@given(pairs, st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_file_does_not_matter(data: list[tuple[float, bool]], seed: int) -> None:
    mixed = [data[i] for i in np.random.default_rng(seed).permutation(len(data))]
    one, two = (risk_coverage([p for p, _ in d], [c for _, c in d]) for d in (data, mixed))
    assert one.area == pytest.approx(two.area)
    assert one.points == two.points


# -- regret ------------------------------------------------------------------------------------------------------------


def test_regret_of_a_known_set() -> None:
    found = regret(Q, C, FOUR, draws=200)
    assert found.regret == pytest.approx(0.1 - -0.1)
    assert found.fixed == outcome(Q, C, FOUR)
    assert found.best.threshold == 0.95
    assert 0 <= found.regret_interval.low <= found.regret_interval.high
    assert found.utility_interval.low < -0.1 < found.utility_interval.high
    assert found.gain_interval.low <= 0.9 <= found.gain_interval.high  # -.1 over -1.0


def test_the_best_threshold_has_no_regret() -> None:
    found = regret([0.9, 0.2], [True, False], EVEN, draws=50)
    assert found.regret == 0.0
    assert found.regret_interval == (0.0, 0.0)
    assert found.utility_interval == pytest.approx((0.0, 1.0))


def test_one_record_has_an_interval_of_no_width() -> None:
    found = regret([0.9], [True], EVEN, draws=20)
    assert found.utility_interval == (1.0, 1.0)
    assert found.best_threshold_interval == (0.9, 0.9)


def test_a_resample_that_answers_nothing_gives_infinity() -> None:
    found = regret([0.9, 0.8], [False, False], EVEN, draws=20)
    assert found.best_threshold_interval == (math.inf, math.inf)
    assert found.best.utility == 0.0


def test_intervals_depend_on_the_seed_only() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(60)
    c = rng.random(60) < p
    assert regret(p, c, FOUR, draws=60, seed=3) == regret(p, c, FOUR, draws=60, seed=3)
    assert regret(p, c, FOUR, draws=60, seed=3) != regret(p, c, FOUR, draws=60, seed=4)


def test_the_interval_is_that_of_a_plain_bootstrap() -> None:
    rng = np.random.default_rng(1)
    p = np.round(rng.random(40), 1)
    c = rng.random(40) < p
    draws = np.random.default_rng(5)
    value = np.where(p >= 0.8, np.where(c, 1.0, -4.0), 0.0)
    means = [float(np.mean(value[draws.integers(0, 40, 40)])) for _ in range(100)]
    low, high = np.quantile(means, [0.025, 0.975], method="inverted_cdf")
    assert regret(p, c, FOUR, draws=100, seed=5).utility_interval == pytest.approx((low, high))


def test_records_that_belong_together_are_drawn_together() -> None:
    # 20 copies of each of 5 questions hold no more than 5 records: the interval is not narrower for them.
    p, c = [0.9, 0.85, 0.95, 0.99, 0.88], [True, False, True, True, False]
    single = regret(p, c, EVEN, draws=400).utility_interval
    copies = regret(p * 20, c * 20, EVEN, units=list("abcde") * 20, draws=400).utility_interval
    loose = regret(p * 20, c * 20, EVEN, draws=400).utility_interval
    assert copies.high - copies.low == pytest.approx(single.high - single.low, abs=0.21)
    assert loose.high - loose.low < 0.5 * (copies.high - copies.low)


def test_mean_interval_over_units() -> None:
    assert mean_interval_over_units([2.0, 2.0, 2.0], draws=20) == (2.0, 2.0)
    low, high = mean_interval_over_units([0.0, 1.0] * 50, draws=300)
    assert 0.38 < low < 0.5 < high < 0.62  # standard error .05
    assert mean_interval_over_units([0.0, 1.0] * 50, units=["x", "y"] * 50, draws=300) == (0.0, 1.0)


# -- bad input ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("p", "c", "wanted"),
    [
        ([], [], "at least one"),
        ([0.5], [True, False], "one each"),
        ([1.5], [True], "from 0 to 1"),
        ([math.nan], [True], "from 0 to 1"),
    ],
)
def test_bad_pairs_are_refused(p: list[float], c: list[bool], wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        outcome(p, c, EVEN)
    with pytest.raises(ValueError, match=wanted):
        best_outcome(p, c, EVEN)
    with pytest.raises(ValueError, match=wanted):
        risk_coverage(p, c)
    with pytest.raises(ValueError, match=wanted):
        regret(p, c, EVEN)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="draws is 0"):
        regret([0.5], [True], EVEN, draws=0)
    with pytest.raises(ValueError, match="confidence 1"):
        regret([0.5], [True], EVEN, confidence=1.0)
    with pytest.raises(ValueError, match="2 units came with 1 records"):
        regret([0.5], [True], EVEN, units=["a", "b"])
    for values in ([], [math.nan]):
        with pytest.raises(ValueError, match="at least one finite number"):
            mean_interval_over_units(values)

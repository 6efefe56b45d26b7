"""Proper scores: hand numbers, best (answer, confidence) by enumeration, and the weights that keep incentives right."""

from __future__ import annotations

import math
from functools import partial
from itertools import pairwise
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.stats.scoring import ScoringRule, check_incentive, minimum_weight, probability, score, unit_score

RULES: tuple[tuple[ScoringRule, float | None], ...] = (("brier", None), ("spherical", None), ("clipped_log", 0.01))
TINY = 1e-12  # clipped_log with a band this wide is the plain log at every point that is looked at
TENTHS = [n / 10 for n in range(11)]


def expected(p: float, q: float, rule: ScoringRule, *, weight: float = 1.0, eps: float | None = None) -> float:
    """E[weight * c + score] of an answer that is right with probability p, at confidence q."""
    return p * (weight + score(rule, q, True, eps=eps)) + (1 - p) * score(rule, q, False, eps=eps)


def honest(p: float, rule: ScoringRule, *, weight: float = 1.0, eps: float | None = None) -> float:
    return expected(p, p, rule, weight=weight, eps=eps)


# -- the rules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("correct", "q", "paper", "code"),
    [
        (True, 1.0, 1.0, 1.5),
        (True, 0.9, 0.99, 1.495),
        (True, 0.5, 0.75, 1.375),
        (True, 0.0, 0.0, 1.0),
        (False, 0.0, 0.0, 1.0),
        (False, 0.1, -0.01, 0.995),
        (False, 0.5, -0.25, 0.875),
        (False, 0.9, -0.81, 0.595),
        (False, 1.0, -1.0, 0.5),
    ],
)
def test_rlcr_rewards_by_hand(correct: bool, q: float, paper: float, code: float) -> None:
    # c - (q - c)^2 in the paper; its code adds halves of a valid form, of c and of 1 - (q - c)^2.
    assert correct + score("brier", q, correct) == pytest.approx(paper, abs=1e-12)
    assert 0.5 + 0.5 * correct + 0.5 * unit_score("brier", q, correct) == pytest.approx(code, abs=1e-12)


def test_expected_reward_at_seven_tenths() -> None:
    # p - p (1 - q)^2 - (1 - p) q^2 at p = .7
    found = [expected(0.7, q, "brier") for q in (0.0, 0.5, 0.7, 0.9, 1.0)]
    assert found == pytest.approx([0.0, 0.45, 0.49, 0.45, 0.40], abs=1e-12)


def test_a_group_by_hand() -> None:
    pairs = [(True, 0.9), (True, 0.6), (False, 0.8), (False, 0.2)]
    paper = [c + score("brier", q, c) for c, q in pairs]
    assert paper == pytest.approx([0.99, 0.84, -0.64, -0.04], abs=1e-12)
    mean = sum(paper) / 4  # 1.15 / 4 = .2875
    assert [r - mean for r in paper] == pytest.approx([0.7025, 0.5525, -0.9275, -0.3275], abs=1e-12)
    code = [0.5 + 0.5 * c + 0.5 * unit_score("brier", q, c) for c, q in pairs]
    halved = [r - sum(code) / 4 for r in code]
    assert halved == pytest.approx([(r - mean) / 2 for r in paper], abs=1e-12)
    assert [unit_score("brier", q, c) for c, q in pairs] == pytest.approx([0.99, 0.84, 0.36, 0.96], abs=1e-12)


def test_the_other_rules_by_hand() -> None:
    # hypot(.6, .4) = sqrt(.52); .6 / .7211102551 = .8320502943
    assert score("spherical", 0.6, True) == pytest.approx(0.8320502943)
    assert score("spherical", 0.6, False) == pytest.approx(0.5547001962)
    assert score("clipped_log", 0.25, True, eps=0.01) == pytest.approx(math.log(0.25))
    assert score("clipped_log", 0.25, False, eps=0.01) == pytest.approx(math.log(0.75))
    assert score("clipped_log", 0.0, True, eps=0.05) == pytest.approx(math.log(0.05))
    assert score("clipped_log", 1.0, True, eps=0.05) == score("clipped_log", 0.96, True, eps=0.05)


@given(
    q=st.floats(0, 1),
    p=st.floats(0, 1),
    which=st.integers(0, 2),
)
@settings(max_examples=80, deadline=None, derandomize=True)
def test_no_confidence_beats_the_true_one(q: float, p: float, which: int) -> None:
    rule, eps = RULES[which]
    assert expected(p, q, rule, eps=eps) <= honest(p, rule, eps=eps) + 1e-12


@pytest.mark.parametrize(("rule", "eps"), RULES)
def test_strictly_proper_inside_the_band(rule: ScoringRule, eps: float | None) -> None:
    for p in TENTHS[1:-1]:
        assert all(expected(p, q, rule, eps=eps) < honest(p, rule, eps=eps) - 1e-6 for q in TENTHS if q != p)


@given(q=st.floats(0, 1), correct=st.booleans(), which=st.integers(0, 2))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_unit_scores_run_from_zero_to_one(q: float, correct: bool, which: int) -> None:
    rule, eps = RULES[which]
    of = partial(unit_score, rule, eps=eps)
    assert -1e-12 <= of(q, correct) <= 1 + 1e-12
    assert of(q, correct) == pytest.approx(of(1 - q, not correct), abs=1e-9)
    assert (of(1.0, True), of(0.0, False), of(0.0, True), of(1.0, False)) == (1.0, 1.0, 0.0, 0.0)


# -- the weight of accuracy --------------------------------------------------------------------------------------------


def best(options: list[float], rule: ScoringRule, weight: float, eps: float | None = None) -> tuple[float, float]:
    """The answer's p and the q on a grid of tenths with the highest expected reward."""
    pairs = [(p, q) for p in options for q in TENTHS]
    return max(pairs, key=lambda pair: expected(*pair, rule, weight=weight, eps=eps))


def test_best_answer_and_confidence_on_a_grid() -> None:
    log = partial(best, rule="clipped_log", weight=1.0, eps=TINY)
    assert best([0.5, 0.0], "brier", 1.0) == (0.5, 0.5)
    assert honest(0.5, "brier") == pytest.approx(0.25)
    assert log([0.5, 0.0]) == (0.0, 0.0)
    assert honest(0.0, "clipped_log", eps=TINY) == pytest.approx(0.0, abs=1e-9)
    assert honest(0.5, "clipped_log", eps=TINY) == pytest.approx(0.5 - math.log(2))  # -.193: honesty does not pay
    assert best([0.4, 0.0], "brier", 1.0) == (0.4, 0.4)
    assert honest(0.4, "brier") == pytest.approx(0.16)
    assert best([0.4, 0.0], "brier", 0.5) == (0.0, 0.0)
    for choose in (log, partial(best, rule="brier", weight=1.0), partial(best, rule="brier", weight=0.5)):
        assert choose([0.7, 0.0]) == (0.7, 0.7)
        assert choose([0.3, 0.6]) == (0.6, 0.6)
    assert honest(0.7, "brier") == pytest.approx(0.49)
    assert honest(0.7, "brier", weight=0.5) == pytest.approx(0.14)
    assert honest(0.7, "clipped_log", eps=TINY) == pytest.approx(0.089136, abs=1e-6)


def test_value_is_monotone_only_from_the_minimum_weight_on() -> None:
    grid = [n / 1000 for n in range(1001)]

    def values(rule: ScoringRule, weight: float, eps: float | None = None) -> list[float]:
        return [honest(p, rule, weight=weight, eps=eps) for p in grid]

    def rises(v: list[float]) -> bool:
        return all(b >= a - 1e-12 for a, b in pairwise(v))

    assert values("brier", 1.0) == pytest.approx([p * p for p in grid], abs=1e-12)
    low = values("brier", 0.5)
    assert not rises(low)
    assert (min(low), grid[low.index(min(low))]) == pytest.approx((-0.0625, 0.25))
    log = values("clipped_log", 1.0, TINY)
    assert not rises(log)
    assert min(log) == pytest.approx(-0.313262, abs=1e-6)
    assert grid[log.index(min(log))] == pytest.approx(1 / (1 + math.e), abs=1e-3)  # sigmoid(-1) = .268941
    for rule, eps in RULES:
        least = minimum_weight(rule, eps)
        assert rises(values(rule, least, eps))
        assert not rises(values(rule, 0.98 * least, eps))


def test_minimum_weights_by_hand() -> None:
    assert minimum_weight("brier") == 1.0
    assert minimum_weight("spherical") == 1.0
    assert minimum_weight("clipped_log", 0.01) == pytest.approx(4.595120, abs=1e-6)  # log 99
    assert minimum_weight("clipped_log", 0.05) == pytest.approx(2.944439, abs=1e-6)  # log 19


@pytest.mark.parametrize(("rule", "eps"), [*RULES, ("clipped_log", 0.2)])
def test_minimum_weight_is_the_supremum_over_a_grid(rule: ScoringRule, eps: float | None) -> None:
    gaps = [score(rule, n / 500, False, eps=eps) - score(rule, n / 500, True, eps=eps) for n in range(501)]
    assert minimum_weight(rule, eps) == pytest.approx(max(gaps))


def test_too_little_accuracy_is_refused_with_the_value_that_is_needed() -> None:
    check_incentive("brier", 1.0, 1.0)
    check_incentive("brier", 0.5, 0.5)
    check_incentive("brier", 0.0, 0.0)
    check_incentive("clipped_log", 4.59512, 1.0, eps=0.01)
    check_incentive("clipped_log", 2.94444, 1.0, eps=0.05)
    check_incentive("clipped_log", 1.0, 1.0, eps=0.01, unit=True)  # a unit score has the range 1 under every rule
    with pytest.raises(ValueError, match=r"accuracy_weight 0.5 .* wanted accuracy_weight >= 1, or score_weight <= 0.5"):
        check_incentive("brier", 0.5, 1.0)
    with pytest.raises(ValueError, match=r"accuracy_weight >= 9.19024, or score_weight <= 0.870489"):
        check_incentive("clipped_log", 4.0, 2.0, eps=0.01)
    with pytest.raises(ValueError, match=r"accuracy_weight >= 2, or score_weight <= 1"):
        check_incentive("spherical", 1.0, 2.0, unit=True)


@given(weight=st.floats(0.01, 100), which=st.integers(0, 2))
@settings(max_examples=80, deadline=None, derandomize=True)
def test_what_is_accepted_is_monotone_and_what_is_refused_is_not(weight: float, which: int) -> None:
    rule, eps = RULES[which]
    least = minimum_weight(rule, eps) * weight
    check_incentive(rule, least, weight, eps=eps)
    with pytest.raises(ValueError, match="too small"):
        check_incentive(rule, 0.99 * least, weight, eps=eps)


# -- what cannot be used -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "eps", "wanted"),
    [
        ("log", None, "unbounded"),
        ("quadratic", None, "wanted brier, spherical or clipped_log"),
        ("clipped_log", None, "such as 0.01"),
        ("clipped_log", 0.0, "above 0 and below 0.5"),
        ("clipped_log", 0.5, "above 0 and below 0.5"),
        ("clipped_log", math.nan, "above 0 and below 0.5"),
        ("brier", 0.01, "no effect on rule 'brier'"),
        ("spherical", 0.01, "no effect on rule 'spherical'"),
    ],
)
def test_rules_that_cannot_be_used(rule: str, eps: float | None, wanted: str) -> None:
    name = cast(ScoringRule, rule)
    for call in (
        partial(score, name, 0.5, True, eps=eps),
        partial(unit_score, name, 0.5, True, eps=eps),
        partial(minimum_weight, name, eps),
        partial(check_incentive, name, 9.0, 1.0, eps=eps),
        partial(check_incentive, name, 9.0, 1.0, eps=eps, unit=True),
    ):
        with pytest.raises(ValueError, match=wanted):
            call()


@pytest.mark.parametrize("q", [math.nan, math.inf, -0.1, 1.1, 95.0])
def test_confidences_that_are_no_probabilities(q: float) -> None:
    # NaN passes a check that is written as "q < 0 or q > 1"
    with pytest.raises(ValueError, match="wanted a number from 0 to 1"):
        probability(q)
    with pytest.raises(ValueError, match="wanted a number from 0 to 1"):
        score("brier", q, True)


@pytest.mark.parametrize("weights", [(math.nan, 1.0), (1.0, math.nan), (math.inf, 1.0), (-1.0, 0.0), (1.0, -1.0)])
def test_weights_that_are_no_weights(weights: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="wanted a finite number >= 0"):
        check_incentive("brier", *weights)

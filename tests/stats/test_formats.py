"""Formats: the spec's numbers, identities, limits, chance, bad input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from critique_rl.stats.formats import (
    change_in_errors,
    excess_dominance,
    jensen_shannon,
    kl_divergence,
    share_error,
    shift_share,
    simpson,
    tilt_formats,
    tilt_inside,
    total_variation,
)

P0, P2 = [0.28, 0.62, 0.10], [0.99, 0.01, 0.0]
A = [0.35, 0.20, 0.10]
MASSES = st.lists(st.floats(0.01, 1.0), min_size=3, max_size=3)
RATES = st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3)


def normal(masses: list[float]) -> list[float]:
    return [mass / sum(masses) for mass in masses]


def test_9_5_concentration() -> None:
    assert simpson(P0) == pytest.approx(0.5272)
    assert simpson(P2) == pytest.approx(0.0198)


def test_9_5_distances() -> None:
    assert total_variation(P0, P2) == pytest.approx(0.71)
    assert kl_divergence(P2, P0) == pytest.approx(1.209015, abs=1e-6)
    assert jensen_shannon(P0, P2) == pytest.approx(0.332506, abs=1e-6)


def test_9_5_tilt() -> None:
    assert tilt_inside(P0, A, 1.0) == pytest.approx([0.3206, 0.5956, 0.0838], abs=1e-4)
    assert tilt_inside(P0, A, 0.5) == pytest.approx([0.3650, 0.5689, 0.0660], abs=1e-4)
    assert tilt_inside(P0, A, 0.2) == pytest.approx([0.4184, 0.5369, 0.0447], abs=1e-4)
    assert tilt_inside(P0, A, 0.0) == pytest.approx([0.422414, 0.534483, 0.043103], abs=1e-6)
    assert float(np.dot(P0, A)) == pytest.approx(0.232)


def test_2_2_tilt_of_formats_alone() -> None:
    alpha, a = [0.62, 0.28, 0.10], [0.20, 0.35, 0.10]
    assert tilt_formats(alpha, a, 0.2) == pytest.approx([0.487, 0.466, 0.048], abs=1e-3)
    assert tilt_formats(alpha, a, 0.05) == pytest.approx([0.099, 0.899, 0.002], abs=1e-3)
    assert tilt_formats(alpha, a, 0.0).tolist() == [0.0, 1.0, 0.0]


def test_both_tilts_are_continuous_at_no_penalty_and_reach_the_start_at_a_large_one() -> None:
    for tilt in (tilt_inside, tilt_formats):
        assert tilt(P0, A, 1e-4) == pytest.approx(tilt(P0, A, 0.0), abs=1e-6)
        assert tilt(P0, A, 1e6) == pytest.approx(P0, abs=1e-5)
        assert tilt(P0, A, 1e-320) == pytest.approx(tilt(P0, A, 0.0), abs=1e-9)  # 1 / beta is infinite


@given(MASSES, RATES, st.floats(0.01, 5.0))
def test_tilts_against_plain_loops(masses: list[float], a: list[float], beta: float) -> None:
    alpha = normal(masses)
    inside = normal([s * (x * math.exp(1 / beta) + 1 - x) for s, x in zip(alpha, a, strict=True)])
    formats = normal([s * math.exp(x / beta) for s, x in zip(alpha, a, strict=True)])
    assert tilt_inside(alpha, a, beta) == pytest.approx(inside, rel=1e-6)
    assert tilt_formats(alpha, a, beta) == pytest.approx(formats, rel=1e-6)


def test_no_right_answer_moves_nothing() -> None:
    assert tilt_inside(P0, [0, 0, 0], 0.0) == pytest.approx(P0)
    assert tilt_formats(P0, [0, 0, 0], 0.0) == pytest.approx(P0)


def test_a_format_that_nobody_uses_stays_unused() -> None:
    assert tilt_formats([1.0, 0.0], [0.1, 0.9], 0.0).tolist() == [1.0, 0.0]
    assert tilt_formats([1.0, 0.0], [0.1, 0.9], 1e-3).tolist() == [1.0, 0.0]
    assert tilt_inside([1.0, 0.0], [0.1, 0.9], 0.0).tolist() == [1.0, 0.0]


def test_excess_dominance_by_hand() -> None:
    # the commonest has 0.9; the brackets give it 0.42 and 0.60
    assert excess_dominance([0.1, 0.9], [0.58, 0.42], [0.4, 0.6]) == pytest.approx(0.3)
    assert excess_dominance([0.5, 0.5], [0.9, 0.1], [0.8, 0.2]) == pytest.approx(-0.4)


def test_9_5_shift_share() -> None:
    found = shift_share(P0, [0.90, 0.08, 0.02], A, [0.45, 0.22, 0.10])
    assert found == pytest.approx((0.1266, 0.0660, 0.1926), abs=1e-9)


@given(MASSES, MASSES, RATES, RATES)
def test_mix_and_within_are_the_whole_gain(m0: list[float], m1: list[float], a0: list[float], a1: list[float]) -> None:
    p0, p1 = normal(m0), normal(m1)
    found = shift_share(p0, p1, a0, a1)
    total = float(np.dot(p1, a1) - np.dot(p0, a0))
    assert found.mix + found.within == pytest.approx(total, abs=1e-12)
    assert found.total == pytest.approx(total, abs=1e-12)
    back = shift_share(p1, p0, a1, a0)
    assert (back.mix, back.within) == pytest.approx((-found.mix, -found.within), abs=1e-12)
    assert shift_share(p0, p0, a0, a1).mix == pytest.approx(0)
    assert shift_share(p0, p1, a0, a0).within == pytest.approx(0)


def test_a_format_that_came_or_went_changes_the_mix_only() -> None:
    found = shift_share([1.0, 0.0], [0.5, 0.5], [0.4, math.nan], [0.4, 0.8])
    assert found == pytest.approx((0.2, 0.0, 0.2))  # 0.5 * 0.4 + 0.5 * 0.8 - 0.4
    gone = shift_share([0.5, 0.5], [1.0, 0.0], [0.4, 0.8], [0.4, math.nan])
    assert gone == pytest.approx((-0.2, 0.0, -0.2))
    never = shift_share([1.0, 0.0], [1.0, 0.0], [0.4, math.nan], [0.5, math.nan])
    assert never == pytest.approx((0.0, 0.1, 0.1))
    with pytest.raises(ValueError, match="nan at both"):
        shift_share([1.0, 0.0], [0.5, 0.5], [0.4, math.nan], [0.4, math.nan])


@given(MASSES, MASSES)
def test_distances_are_distances(m0: list[float], m1: list[float]) -> None:
    p, q = normal(m0), normal(m1)
    assert total_variation(p, q) == pytest.approx(total_variation(q, p))
    assert jensen_shannon(p, q) == pytest.approx(jensen_shannon(q, p))
    assert 0 <= jensen_shannon(p, q) <= math.log(2)
    assert jensen_shannon(p, q) <= total_variation(p, q) * math.log(2) + 1e-9
    assert 2 * total_variation(p, q) ** 2 <= kl_divergence(p, q) + 1e-9  # Pinsker
    assert total_variation(p, p) == kl_divergence(p, p) == 0.0
    assume(p != q)
    assert kl_divergence(p, q) >= 0


def test_disjoint_formats() -> None:
    assert kl_divergence([1.0, 0.0], [0.0, 1.0]) == math.inf
    assert jensen_shannon([1.0, 0.0], [0.0, 1.0]) == pytest.approx(math.log(2))
    assert total_variation([1.0, 0.0], [0.0, 1.0]) == 1.0


def test_2_4_the_error_of_a_share() -> None:
    assert share_error(0.9, 256) == pytest.approx(0.019, abs=5e-4)
    assert share_error(0.0, 5) == share_error(1.0, 5) == 0.0


def test_changes_in_errors_by_hand() -> None:
    # 20 of 100 to 40 of 100: p = 0.3, sqrt(0.3 * 0.7 * 0.02) = 0.0648074
    assert change_in_errors(20, 100, 40, 100) == pytest.approx(0.2 / 0.0648074, rel=1e-5)
    assert change_in_errors(40, 100, 20, 100) == pytest.approx(-0.2 / 0.0648074, rel=1e-5)
    assert change_in_errors(0, 10, 0, 10) == change_in_errors(10, 10, 10, 10) == change_in_errors(0, 0, 5, 10) == 0.0


@pytest.mark.parametrize("shares", [[], [0.5, 0.6], [1.5, -0.5], [math.nan, 1.0]])
def test_shares_that_cannot_be(shares: list[float]) -> None:
    with pytest.raises(ValueError, match="sum to 1"):
        simpson(shares)


def test_other_bad_input() -> None:
    with pytest.raises(ValueError, match="equally many"):
        total_variation([1.0], [0.5, 0.5])
    with pytest.raises(ValueError, match="accuracies"):
        tilt_inside([1.0], [1.5], 0.1)
    with pytest.raises(ValueError, match="beta is -1"):
        tilt_formats([1.0], [0.5], -1)
    with pytest.raises(ValueError, match="one for each"):
        shift_share([1.0], [1.0], [0.5, 0.5], [0.5])
    with pytest.raises(ValueError, match="a sample or more"):
        share_error(0.5, 0)

"""Calibration error: published vectors, plain-loop references, edges."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.stats.calibration_error import (
    Bin,
    Binning,
    batch_figures,
    brier,
    confidence_collapse,
    ece,
    murphy,
    reliability,
)

Q = [0.95, 0.9, 0.9, 0.8, 0.7, 0.6, 0.55, 0.3, 0.2, 0.0]
C = [True, True, False, True, True, False, True, False, True, False]
TENTHS = [n / 10 for n in range(1, 11)]
RISING = [False, False, False, True, False, True, True, True, True, True]

pairs = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


# -- Brier score -------------------------------------------------------------------------------------------------------


def test_brier_by_hand() -> None:
    # (.05^2 + .1^2 + .9^2 + .2^2 + .3^2 + .6^2 + .45^2 + .3^2 + .8^2 + 0) / 10 = 2.245 / 10
    assert brier(Q, C) == pytest.approx(0.2245, abs=1e-12)
    assert brier(TENTHS, RISING) == pytest.approx(0.105, abs=1e-12)


def test_murphy_by_hand() -> None:
    # Accuracy .6, so uncertainty .6 * .4; only the two .9s share a value, right half of the time.
    parts = murphy(Q, C)
    assert parts == pytest.approx((0.2245, 0.1745, 0.19, 0.24), abs=1e-12)


@given(pairs)
@settings(max_examples=60, deadline=None)
def test_murphy_adds_up_to_brier(data: list[tuple[float, bool]]) -> None:
    q, c = [x for x, _ in data], [right for _, right in data]
    parts = murphy(q, c)
    assert parts.brier == pytest.approx(parts.reliability - parts.resolution + parts.uncertainty, abs=1e-9)
    assert parts.brier == pytest.approx(sum((x - right) ** 2 for x, right in data) / len(data), abs=1e-12)
    assert parts.reliability >= 0
    assert parts.resolution >= 0


def test_murphy_wants_plain_verdicts() -> None:
    with pytest.raises(ValueError, match="wanted right or wrong"):
        murphy([0.2, 0.4], [0.5, 1.0])


# -- expected calibration error ----------------------------------------------------------------------------------------


def test_exact_bins_by_hand() -> None:
    # Gaps: 0, .8, .3, .45, .6, .3, .2 for the single ones and 3 * |2/3 - .9166..| = .75 for the last bin: 3.4 of 10.
    found = reliability(Q, C)
    assert found.ece == pytest.approx(0.34, abs=1e-12)
    assert found.binning == "exact"
    assert found.bins[-1] == pytest.approx((3, 2.75 / 3, 2 / 3))
    assert [b.size for b in found.bins] == [1, 1, 1, 1, 1, 1, 1, 3]
    assert ece(TENTHS, RISING) == pytest.approx(0.27, abs=1e-12)


def test_a_tenth_falls_into_its_own_bin() -> None:
    # As floats 3 * 0.1 > 0.3, 6 * 0.1 > 0.6 and 7 * 0.1 > 0.7: these would fall one bin low.
    for n in range(10):
        assert reliability([n / 10, n / 10 + 0.05], [True, True]).bins == (Bin(2, pytest.approx(n / 10 + 0.025), 1.0),)  # pyright: ignore[reportArgumentType]
    assert len(reliability([0.95, 1.0], [True, True]).bins) == 1


def test_the_published_code_bins_tenths_by_float_edges() -> None:
    # .3, .6 and .7 fall one bin low. First set: .3 joins .2 (gap .5, not .3 + .8) and .6 joins .55 (.15, not .6 + .45):
    # 3.4 - .6 - .9 = 1.9 of 10.
    q = [n / 10 for n in range(11)]
    wanted = [0, 1, 2, 2, 4, 5, 5, 6, 8, 9, 9]
    edges = np.linspace(0, 1, 11)
    assert [min(sum(x >= edge for edge in edges) - 1, 9) for x in q] == wanted  # the plain loop
    sizes = [b.size for b in reliability(q, [True] * 11, binning="rlcr_code").bins]
    assert sizes == [wanted.count(b) for b in range(10) if b in wanted]
    assert ece(Q, C, binning="rlcr_code") == pytest.approx(0.19, abs=1e-12)
    assert ece(TENTHS, RISING, binning="rlcr_code") == pytest.approx(0.19, abs=1e-12)
    assert ece(TENTHS, RISING) == pytest.approx(0.27, abs=1e-12)
    assert reliability(Q, C, binning="rlcr_code").binning == "rlcr_code"


def test_bins_closed_on_the_right_would_give_a_third_value() -> None:
    # Ceiling in whole tenths, 0 in the first bin: the convention that is not on offer, as the spec's third number.
    def right_closed(q: list[float], c: list[bool]) -> float:
        gaps = [0.0] * 10
        for x, right in zip(q, c, strict=True):
            gaps[max(-(-round(x * 100) // 10) - 1, 0)] += right - x
        return sum(map(abs, gaps)) / len(q)

    assert right_closed(Q, C) == pytest.approx(0.26, abs=1e-12)
    assert right_closed(TENTHS, RISING) == pytest.approx(0.27, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 1000), st.booleans()), min_size=1, max_size=40))
@settings(max_examples=60, deadline=None)
def test_the_binnings_agree_away_from_edges(data: list[tuple[int, bool]]) -> None:
    q, c = [(n + 0.5) / 1001 for n, _ in data], [right for _, right in data]
    assert ece(q, c, binning="rlcr_code") == pytest.approx(ece(q, c), abs=1e-12)


def test_equal_mass_keeps_equal_probabilities_together() -> None:
    found = reliability([0.1, 0.9, 0.9, 0.9], [False, True, True, False], bins=4, binning="equal_mass")
    assert found.bins == (Bin(1, 0.1, 0.0), Bin(3, pytest.approx(0.9), pytest.approx(2 / 3)))  # pyright: ignore[reportArgumentType]
    assert found.ece == pytest.approx((0.1 + 3 * (0.9 - 2 / 3)) / 4)


@given(st.integers(1, 60), st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_equal_mass_bins_are_near_equal(count: int, bins: int) -> None:
    q = [(i + 0.5) / count for i in range(count)]
    held = reliability(q, [True] * count, bins=bins, binning="equal_mass").bins
    assert sum(b.size for b in held) == count
    assert max(b.size for b in held) - min(b.size for b in held) <= 1
    assert len(held) == min(bins, count)


@given(data=pairs, seed=st.integers(0, 99), binning=st.sampled_from(["exact", "equal_mass", "rlcr_code"]))
@settings(max_examples=60, deadline=None)
def test_ece_does_not_depend_on_the_order(data: list[tuple[float, bool]], seed: int, binning: Binning) -> None:
    mixed = [data[i] for i in np.random.default_rng(seed).permutation(len(data))]
    one, two = (ece([x for x, _ in d], [r for _, r in d], binning=binning) for d in (data, mixed))
    assert one == pytest.approx(two, abs=1e-12)
    assert 0 <= one <= 1


@given(pairs, st.integers(1, 15))
@settings(max_examples=60, deadline=None)
def test_exact_ece_equals_a_plain_loop(data: list[tuple[float, bool]], bins: int) -> None:
    gaps: dict[int, float] = {}
    for x, right in data:
        where = min(round(x * 10**9) * bins // 10**9, bins - 1)
        gaps[where] = gaps.get(where, 0.0) + right - x
    wanted = sum(map(abs, gaps.values())) / len(data)
    assert ece([x for x, _ in data], [r for _, r in data], bins=bins) == pytest.approx(wanted, abs=1e-9)


def test_one_bin_compares_the_means() -> None:
    # Mean confidence .59, accuracy .6.
    assert ece(Q, C, bins=1) == pytest.approx(0.01, abs=1e-12)
    assert ece(Q, C, bins=1, binning="equal_mass") == pytest.approx(0.01, abs=1e-12)


@pytest.mark.parametrize(
    ("q", "c", "wanted"),
    [
        ([], [], "0 probabilities came with 0 verdicts"),
        ([0.5], [True, False], "1 probabilities came with 2 verdicts"),
        ([1.1], [True], "from 0 to 1"),
        ([math.nan], [True], "from 0 to 1"),
        ([[0.5]], [True], "flat list"),
    ],
)
def test_bad_pairs_are_refused(q: list[float], c: list[bool], wanted: str) -> None:
    for measure in (brier, murphy, ece, reliability):
        with pytest.raises(ValueError, match=wanted):
            measure(q, c)
    with pytest.raises(ValueError, match="wanted at least 1"):
        ece([0.5], [True], bins=0)


# -- a batch of stated confidences -------------------------------------------------------------------------------------


def test_figures_of_a_known_batch() -> None:
    # Mean .59, accuracy .6, one of ten at an end, two .9s alike; std = sqrt(4.445 / 10 - .59^2) = sqrt(.0964).
    assert batch_figures(Q, C) == pytest.approx(
        {
            "valid": 1.0,
            "confidence": 0.59,
            "overconfidence": -0.01,
            "std": 0.3104835,
            "distinct": 9.0,
            "at_ends": 0.1,
            "collapsed": 0.0,
            "brier": 0.2245,
            "ece": 0.34,
            "ece_equal_mass": ece(Q, C, binning="equal_mass"),
            "auroc": 0.6875,
        },
        abs=1e-6,
    )


def test_completions_without_a_confidence_only_lower_the_valid_share() -> None:
    with_gaps = batch_figures([None, *Q, None], [True, *C, False])
    assert with_gaps.pop("valid") == pytest.approx(10 / 12)
    assert with_gaps == {name: value for name, value in batch_figures(Q, C).items() if name != "valid"}
    assert batch_figures([None, None], [True, False]) == {"valid": 0.0}
    assert batch_figures([], []) == {}


def test_what_cannot_be_had_is_left_out() -> None:
    figures = batch_figures([0.9, 0.8], [True, True])
    assert "auroc" not in figures
    assert figures["overconfidence"] == pytest.approx(-0.15)


@pytest.mark.parametrize(
    ("q", "wanted"),
    [
        ([0.9] * 20, (1, 0.0, 0.0, True)),
        ([0.1, 0.9] * 10, (2, 0.4, 0.0, True)),  # two words for no and yes
        ([0.0, 1.0] * 10, (2, 0.5, 1.0, True)),
        ([0.90, 0.91, 0.92, 0.93, 0.94], (5, 0.0141421, 0.0, True)),  # sqrt((.02^2 + .01^2) * 2 / 5)
        ([0.1, 0.3, 0.5, 0.7, 0.9], (5, 0.2828427, 0.0, False)),
        ([0.1, 0.3, 0.1 + 0.2, 0.5, 0.7], (4, 0.2039608, 0.0, True)),  # .1 + .2 is .3
        ([0.1, 0.5, 0.9], (3, 0.3265986, 0.0, False)),  # three numbers cannot have five values
        ([0.5], (1, 0.0, 0.0, False)),
    ],
)
def test_collapse_by_hand(q: list[float], wanted: tuple[int, float, float, bool]) -> None:
    assert confidence_collapse(q) == pytest.approx(wanted, abs=1e-6)


@given(pairs)
@settings(max_examples=60, deadline=None)
def test_figures_are_finite_and_do_not_depend_on_the_order(data: list[tuple[float, bool]]) -> None:
    q, c = [x for x, _ in data], [right for _, right in data]
    figures = batch_figures(q, c)
    assert all(math.isfinite(value) for value in figures.values())
    assert figures == pytest.approx(batch_figures(q[::-1], c[::-1]), abs=1e-9)
    assert ("auroc" in figures) == (len(set(c)) == 2)


def test_bad_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="2 confidences came with 1 verdicts"):
        batch_figures([0.5, None], [True])
    for bad in (math.nan, math.inf, 95.0, -0.1):
        with pytest.raises(ValueError, match="from 0 to 1"):
            batch_figures([0.5, bad], [True, False])
        with pytest.raises(ValueError, match="from 0 to 1"):
            confidence_collapse([bad])
    with pytest.raises(ValueError, match="empty"):
        confidence_collapse([])

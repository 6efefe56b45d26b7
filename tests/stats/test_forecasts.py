"""Figures of stated probabilities, the doubts about them, and what chance alone would give."""

from __future__ import annotations

import math

import numpy as np
import pytest

from critique_rl.stats.calibration import fit_platt, fit_temperature
from critique_rl.stats.forecasts import doubts, ece_by_chance, forecast_figures, log_loss

Q = [0.95, 0.9, 0.9, 0.8, 0.7, 0.6, 0.55, 0.3, 0.2, 0.0]
C = [True, True, False, True, True, False, True, False, True, False]


def test_figures_of_a_known_set() -> None:
    found = forecast_figures(Q, C)
    assert (found.records, found.accuracy) == (10, 0.6)
    assert found.mean_confidence == pytest.approx(0.59)
    assert found.ece == pytest.approx(0.34)
    assert found.brier == pytest.approx(0.2245)
    assert found.auroc == pytest.approx(0.6875)
    assert found.log_loss == pytest.approx(0.652030, abs=1e-6)
    # The .9s share a bin: |.95 - 1| + |1.8 - 1| + .2 + .3 + .6 + .45 + .3 + .8 + 0 = 3.5, over 10
    assert found.ece_equal_mass == pytest.approx(0.35)


def test_figures_after_a_temperature_and_after_platt() -> None:
    cooled = forecast_figures(fit_temperature(Q, C).apply(Q), C)
    assert cooled.log_loss == pytest.approx(0.586131, abs=1e-6)
    assert cooled.brier == pytest.approx(0.205197, abs=1e-6)
    assert cooled.auroc == pytest.approx(0.6875)  # a temperature keeps the order
    assert forecast_figures(fit_platt(Q, C).apply(Q), C).log_loss == pytest.approx(0.575281, abs=1e-6)


def test_log_loss_by_hand_and_at_the_ends() -> None:
    # -(log .8 + log .7) / 2
    assert log_loss([0.8, 0.3], [True, False]) == pytest.approx(-(math.log(0.8) + math.log(0.7)) / 2)
    assert log_loss([0.0], [True]) == pytest.approx(-math.log(1e-3))
    assert log_loss([1.0], [True]) == pytest.approx(-math.log(1 - 1e-3))


def test_a_good_list_raises_no_doubt() -> None:
    q = np.linspace(0.01, 0.99, 120)
    assert doubts(q, q > 0.5) == ()


def test_each_doubt_is_raised() -> None:
    few = doubts(Q, C)
    assert few == ("10 records are few; wanted at least 100",)
    q = np.linspace(0, 1, 120)
    assert "hardly rank right above wrong (AUROC 0.0" in doubts(q, q < 0.5)[0]
    assert doubts(q, np.ones(120, dtype=bool)) == ("all records are right; ranking cannot be judged",)
    assert "all records are wrong" in doubts(q, np.zeros(120, dtype=bool))[0]
    stuck = np.array([0.9] * 60 + [0.8] * 60)
    assert "collapsed (2 different values, standard deviation 0.050" in doubts(stuck, stuck > 0.85)[0]
    narrow = 0.9 + np.linspace(0, 0.01, 120)
    assert "standard deviation 0.003" in doubts(narrow, narrow > 0.905)[0]


def test_chance_by_a_plain_loop() -> None:
    rng = np.random.default_rng(7)
    q = [0.25] * 50
    gaps = [abs(sum(rng.random(50) < 0.25) / 50 - 0.25) for _ in range(60)]
    assert ece_by_chance(q, draws=60, seed=7) == pytest.approx(np.quantile(gaps, 0.99))


def test_certain_records_have_no_chance() -> None:
    assert ece_by_chance([0.0, 1.0], draws=5) == 0.0


def test_calibrated_records_stay_below_chance_and_others_do_not() -> None:
    rng = np.random.default_rng(0)
    q = rng.random(1000)
    right = rng.random(1000) < q
    assert forecast_figures(q, right).ece < ece_by_chance(q)
    assert forecast_figures(q**3, right).ece > ece_by_chance(q**3)


@pytest.mark.parametrize(("q", "c"), [([], []), ([0.5], [True, False]), ([1.5], [True]), ([math.nan], [True])])
def test_bad_pairs_are_refused(q: list[float], c: list[bool]) -> None:
    for measure in (forecast_figures, doubts):
        with pytest.raises(ValueError, match="wanted"):
            measure(q, c)

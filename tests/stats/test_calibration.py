"""Maps to believable probabilities: published vectors, edges, and that they keep the order."""

from __future__ import annotations

import json
import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.stats.calibration import Calibrator, fit_isotonic, fit_platt, fit_temperature
from critique_rl.stats.calibration_error import brier

Q = [0.95, 0.9, 0.9, 0.8, 0.7, 0.6, 0.55, 0.3, 0.2, 0.0]
C = [True, True, False, True, True, False, True, False, True, False]
Fit = Callable[[list[float], list[bool]], Calibrator]
FITS: tuple[Fit, ...] = (fit_temperature, fit_platt, fit_isotonic)

pairs = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=40)


def _log_loss(p: np.ndarray, c: list[bool]) -> float:
    return -sum(math.log(x if right else 1 - x) for x, right in zip(p, c, strict=True)) / len(c)


def test_temperature_of_a_known_set() -> None:
    fitted = fit_temperature(Q, C)
    assert fitted.temperature == pytest.approx(2.1837, abs=1e-3)
    p = fitted.apply(Q)
    wanted = [0.7939, 0.7323, 0.7323, 0.6536, 0.5958, 0.5463, 0.5230, 0.4042, 0.3464, 0.0406]
    assert p == pytest.approx(wanted, abs=5e-5)
    assert _log_loss(np.clip(Q, 1e-3, 1 - 1e-3), C) == pytest.approx(0.652030, abs=1e-6)
    assert _log_loss(p, C) == pytest.approx(0.586131, abs=1e-6)
    assert brier(p, C) == pytest.approx(0.205197, abs=1e-6)
    assert (fitted.count, fitted.ece_before) == (10, pytest.approx(0.34))


@pytest.mark.parametrize(("clip", "temperature"), [(1e-2, 2.03), (1e-3, 2.18), (1e-6, 2.45)])
def test_temperature_depends_on_the_clip(clip: float, temperature: float) -> None:
    assert fit_temperature(Q, C, clip=clip).temperature == pytest.approx(temperature, abs=5e-3)


def test_temperature_of_soft_verdicts_is_exact() -> None:
    z = np.array([-4.0, -2.0, 0.0, 2.0, 4.0])
    fitted = fit_temperature(1 / (1 + np.exp(-z)), 1 / (1 + np.exp(-z / 2)))
    assert fitted.temperature == pytest.approx(2.0, abs=1e-9)


def test_temperature_stops_at_its_bounds() -> None:
    assert fit_temperature([0.1, 0.9], [False, True]).temperature == pytest.approx(0.01)
    assert fit_temperature([0.1, 0.9], [True, False]).temperature == pytest.approx(100.0)


def test_platt_of_a_known_set() -> None:
    fitted = fit_platt(Q, C)
    assert (fitted.slope, fitted.intercept) == pytest.approx((0.408813, 0.340621), abs=1e-5)
    assert _log_loss(fitted.apply(Q), C) == pytest.approx(0.575281, abs=1e-6)


def test_platt_never_turns_scores_over() -> None:
    fitted = fit_platt([0.1, 0.2, 0.8, 0.9, 0.9], [True, True, False, False, False])
    assert fitted.slope == pytest.approx(0.0, abs=1e-6)
    assert fitted.apply([0.1, 0.9]) == pytest.approx([0.4, 0.4], abs=1e-4)


def test_isotonic_by_hand() -> None:
    # Verdicts in the order of q: 0 | 1 0 1 0 | 1 1 (1 0) | 1, pooled to 0, 1/2, 3/4, 1.
    fitted = fit_isotonic(Q, C)
    assert [x for x, _ in fitted.knots] == [0.0, 0.2, 0.6, 0.7, 0.9, 0.95]
    assert [y for _, y in fitted.knots] == pytest.approx([0.0, 0.5, 0.5, 0.75, 0.75, 1.0])
    assert fitted.apply([0.0, 0.1, 0.4, 0.65, 1.0]) == pytest.approx([0.001, 0.25, 0.5, 0.625, 0.999])


def test_isotonic_of_one_value_is_its_rate() -> None:
    fitted = fit_isotonic([0.9, 0.9, 0.9, 0.9], [True, False, False, False])
    assert fitted.apply([0.0, 0.9, 1.0]) == pytest.approx([0.25, 0.25, 0.25])


@pytest.mark.parametrize("fit", FITS)
def test_one_class_gives_a_finite_map(fit: Fit) -> None:
    for right in (True, False):
        p = fit([0.0, 0.5, 1.0], [right] * 3).apply([0.0, 0.5, 1.0])
        assert bool(((p >= 1e-3) & (p <= 1 - 1e-3)).all())


@given(data=pairs, which=st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_maps_never_decrease_and_survive_json(data: list[tuple[float, bool]], which: int) -> None:
    fitted = FITS[which]([x for x, _ in data], [r for _, r in data])
    grid = np.linspace(0, 1, 41)
    p = fitted.apply(grid)
    assert bool((np.diff(p) >= -1e-12).all())
    again = Calibrator.from_dict(json.loads(json.dumps(fitted.to_dict())))
    assert again == fitted
    assert bool((again.apply(grid) == p).all())


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        ({"method": "magic"}, "method is 'magic'"),
        ({"slope": "steep"}, "usable field"),
        ({"knots": [[0.1]]}, "usable field"),
        ({"method": "isotonic"}, "isotonic calibrator came with 0 knots"),
        ({"clip": 0.7}, "clip 0.7"),
    ],
)
def test_a_broken_record_is_refused(change: dict[str, object], wanted: str) -> None:
    with pytest.raises(ValueError, match=wanted):
        Calibrator.from_dict(fit_platt(Q, C).to_dict() | change)
    with pytest.raises(ValueError, match="usable field"):
        Calibrator.from_dict({"method": "platt"})


@pytest.mark.parametrize("fit", FITS)
def test_bad_pairs_are_refused(fit: Fit) -> None:
    with pytest.raises(ValueError, match="from 0 to 1"):
        fit([1.2], [True])
    with pytest.raises(ValueError, match="one verdict each"):
        fit([0.2, 0.3], [True])

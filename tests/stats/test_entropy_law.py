"""The law of entropy and reward: exact through two points, least squares through more, and what it cannot say."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.stats.entropy_law import EntropyLaw, entropy_law


def test_vector_9_7_law_through_two_points() -> None:
    law = entropy_law([0.6, 0.1], [0.30, 0.42])
    assert law is not None
    assert (law.a, law.b, law.residual) == pytest.approx((0.167376, 0.604979, 0.0), abs=1e-6)
    assert law.ceiling == pytest.approx(0.437603, abs=1e-6)
    assert law.reward(0.3) == pytest.approx(0.379045, abs=1e-6)
    assert law.reward(0.6) == pytest.approx(0.30) and law.reward(0.1) == pytest.approx(0.42)


def test_vector_9_7_law_by_least_squares() -> None:
    true = EntropyLaw(0.2, 0.66)
    entropies = np.linspace(0.05, 1.1, 36)
    law = entropy_law(list(entropies), [true.reward(h) for h in entropies])
    assert law is not None and (law.a, law.b) == pytest.approx((0.2, 0.66)) and law.residual < 1e-12


def test_least_squares_by_hand() -> None:
    # e^H = 1, 2, 3 and R = .5, .2, .2: slope -.15, so a = .15; b = .3 + .15 * 2 = .6; left .05, -.1, .05 -> sqrt(.015)
    law = entropy_law([math.log(x) for x in (1, 2, 3)], [0.5, 0.2, 0.2])
    assert law is not None
    assert (law.a, law.b, law.residual) == pytest.approx((0.15, 0.6, math.sqrt(0.015)))
    assert law.slope(math.log(2)) == pytest.approx(-0.3)


@given(st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1)), min_size=2, max_size=20))
def test_against_numpy(points: list[tuple[float, float]]) -> None:
    entropies, rewards = zip(*points, strict=True)
    law = entropy_law(entropies, rewards)
    spread = np.ptp(np.exp(entropies))
    if law is None:
        assert spread < 1e-8
    elif spread > 1e-3:
        slope, level = np.polyfit(np.exp(entropies), rewards, 1)
        assert (law.a, law.b) == pytest.approx((-slope, level), abs=1e-6, rel=1e-6)


def test_nothing_to_fit_and_bad_input() -> None:
    assert entropy_law([], []) is None and entropy_law([0.5], [0.1]) is None
    assert entropy_law([0.5, 0.5], [0.1, 0.3]) is None
    with pytest.raises(ValueError, match="2 entropies came with 1 rewards"):
        entropy_law([0.5, 0.4], [0.1])
    with pytest.raises(ValueError, match="not finite"):
        entropy_law([0.5, math.nan], [0.1, 0.2])

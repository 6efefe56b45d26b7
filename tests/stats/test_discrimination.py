"""AUROC: published vectors, a plain loop over pairs, invariances, edges."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.stats.discrimination import auroc


def test_known_sets() -> None:
    # 24 pairs of a right and a wrong one: 16 in order and one tie (.9, .9): 16.5 / 24.
    right = [True, True, False, True, True, False, True, False, True, False]
    assert auroc([0.95, 0.9, 0.9, 0.8, 0.7, 0.6, 0.55, 0.3, 0.2, 0.0], right) == pytest.approx(0.6875, abs=1e-12)
    rising = [False, False, False, True, False, True, True, True, True, True]
    assert auroc([n / 10 for n in range(1, 11)], rising) == pytest.approx(0.9583333, abs=1e-7)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
@settings(max_examples=80, deadline=None)
def test_equals_a_loop_over_all_pairs(data: list[tuple[int, bool]]) -> None:
    ups = [x for x, right in data if right]
    downs = [x for x, right in data if not right]
    found = auroc([float(x) for x, _ in data], [right for _, right in data])
    if not ups or not downs:
        assert found is None
        return
    won = sum((u > d) + 0.5 * (u == d) for u in ups for d in downs)
    assert found == pytest.approx(won / (len(ups) * len(downs)), abs=1e-12)
    turned = auroc([-math.exp(x) for x, _ in data], [right for _, right in data])
    assert turned == pytest.approx(1 - (found or 0.0), abs=1e-12)


def test_a_constant_score_is_chance_and_one_class_is_unknown() -> None:
    assert auroc([0.3] * 6, [True, False] * 3) == 0.5
    assert auroc([0.3, 0.4], [True, True]) is None
    assert auroc([], []) is None


@pytest.mark.parametrize(("scores", "correct"), [([0.1], [True, False]), ([math.nan, 0.1], [True, False])])
def test_bad_lists_are_refused(scores: list[float], correct: list[bool]) -> None:
    with pytest.raises(ValueError, match="wanted two flat lists"):
        auroc(scores, correct)

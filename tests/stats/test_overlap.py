"""Masses, overlap and entropy gap over one support's bins."""

from __future__ import annotations

import math

import numpy as np
import pytest

from critique_rl.stats.overlap import Floats, support_mass, support_overlap

STUDENT, TEACHER = (0.50, 0.25, 0.15, 0.07, 0.03), (0.10, 0.60, 0.05, 0.20, 0.05)


def at(probs: tuple[float, ...], *ids: int) -> Floats:
    return np.log([[probs[i] for i in ids]])


def test_by_hand_on_the_students_top_two() -> None:
    # bins S (.5, .25, .25), T (.1, .6, .3): masses .75 and .70, min .1 + .25 + .25 = .60,
    # H(T) = -(.1 ln .1 + .6 ln .6 + .3 ln .3) = .897946, H(S) = 1.5 ln 2 = 1.039721
    seen = support_overlap(at(STUDENT, 0, 1), at(TEACHER, 0, 1))
    assert seen.student_mass_T.tolist() == pytest.approx([0.75])
    assert seen.teacher_mass_T.tolist() == pytest.approx([0.70])
    assert seen.overlap_T.tolist() == pytest.approx([0.60])
    assert seen.entropy_gap_T.tolist() == pytest.approx([0.897946 - 1.039721], abs=1e-6)


def test_each_sides_mass_on_the_others_top_two() -> None:
    assert support_mass(at(STUDENT, 1, 3)).tolist() == pytest.approx([0.32])
    assert support_mass(at(TEACHER, 0, 1)).tolist() == pytest.approx([0.70])


@pytest.mark.parametrize("ids", [(0, 1, 2, 3), (4, 2, 0, 1, 3)])
def test_all_ids_or_all_but_one_are_the_whole_vocabulary(ids: tuple[int, ...]) -> None:
    # 1.158215 - 1.269060; min .1 + .25 + .05 + .07 + .03
    seen = support_overlap(at(STUDENT, *ids), at(TEACHER, *ids))
    assert seen.entropy_gap_T.tolist() == pytest.approx([-0.110845], abs=1e-6)
    assert seen.overlap_T.tolist() == pytest.approx([0.50])


def test_against_a_plain_loop_and_within_its_bounds() -> None:
    rng = np.random.default_rng(0)
    student, teacher = (np.log(rng.dirichlet(np.ones(12), size=20)) for _ in range(2))
    whole = support_overlap(student, teacher)
    seen = support_overlap(student[:, :4], teacher[:, :4])
    for t in range(20):
        s, q = ([*np.exp(side[t, :4]).tolist()] for side in (student, teacher))
        s, q = [*s, 1 - sum(s)], [*q, 1 - sum(q)]
        assert seen.overlap_T[t] == pytest.approx(sum(min(a, b) for a, b in zip(s, q, strict=True)))
        gap = sum(a * math.log(a) for a in s) - sum(b * math.log(b) for b in q)
        assert seen.entropy_gap_T[t] == pytest.approx(gap)
    assert bool((seen.overlap_T >= whole.overlap_T - 1e-12).all())
    assert bool((seen.student_mass_T <= 1).all())


def test_equal_sides_strangers_and_nothing() -> None:
    same = support_overlap(at(STUDENT, 0, 1), at(STUDENT, 0, 1))
    assert same.overlap_T.tolist() == pytest.approx([1.0])
    assert same.entropy_gap_T.tolist() == [0.0]
    one, other = np.array([[0.0, -np.inf]]), np.array([[-np.inf, 0.0]])
    apart = support_overlap(one, other)
    assert apart.overlap_T.tolist() == [0.0] and apart.entropy_gap_T.tolist() == [0.0]
    assert support_overlap(np.zeros((0, 3)), np.zeros((0, 3))).overlap_T.shape == (0,)


def test_rounding_never_makes_a_mass_above_one() -> None:
    assert support_mass(np.array([[np.log(0.7) + 1e-9, np.log(0.3) + 1e-9]])).tolist() == [1.0]


def test_nan_stays_where_it_is() -> None:
    seen = support_overlap(np.array([[np.nan, -1.0], [-1.0, -1.0]]), np.array([[-1.0, -1.0], [-1.0, -1.0]]))
    assert np.isnan(seen.overlap_T).tolist() == [True, False]


def test_two_supports_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(1, 2\), teacher_logprobs_TK \(1, 3\); wanted one shape"):
        support_overlap(np.zeros((1, 2)), np.zeros((1, 3)))

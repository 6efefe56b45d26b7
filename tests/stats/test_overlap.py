"""Masses, overlap and entropy gap over one support's bins."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.stats.overlap import Floats, shared_places, support_mass, support_overlap

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


# Which ids two supports share


def test_shared_ids_by_hand() -> None:
    # three tokens of three ids; two, three and one of them are shared
    student = np.array([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    first = np.array([[1, 2, 9], [4, 5, 6], [7, 1, 2]])
    places = shared_places(student, first)
    assert places.tolist() == [[0, 1, -1], [0, 1, 2], [0, -1, -1]]
    second = np.array([[1, 2, 3], [4, 1, 2], [1, 2, 3]])
    assert (shared_places(student, second) >= 0).sum(axis=1).tolist() == [3, 1, 0]
    # the ids need no order, and the supports no equal size
    assert shared_places(student, np.array([[9, 3], [5, 4], [8, 8]]))[:2].tolist() == [[-1, -1, 1], [1, 0, -1]]


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), t=st.integers(0, 5), k=st.integers(0, 6), other_k=st.integers(0, 6))
def test_shared_ids_against_a_plain_loop(seed: int, t: int, k: int, other_k: int) -> None:
    rng = np.random.default_rng(seed)
    mine, theirs = (
        np.array([rng.permutation(9)[:size] for _ in range(t)], dtype=np.int64).reshape(t, size)
        for size in (k, other_k)
    )
    places = shared_places(mine, theirs)
    assert places.shape == (t, k)
    for row, ids, others in zip(places.tolist(), mine.tolist(), theirs.tolist(), strict=True):
        assert row == [others.index(i) if i in others else -1 for i in ids]


def test_ids_of_other_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match=r"ids_TK has shape \(2, 3\), other_ids_TL \(1, 3\); wanted"):
        shared_places(np.zeros((2, 3), dtype=np.int64), np.zeros((1, 3), dtype=np.int64))

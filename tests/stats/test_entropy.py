"""Entropies: the spec's numbers, a plain loop, invariances, the bias that Miller and Madow add back, bad input."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.stats.entropy import conditional_entropy, entropy, label_entropy, modal_share, spread


def test_9_4_strategy_entropy() -> None:
    found = spread([5, 3, 2])
    assert found.nats == pytest.approx(1.029653, abs=1e-6)
    assert found.bits == pytest.approx(1.485475, abs=1e-6)
    assert found.normalised == pytest.approx(0.937231, abs=1e-6)
    assert found.effective == pytest.approx(2.800094, abs=1e-6)
    assert entropy([1, 1, 1, 1]) == pytest.approx(1.386294, abs=1e-6)
    assert entropy([7]) == 0.0


def test_9_4_answer_level_semantic_entropy() -> None:
    assert entropy([3, 2, 1]) == pytest.approx(1.011404, abs=1e-6)
    assert label_entropy(["7", "7", "8", "7", "8", None]) == pytest.approx(1.011404, abs=1e-6)
    assert entropy([0.5, 0.3, 0.2]) == pytest.approx(1.029653, abs=1e-6)


def test_9_4_conditional_entropy() -> None:
    pairs = [("s1", "e1"), ("s1", "e1"), ("s1", "e2"), ("s2", "e3"), ("s2", "e3")]
    assert conditional_entropy(pairs) == pytest.approx(0.381909, abs=1e-6)
    # 3/5 of the pairs begin with s1, whose seconds are 2:1
    assert conditional_entropy(pairs) == pytest.approx(0.6 * 0.636514, abs=1e-6)


def test_9_5_entropies_of_shares() -> None:
    first = spread([0.28, 0.62, 0.10])
    assert first[:4] == pytest.approx((0.883071, 0.883071 / math.log(2), 0.803806, 2.418315), abs=1e-6)
    second = spread([0.70, 0.20, 0.10])
    assert (second.nats, second.normalised) == pytest.approx((0.801819, 0.729847), abs=1e-6)
    # An empty bin is one that there could be: it counts in ln m.
    third = spread([0.99, 0.01, 0.0])
    assert (third.nats, third.normalised, third.effective) == pytest.approx((0.056002, 0.050975, 1.057599), abs=1e-6)


def test_how_many_bins_there_could_be() -> None:
    assert spread([1, 1], bins=4).normalised == pytest.approx(0.5)  # ln 2 / ln 4
    assert spread([3]).normalised == 0.0
    with pytest.raises(ValueError, match=r"bins is 1, and 2 bins"):
        spread([1, 1], bins=1)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=8))
def test_against_a_plain_loop(counts: list[int]) -> None:
    total = sum(counts)
    wanted = -sum(c / total * math.log(c / total) for c in counts if c) if total else 0.0
    assert entropy(counts) == pytest.approx(wanted, abs=1e-12)
    assert entropy(counts) == pytest.approx(entropy([*counts[::-1], 0]), abs=1e-12)
    assert entropy(counts) == pytest.approx(entropy([3 * c for c in counts]), abs=1e-12)
    assert 0 <= entropy(counts) <= math.log(len(counts)) + 1e-12


def test_miller_madow_by_hand() -> None:
    # H of 5, 3, 2 and (3 non-empty bins - 1) / (2 * 10)
    assert entropy([5, 3, 2, 0], miller_madow=True) == pytest.approx(1.029653 + 0.1, abs=1e-6)
    assert entropy([4], miller_madow=True) == 0.0


def test_miller_madow_halves_the_bias_and_more() -> None:
    """Every sample of 6 draws from three equal bins, weighed by its probability: the exact means."""
    draws = list(product(range(3), repeat=6))
    plain = math.fsum(label_entropy(draw) for draw in draws) / len(draws)
    better = math.fsum(label_entropy(draw, miller_madow=True) for draw in draws) / len(draws)
    assert plain < math.log(3)
    assert abs(better - math.log(3)) < 0.5 * (math.log(3) - plain)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=30))
def test_conditional_is_joint_minus_first(pairs: list[tuple[int, int]]) -> None:
    joint = entropy(list(Counter(pairs).values()))
    first = entropy(list(Counter(first for first, _ in pairs).values()))
    assert conditional_entropy(pairs) == pytest.approx(joint - first, abs=1e-9)


def test_modal_share() -> None:
    assert modal_share([3, 3, 2, 4]) == 0.5
    assert modal_share([]) is None


def test_nothing_counted() -> None:
    assert entropy([]) == entropy([0, 0]) == conditional_entropy([]) == 0.0


@pytest.mark.parametrize("masses", [[-1.0, 2.0], [math.nan], [math.inf, 1.0]])
def test_masses_that_cannot_be(masses: list[float]) -> None:
    with pytest.raises(ValueError, match="wanted a flat list of finite numbers"):
        entropy(masses)

"""chrF, its clusters and the decay of visits: the spec's numbers, plain loops, symmetry, degenerate sets."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.stats.trajectories import chrf, chrf_matrices, chrf_matrix, cluster_count, clusters, decay_rate

TEXTS = st.lists(st.text("ab c", max_size=8), max_size=5)


def test_9_6_chrf() -> None:
    assert chrf("abcdef", "abcxef") == pytest.approx(28.055556, abs=1e-6)
    assert chrf("abc", "abcd") == pytest.approx(68.862275, abs=1e-6)
    assert chrf("abcd", "abc") == pytest.approx(89.84375, abs=1e-6)
    assert chrf("abc", "abcd", beta=1.0) == pytest.approx(77.966102, abs=1e-6)
    assert chrf("abcd", "abc", beta=1.0) == pytest.approx(77.966102, abs=1e-6)


def test_the_matrix_is_the_mean_of_both_directions() -> None:
    found = chrf_matrix(["abc", "abcd", "abc"])
    assert found[0, 1] == found[1, 0] == pytest.approx((68.862275 + 89.84375) / 2, abs=1e-6)
    assert found[0, 2] == 100.0
    assert np.diag(found).tolist() == [100.0] * 3


def chrf_by_hand(hypothesis: str, reference: str, beta: float) -> float:
    h, r = ("".join(text.split()) for text in (hypothesis, reference))
    precisions: list[float] = []
    recalls: list[float] = []
    for n in range(1, 7):
        own, other = (Counter(text[i : i + n] for i in range(len(text) - n + 1)) for text in (h, r))
        if own and other:
            matched = (own & other).total()
            precisions.append(matched / own.total())
            recalls.append(matched / other.total())
    if not precisions:
        return 0.0
    p, r_ = sum(precisions) / len(precisions), sum(recalls) / len(recalls)
    return 100 * (1 + beta**2) * p * r_ / (beta**2 * p + r_) if p + r_ else 0.0


@given(st.text("abc ", max_size=9), st.text("abc ", max_size=9), st.sampled_from([1.0, 2.0, 0.5]))
def test_chrf_against_a_plain_loop(hypothesis: str, reference: str, beta: float) -> None:
    assert chrf(hypothesis, reference, beta=beta) == pytest.approx(chrf_by_hand(hypothesis, reference, beta), abs=1e-9)


@given(st.lists(st.text("ab \u00e4\U0001f600", max_size=9), min_size=2, max_size=4), st.sampled_from([1.0, 2.0]))
def test_the_matrix_has_sacrebleus_numbers(texts: list[str], beta: float) -> None:
    found = chrf_matrix(texts, beta=beta)
    for i, one in enumerate(texts):
        for j, other in enumerate(texts):
            wanted = (chrf(one, other, beta=beta) + chrf(other, one, beta=beta)) / 2 if one != other else 100.0
            assert found[i, j] == pytest.approx(wanted, abs=1e-9)


def test_the_matrix_of_long_texts_has_sacrebleus_numbers() -> None:
    one = "First we add the tens: 20 + 30 = 50. Then the ones: 3 + 4 = 7. So the sum is 57."
    texts = [one, one.replace("First", "To begin,"), "aaaa " * 30, "Use the formula n (n + 1) / 2 with n = 10.", ""]
    found = chrf_matrix(texts)
    for i in range(5):
        for j in range(i):
            wanted = (chrf(texts[i], texts[j]) + chrf(texts[j], texts[i])) / 2
            assert found[i, j] == pytest.approx(wanted, abs=1e-9)


@given(st.lists(TEXTS, max_size=4))
def test_many_lists_in_one_pass_are_each_alone(samples: list[list[str]]) -> None:
    together = chrf_matrices(samples)
    assert len(together) == len(samples)
    for texts, found in zip(samples, together, strict=True):
        assert np.array_equal(found, chrf_matrix(texts))


@given(TEXTS)
def test_the_matrix_is_symmetric_and_follows_the_order(texts: list[str]) -> None:
    found = chrf_matrix(texts)
    assert np.allclose(found, found.T)
    assert np.allclose(chrf_matrix(texts[::-1]), found[::-1, ::-1])
    assert cluster_count(found) == cluster_count(chrf_matrix(texts[::-1]))
    assert cluster_count(found) == (len(set(clusters(found).tolist())) if texts else 0)


def test_clusters_by_hand() -> None:
    # 1 and 2 join at similarity 80; the pair and 3 at the mean of 70 and 40, which is 55
    similarity = np.array([[100, 80, 70], [80, 100, 40], [70, 40, 100]], dtype=float)
    assert len(set(clusters(similarity, cut=60).tolist())) == 2
    assert len(set(clusters(similarity, cut=54).tolist())) == 1
    assert len(set(clusters(similarity, cut=81).tolist())) == 3
    # Single linkage would join all three at 70: average linkage does not.
    assert clusters(similarity, cut=60)[0] == clusters(similarity, cut=60)[1] != clusters(similarity, cut=60)[2]


def test_a_cut_is_reached_at_its_own_value() -> None:
    similarity = np.array([[100.0, 60.0], [60.0, 100.0]])
    assert clusters(similarity, cut=60).max() == 1
    assert clusters(similarity, cut=60.1).max() == 2


def test_how_many_ways() -> None:
    one, other = "first add the tens then the ones", "use the formula of Gauss"
    texts = {2: [one, one + ".", other, other], 1: [one], 0: []}
    for wanted, given_texts in texts.items():
        assert cluster_count(chrf_matrix(given_texts)) == wanted
    assert cluster_count(chrf_matrix([one, one])) == 1
    assert cluster_count(chrf_matrix(["", "   "])) == 2  # nothing is like nothing: chrF of empty texts is 0


def test_similarities_of_one_direction_are_refused() -> None:
    with pytest.raises(ValueError, match="mean of both"):
        clusters(np.array([[100.0, 68.9], [89.8, 100.0]]))


def test_9_6_decay() -> None:
    assert decay_rate([100, 10, 1]) == pytest.approx(1.0)
    assert decay_rate([80, 40, 20, 10, 5]) == pytest.approx(0.30103, abs=1e-6)
    assert math.log(10) * (decay_rate([100, 10, 1]) or 0) == pytest.approx(2.302585, abs=1e-6)
    assert math.log(10) * (decay_rate([80, 40, 20, 10, 5]) or 0) == pytest.approx(0.693147, abs=1e-6)
    plain = decay_rate([9, 5, 4, 1])
    assert plain is not None and decay_rate([x**2.5 for x in (9, 5, 4, 1)]) == pytest.approx(2.5 * plain)


@given(st.lists(st.integers(0, 1000), max_size=12))
def test_decay_against_polyfit(visits: list[int]) -> None:
    known = sorted((v for v in visits if v), reverse=True)
    found = decay_rate(visits)
    if len(known) < 2:
        assert found is None
        return
    slope = np.polyfit(np.arange(1, len(known) + 1), np.log10(known), 1)[0]
    assert found == pytest.approx(-slope, abs=1e-9)
    assert decay_rate([7 * v for v in visits]) == pytest.approx(found, abs=1e-9)
    assert found >= 0


def test_bad_input() -> None:
    with pytest.raises(ValueError, match="visits is"):
        decay_rate([1, -1])
    with pytest.raises(ValueError, match="beta is 0"):
        chrf("a", "a", beta=0)

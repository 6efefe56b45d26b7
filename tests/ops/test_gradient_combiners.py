"""PCGrad and MGDA on the Gram matrix, against the vectors themselves; legend: K gradients of D numbers."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from critique_rl.ops.gradient_combiners import gradient_coefficients, mgda, pcgrad, visiting_orders


def rows(*gradients: Sequence[float]) -> Tensor:
    return torch.tensor(gradients, dtype=torch.float64)


def gram(gradients_KD: Tensor) -> Tensor:
    return gradients_KD @ gradients_KD.T


def projected(gradients_KD: Tensor, orders: Sequence[Sequence[int]]) -> Tensor:
    """PCGrad with real vectors: each copy loses its part along every original that it conflicts with."""
    total = torch.zeros_like(gradients_KD[0])
    for k, order in enumerate(orders):
        copy = gradients_KD[k].clone()
        for other in order:
            inner = float(copy.dot(gradients_KD[other]))
            if inner < 0:
                copy = copy - inner / float(gradients_KD[other].dot(gradients_KD[other])) * gradients_KD[other]
        total = total + copy
    return total


@st.composite
def gradients(draw: st.DrawFn, *, most: int = 5) -> Tensor:
    count, size = draw(st.integers(1, most)), draw(st.integers(1, 6))
    # eighths: gradients that are equal, opposite or zero come up, and no sum of products is rounded away
    numbers = draw(st.lists(st.integers(-40, 40), min_size=count * size, max_size=count * size))
    return torch.tensor(numbers, dtype=torch.float64).reshape(count, size) / 8


CONFLICTING = rows([1.0, 0.0], [-0.5, 1.0])


def test_two_conflicting_gradients_by_hand() -> None:
    # inner product -.5, |g_2|^2 = 1.25: g_1' = g_1 + .4 g_2 = [.8, .4]; g_2' = g_2 + .5 g_1 = [0, 1]
    alpha = pcgrad(gram(CONFLICTING), orders=[[1], [0]])
    assert alpha.tolist() == pytest.approx([1.5, 1.4])
    assert (alpha @ CONFLICTING).tolist() == pytest.approx([0.8, 1.4])
    # a_1 = (1.25 + .5) / (1 + 1.25 + 1) = 1.75 / 3.25
    alpha = mgda(gram(CONFLICTING))
    assert alpha.tolist() == pytest.approx([0.5384615, 0.4615385], abs=1e-7)
    d = alpha @ CONFLICTING
    assert d.tolist() == pytest.approx([0.3076923, 0.4615385], abs=1e-7)
    assert (CONFLICTING @ d).tolist() == pytest.approx([0.3076923, 0.3076923], abs=1e-7)
    assert float(d @ d) == pytest.approx(0.3076923, abs=1e-7)


def test_normalised_gradients_meet_in_their_bisector() -> None:
    # unit gradients take 1/2 each: weights 1 / |g_k| on the given ones, 1 and 1 / sqrt(1.25), scaled to a sum of 1
    alpha = mgda(gram(CONFLICTING), normalize=True)
    short = 1 / 1.25**0.5
    assert alpha.tolist() == pytest.approx([1 / (1 + short), short / (1 + short)])
    cosines = CONFLICTING @ (alpha @ CONFLICTING) / CONFLICTING.norm(dim=1)
    assert float(cosines[0]) == pytest.approx(float(cosines[1]))


def test_the_shorter_gradient_wins_unless_normalised() -> None:
    lopsided = rows([100.0, 0.0], [0.0, 0.01])
    assert mgda(gram(lopsided))[1] > 1 - 1e-6
    d = mgda(gram(lopsided), normalize=True) @ lopsided
    assert float(d[0]) == pytest.approx(float(d[1]))


def test_a_dominated_gradient_takes_all() -> None:
    # g_1 . g_2 = 2 > |g_1|^2 = 1: the nearest point of the segment to 0 is g_1 itself
    assert mgda(gram(rows([1.0, 0.0], [2.0, 1.0]))).tolist() == [1.0, 0.0]


def test_opposite_gradients_stand_still() -> None:
    # a_1 1 = a_2 3: 3/4 and 1/4
    opposite = rows([1.0, 0.0], [-3.0, 0.0])
    assert mgda(gram(opposite)).tolist() == pytest.approx([0.75, 0.25])
    assert pcgrad(gram(opposite), orders=[[1], [0]]).matmul(opposite).tolist() == pytest.approx([0.0, 0.0])


@pytest.mark.parametrize("method", ["pcgrad", "mgda", "mgda_normalized"])
def test_one_gradient_is_left_as_it_is(method: str) -> None:
    for square in (0.0, 1e-30, 4.0):
        assert gradient_coefficients(torch.tensor([[square]]), method, seed=0).tolist() == [1.0]  # pyright: ignore[reportArgumentType]


def test_equal_gradients() -> None:
    same = gram(rows([3.0, 4.0], [3.0, 4.0], [3.0, 4.0]))
    assert pcgrad(same, orders=visiting_orders(3, seed=1)).tolist() == [1.0, 1.0, 1.0]
    for normalize in (False, True):
        assert mgda(same, normalize=normalize).tolist() == pytest.approx([1 / 3] * 3)


def test_a_zero_gradient_says_nothing() -> None:
    with_nothing = rows([1.0, 0.0], [0.0, 0.0], [-0.5, 1.0])
    assert pcgrad(gram(with_nothing), orders=[[1, 2], [0, 2], [1, 0]]).tolist() == pytest.approx([1.5, 1.0, 1.4])
    for normalize in (False, True):
        alpha = mgda(gram(with_nothing), normalize=normalize)
        assert alpha[1] == 0
        assert alpha[[0, 2]].tolist() == pytest.approx(mgda(gram(CONFLICTING), normalize=normalize).tolist())
        assert mgda(torch.zeros(2, 2), normalize=normalize).tolist() == [0.5, 0.5]


def test_pcgrad_depends_on_the_order_and_the_seed_draws_it() -> None:
    three = rows([1.0, 0.0, 0.2], [-0.7, 0.6, 0.1], [-0.4, -0.9, 0.3])
    one = pcgrad(gram(three), orders=[[1, 2], [0, 2], [0, 1]])
    other = pcgrad(gram(three), orders=[[2, 1], [2, 0], [1, 0]])
    assert (one - other).abs().max() > 0.01
    drawn = [visiting_orders(3, seed=seed) for seed in range(40)]
    assert visiting_orders(3, seed=7) == drawn[7]
    assert len({str(orders) for orders in drawn}) == 8  # 2 orders for each of 3
    for seed in range(4):
        assert torch.equal(
            gradient_coefficients(gram(three), "pcgrad", seed=seed), pcgrad(gram(three), orders=drawn[seed])
        )


@settings(deadline=None)
@given(gradients(), st.integers(0, 10**6))
def test_pcgrad_is_the_projection_of_vectors(given_KD: Tensor, seed: int) -> None:
    orders = visiting_orders(len(given_KD), seed=seed)
    joint = pcgrad(gram(given_KD), orders=orders) @ given_KD
    scale = 1 + float(given_KD.abs().max())
    # a copy that comes out orthogonal to a later gradient is in conflict or not by rounding: both give the same vector
    assert (joint - projected(given_KD, orders)).abs().max() < 1e-9 * scale


@settings(deadline=None)
@given(gradients(), st.integers(0, 10**6))
def test_pcgrad_without_a_conflict_is_the_plain_sum(given_KD: Tensor, seed: int) -> None:
    agreeing = given_KD.abs()
    orders = visiting_orders(len(agreeing), seed=seed)
    assert pcgrad(gram(agreeing), orders=orders).tolist() == [1.0] * len(agreeing)


@settings(deadline=None)
@given(gradients())
def test_mgda_makes_no_objective_worse_and_is_the_shortest(given_KD: Tensor) -> None:
    squares = (given_KD**2).sum(1)
    alpha = mgda(gram(given_KD))
    assert bool((alpha >= 0).all()) and float(alpha.sum()) == pytest.approx(1)
    d = alpha @ given_KD
    live = given_KD[squares > 0]
    if not len(live):
        return
    tolerance = 1e-9 * float(squares.max())
    assert bool((live @ d >= d @ d - tolerance).all())
    draw = random.Random(0)
    for _ in range(20):
        weights = torch.tensor([draw.expovariate(1.0) for _ in live], dtype=torch.float64)
        mixed = weights / weights.sum() @ live
        assert float(d @ d) <= float(mixed @ mixed) + tolerance


@settings(deadline=None)
@given(gradients(most=4), st.lists(st.sampled_from([0.25, 1.0, 8.0, 1000.0]), min_size=4, max_size=4))
def test_normalised_mgda_knows_no_scales(given_KD: Tensor, scales: list[float]) -> None:
    scaled_KD = given_KD * torch.tensor(scales[: len(given_KD)], dtype=torch.float64)[:, None]

    def direction(gradients_KD: Tensor) -> Tensor:
        norms = gradients_KD.norm(dim=1)
        weights = mgda(gram(gradients_KD), normalize=True) * norms
        return weights / weights.sum().clamp(min=1e-300) @ (gradients_KD / norms.clamp(min=1e-300)[:, None])

    assert (direction(given_KD) - direction(scaled_KD)).norm() < 1e-5


@settings(deadline=None)
@given(gradients(), st.randoms())
def test_the_order_and_a_common_sign_or_scale_of_the_gradients_change_nothing(
    given_KD: Tensor, draw: random.Random
) -> None:
    shuffled = list(range(len(given_KD)))
    draw.shuffle(shuffled)
    d = mgda(gram(given_KD)) @ given_KD
    scale = 1 + float(given_KD.abs().max())
    assert (mgda(gram(given_KD[shuffled])) @ given_KD[shuffled] - d).norm() < 1e-5 * scale
    assert torch.equal(mgda(gram(-given_KD)), mgda(gram(given_KD)))
    assert (mgda(gram(4 * given_KD)) @ given_KD - d).norm() < 1e-5 * scale


def test_nearly_parallel_gradients_end_in_time() -> None:
    torch.manual_seed(0)
    close = torch.ones(8, 50, dtype=torch.float64) + 1e-4 * torch.randn(8, 50, dtype=torch.float64)
    d = mgda(gram(close)) @ close
    assert bool((close @ d >= d @ d - 1e-9 * 50).all())


@pytest.mark.parametrize(
    ("matrix", "told"),
    [
        (torch.zeros(2, 3), r"shape \[2, 3\]; wanted \[K, K\]"),
        (torch.zeros(0, 0), "K of 1 or more"),
        (torch.zeros(3), "wanted"),
        (torch.tensor([[1.0, torch.nan], [torch.nan, 1.0]]), "not finite"),
        (torch.tensor([[torch.inf]]), "not finite"),
        (torch.tensor([[1.0, 0.5], [0.0, 1.0]]), "not symmetric"),
        (torch.tensor([[-1.0]]), "negative diagonal"),
    ],
)
def test_what_is_no_gram_matrix_is_refused(matrix: Tensor, told: str) -> None:
    for method in ("pcgrad", "mgda", "mgda_normalized"):
        with pytest.raises(ValueError, match=told):
            gradient_coefficients(matrix, method, seed=0)


@pytest.mark.parametrize("orders", [[[1]], [[1], [1]], [[0], [0]], [[1, 1], [0]], [[], [0]]])
def test_orders_that_miss_or_repeat_a_gradient_are_refused(orders: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="orders"):
        pcgrad(gram(CONFLICTING), orders=orders)

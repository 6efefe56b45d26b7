"""Gradients that are held beside `.grad`: inner products, mixtures, and what is left behind."""

from __future__ import annotations

import math

import pytest
import torch
from accelerate import Accelerator

from critique_rl.policy.crew import Crew
from critique_rl.policy.joint_gradient import HeldGradients, between
from critique_rl.policy.parts import Part, Penalties, Sums
from critique_rl.policy.pg_channel import PgTokens
from critique_rl.policy.sharding import RankedHead
from tests.policy.bigram import Bigram
from tests.tiny import sample

ROW = sample((4,), (5,))
NOTHING = Sums(0.0, 0.0, 0.0, 0.0, PgTokens(0.0, 0.0, 0.0, 0.0, 0.0))


class Scripted:
    """Two weights, one of which no gradient reaches at times; the i-th part has the i-th gradient."""

    def __init__(self, *gradients: tuple[list[float] | None, list[float] | None], dtype: torch.dtype) -> None:
        self.weights = [
            torch.nn.Parameter(torch.zeros(2, dtype=dtype)),
            torch.nn.Parameter(torch.zeros(1, dtype=dtype)),
        ]
        self.gradients = gradients
        self.taken = 0
        head = RankedHead(Bigram(2, {}), Accelerator(cpu=True), Crew())  # pyright: ignore[reportArgumentType]
        self.held = HeldGradients(lambda: self.weights, head)

    def sum_part(self, part: Part) -> Sums:
        for weight, gradient in zip(self.weights, self.gradients[self.taken], strict=True):
            weight.grad = None if gradient is None else torch.tensor(gradient, dtype=weight.dtype)
        self.taken += 1
        return NOTHING._replace(loss=float(self.taken))


def parts(*filled: bool) -> list[Part]:
    return [Part([ROW] if one else [], [0] if one else [], Penalties()) for one in filled]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_inner_products_and_a_mixture_by_hand(dtype: torch.dtype) -> None:
    script = Scripted(([1.0, 2.0], [3.0]), ([-1.0, 0.5], None), ([0.0, 4.0], [1.0]), dtype=dtype)
    passes = script.held.passes(parts(True, True, True), script.sum_part, keep=True)
    # 1 + 4 + 9; -1 + 1; 8 + 3; 1 + .25; 2; 16 + 1
    assert passes.gram_PP.tolist() == [[14.0, 0.0, 11.0], [0.0, 1.25, 2.0], [11.0, 2.0, 17.0]]
    assert [s.loss for s in passes.sums if s is not None] == [1, 2, 3]
    assert [weight.grad for weight in script.weights] == [None, None]
    script.held.mix([2.0, -1.0, 0.5])
    # 2 + 1 + 0, 4 - .5 + 2; 6 + .5
    assert [weight.grad.tolist() for weight in script.weights if weight.grad is not None] == [[3.0, 5.5], [6.5]]
    assert all(weight.grad is not None and weight.grad.dtype == dtype for weight in script.weights)


def test_a_part_without_rows_has_no_pass() -> None:
    script = Scripted(([1.0, 2.0], [3.0]), ([0.0, 4.0], [1.0]), dtype=torch.float64)
    passes = script.held.passes(parts(True, False, True), script.sum_part, keep=True)
    assert passes.gram_PP.tolist() == [[14.0, 0.0, 11.0], [0.0, 0.0, 0.0], [11.0, 0.0, 17.0]]
    assert [s is None for s in passes.sums] == [False, True, False]
    script.held.mix([1.0, 1.0])
    assert script.weights[0].grad is not None and script.weights[0].grad.tolist() == [1.0, 6.0]


def test_what_is_only_measured_leaves_nothing_behind() -> None:
    script = Scripted(([1.0, 2.0], [3.0]), ([0.0, 4.0], [1.0]), dtype=torch.float64)
    passes = script.held.passes(parts(True, True), script.sum_part, keep=False)
    assert passes.gram_PP.tolist() == [[14.0, 11.0], [11.0, 17.0]]
    assert [weight.grad for weight in script.weights] == [None, None]
    assert script.held._held == []  # pyright: ignore[reportPrivateUsage]


def test_what_a_broken_off_step_held_is_dropped() -> None:
    script = Scripted(([1.0, 2.0], [3.0]), ([0.0, 4.0], [1.0]), ([2.0, 0.0], [0.0]), dtype=torch.float64)
    with pytest.raises(IndexError):
        script.held.passes(parts(True, True, True, True), script.sum_part, keep=True)
    script.taken = 1
    assert script.held.passes(parts(True, True), script.sum_part, keep=True).gram_PP.tolist() == [[17, 0], [0, 4]]
    script.held.mix([1.0, 0.0])
    assert script.weights[0].grad is not None and script.weights[0].grad.tolist() == [0.0, 4.0]


def test_inner_products_of_many_small_numbers_are_added_up_in_float64() -> None:
    script = Scripted((None, [1.0]), (None, [1.0]), dtype=torch.float32)
    script.weights[0] = torch.nn.Parameter(torch.zeros(2**25))

    def sum_part(part: Part) -> Sums:
        script.weights[0].grad = torch.ones(2**25)
        script.weights[1].grad = torch.ones(1)
        return NOTHING

    (inner,) = script.held.passes(parts(True), sum_part, keep=False).gram_PP.flatten().tolist()
    assert inner == 2**25 + 1  # float32 would end at 2^25


def test_between_two_mixtures_by_hand() -> None:
    # g = [1, 0], [0, 2], [-3, 0]: (g_1 + g_2) . g_3 = -3, over sqrt(5) * 3
    gram = torch.tensor([[1.0, 0, -3], [0, 4, 0], [-3, 0, 9]], dtype=torch.float64)
    one, other = torch.tensor([1.0, 1, 0]).double(), torch.tensor([0.0, 0, 1]).double()
    found = between(gram, one, other)
    assert found == (pytest.approx(math.sqrt(5)), 3.0, pytest.approx(-1 / math.sqrt(5)))
    assert between(gram, one, 0 * other).cosine is None
    for unknown in (math.nan, math.inf):
        broken = between(gram * unknown, one, other)
        assert broken.cosine is None and not math.isfinite(broken.norm)


def test_a_cosine_never_leaves_its_range_by_rounding() -> None:
    gram = torch.tensor([[0.1 + 1e-16, 0.1 + 1e-15], [0.1 + 1e-15, 0.1]], dtype=torch.float64)
    found = between(gram, torch.tensor([1.0, 0]).double(), torch.tensor([0.0, 1]).double()).cosine
    assert found == 1.0

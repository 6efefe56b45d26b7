"""Bins of a truncated support: the tail, renormalisation, padding."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from critique_rl.ops.bins import log_bins, log_mass, log_tail


def log(*probs: float) -> Tensor:
    return torch.tensor([probs], dtype=torch.float64).log()


def test_mass_and_tail_by_hand() -> None:
    # .50 + .25 = .75: log .75 = -.287682, log .25 = -1.386294
    assert log_mass(log(0.50, 0.25)).item() == pytest.approx(-0.287682, abs=1e-6)
    assert log_tail(log(0.50, 0.25)).item() == pytest.approx(-1.386294, abs=1e-6)


def test_the_three_ways_to_bin() -> None:
    support = log(0.50, 0.25)
    assert torch.equal(log_bins(support, tail=True, whole_vocabulary=True), support)
    for options, expected in (((True, False), [0.50, 0.25, 0.25]), ((False, False), [2 / 3, 1 / 3])):
        bins = log_bins(support, tail=options[0], whole_vocabulary=options[1])
        assert bins.exp()[0].tolist() == pytest.approx(expected, abs=1e-12)


def test_no_mass_left_is_a_floor_and_not_minus_infinity() -> None:
    # log 1e-7 = -16.118096: the phantom bin that a whole vocabulary must not get
    assert log_tail(log(0.6, 0.4)).item() == pytest.approx(-16.118096, abs=1e-6)
    assert log_tail(torch.tensor([[0.7, 0.4]]).log()).item() == pytest.approx(-16.118096, abs=1e-5)  # rounding above 1


def test_the_tail_is_exact_where_subtraction_is_not() -> None:
    one_minus = torch.tensor([[math.log1p(-1e-5)]], dtype=torch.float32)
    assert log_tail(one_minus).item() == pytest.approx(math.log(1e-5), abs=1e-3)


@pytest.mark.parametrize("tail", [True, False])
def test_padding_has_no_mass_and_no_gradient(tail: bool) -> None:
    padded = torch.tensor([[math.log(0.5), -math.inf]], dtype=torch.float64, requires_grad=True)
    bins = log_bins(padded, tail=tail, whole_vocabulary=False)
    alone = log_bins(padded.detach()[:, :1], tail=tail, whole_vocabulary=False)
    assert bins[:, [0, *range(2, bins.shape[1])]].tolist() == alone.tolist()
    assert bins[0, 1].item() == -math.inf
    (gradient,) = torch.autograd.grad(bins[:, 0].sum() + (bins[:, 2:]).sum(), padded)
    assert bool(torch.isfinite(gradient).all())


def test_a_row_of_padding_is_all_tail() -> None:
    nothing = torch.full((1, 2), -math.inf, dtype=torch.float64)
    assert log_bins(nothing, tail=True, whole_vocabulary=False).exp()[0].tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("tail", [True, False])
def test_gradients_against_finite_differences(tail: bool) -> None:
    support = log(0.50, 0.25, 0.15).requires_grad_()

    def bins(logprobs: Tensor) -> Tensor:
        return log_bins(logprobs, tail=tail, whole_vocabulary=False)

    assert torch.autograd.gradcheck(bins, (support,))

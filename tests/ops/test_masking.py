"""Masked sums: a zero mask silences anything, in the value and in the gradient."""

from __future__ import annotations

import math

import pytest
import torch

from critique_rl.ops.masking import masked_mean, masked_sum


def test_sum_and_mean_by_hand() -> None:
    values, mask = torch.tensor([1.0, 2.0, 4.0, 8.0]), torch.tensor([1, 0, 1, 0])
    assert masked_sum(values, mask).item() == 5.0  # 1 + 4
    assert masked_mean(values, mask).item() == 2.5  # 5 / 2
    assert masked_mean(values, mask, 10.0).item() == 0.5  # 5 / 10
    assert masked_mean(values, mask, torch.tensor(20)).item() == 0.25


def test_mask_may_hold_booleans_and_weights() -> None:
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    assert masked_sum(values, values > 2).item() == 7.0
    assert masked_sum(values, torch.tensor([[0.5, 0.0], [0.0, 2.0]])).item() == 8.5  # .5 * 1 + 2 * 4


@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_poison_under_a_zero_mask_changes_nothing(poison: float) -> None:
    values = torch.tensor([1.0, poison, 3.0], dtype=torch.float64, requires_grad=True)
    mean = masked_mean(values, torch.tensor([1.0, 0.0, 1.0]))
    mean.backward()
    assert mean.item() == 2.0
    assert values.grad is not None and values.grad.tolist() == [0.5, 0.0, 0.5]


def test_nan_under_a_live_mask_is_not_hidden() -> None:
    assert math.isnan(masked_sum(torch.tensor([math.nan, 1.0]), torch.ones(2)).item())


@pytest.mark.parametrize("denominator", [None, 0.0, torch.tensor(0.0)])
def test_everything_masked_is_zero_with_a_zero_gradient(denominator: float | torch.Tensor | None) -> None:
    values = torch.tensor([math.nan, 2.0], requires_grad=True)
    mean = masked_mean(values, torch.zeros(2), denominator)
    mean.backward()
    assert mean.item() == 0.0
    assert values.grad is not None and values.grad.tolist() == [0.0, 0.0]


def test_narrow_input_is_summed_in_float32() -> None:
    # 4096 + 1 is not a bfloat16 number, so a bfloat16 accumulator would stop at 256.
    values = torch.ones(4097, dtype=torch.bfloat16)
    total = masked_sum(values, torch.ones(4097, dtype=torch.bfloat16))
    assert total.dtype == torch.float32 and total.item() == 4097.0


def test_float64_stays_float64_and_gradient_is_exact() -> None:
    values = torch.randn(7, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mask = torch.tensor([1.0, 0.0, 0.5, 1.0, 0.0, 2.0, 1.0], dtype=torch.float64)
    assert masked_sum(values, mask).dtype == torch.float64
    assert torch.autograd.gradcheck(lambda v: masked_mean(v, mask), (values,))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"values \[2, 3\], mask \[3\]"):
        masked_sum(torch.zeros(2, 3), torch.zeros(3))

"""Log-probs from logits: full-vocabulary normalisation, supports, entropy, precision."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from critique_rl.ops.logprobs import entropy, gather_logprobs, token_logprobs, topk_logprobs

STUDENT = [0.50, 0.25, 0.15, 0.07, 0.03]
TEACHER = [0.10, 0.60, 0.05, 0.20, 0.05]
LOG_STUDENT = [-0.693147, -1.386294, -1.897120, -2.659260, -3.506558]


def logits(probs: list[float], shift: float) -> Tensor:
    return torch.tensor([probs], dtype=torch.float64).log() + shift


@pytest.mark.parametrize("shift", [0.0, 1.0, -700.0])
def test_hand_numbers_and_shift_invariance(shift: float) -> None:
    z = logits(STUDENT, shift)
    by_token = torch.cat([token_logprobs(z, torch.tensor([v])) for v in range(5)])
    assert by_token.tolist() == pytest.approx(LOG_STUDENT, abs=1e-6)
    assert entropy(z).item() == pytest.approx(1.269060, abs=1e-6)


def test_entropy_gap_of_teacher_and_student() -> None:
    gap = entropy(logits(TEACHER, -0.5)) - entropy(logits(STUDENT, 1.0))
    assert gap.item() == pytest.approx(-0.110845, abs=1e-6)  # 1.158215 - 1.269060


def test_topk_is_sorted_normalised_over_everything_and_clipped() -> None:
    top = topk_logprobs(logits(STUDENT, 3.0), 2)
    assert top.ids_NK.tolist() == [[0, 1]]
    assert top.logprobs_NK[0].tolist() == pytest.approx(LOG_STUDENT[:2], abs=1e-6)
    everything = topk_logprobs(logits(STUDENT, 3.0), 99)
    assert everything.ids_NK.shape == (1, 5)
    assert everything.logprobs_NK.exp().sum().item() == pytest.approx(1.0, abs=1e-12)


def test_overlap_and_masses_on_the_other_sides_top_two() -> None:
    student, teacher = logits(STUDENT, 1.0), logits(TEACHER, -0.5)
    student_top, teacher_top = topk_logprobs(student, 2), topk_logprobs(teacher, 2)
    assert set(teacher_top.ids_NK[0].tolist()) == {1, 3}
    shared = set(student_top.ids_NK[0].tolist()) & set(teacher_top.ids_NK[0].tolist())
    assert len(shared) / 2 == 0.5
    assert gather_logprobs(student, teacher_top.ids_NK).exp().sum().item() == pytest.approx(0.32, abs=1e-12)
    assert gather_logprobs(teacher, student_top.ids_NK).exp().sum().item() == pytest.approx(0.70, abs=1e-12)


def test_temperature_matches_a_plain_loop() -> None:
    z = torch.randn(3, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    ids = torch.tensor([5, 0, 2])
    got = token_logprobs(z, ids, temperature=0.7)
    for row in range(3):
        total = sum(math.exp(x / 0.7) for x in z[row].tolist())
        assert got[row].item() == pytest.approx(math.log(math.exp(z[row, ids[row]].item() / 0.7) / total), abs=1e-12)
        probs = [math.exp(x / 0.7) / total for x in z[row].tolist()]
        assert entropy(z, temperature=0.7)[row].item() == pytest.approx(-sum(p * math.log(p) for p in probs), abs=1e-12)


def test_gather_agrees_with_token_and_topk() -> None:
    z = torch.randn(4, 9, generator=torch.Generator().manual_seed(2))
    top = topk_logprobs(z, 3, temperature=1.3)
    assert torch.equal(gather_logprobs(z, top.ids_NK, temperature=1.3), top.logprobs_NK)
    assert torch.equal(token_logprobs(z, top.ids_NK[:, 1], temperature=1.3), top.logprobs_NK[:, 1])


def test_gradients() -> None:
    z = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(3), requires_grad=True)
    ids = torch.tensor([4, 1])
    assert torch.autograd.gradcheck(lambda x: token_logprobs(x, ids, temperature=1.7), (z,))
    assert torch.autograd.gradcheck(lambda x: topk_logprobs(x, 2).logprobs_NK, (z,))
    assert torch.autograd.gradcheck(lambda x: entropy(x, temperature=0.5), (z,))


def test_narrow_logits_are_reduced_in_float32() -> None:
    z = torch.randn(2, 4000, generator=torch.Generator().manual_seed(4)).bfloat16()
    ids = torch.tensor([7, 3999])
    wide = token_logprobs(z.double(), ids)
    narrow = token_logprobs(z, ids)
    assert narrow.dtype == torch.float32 and wide.dtype == torch.float64
    assert torch.allclose(narrow.double(), wide, atol=1e-5)
    assert torch.allclose(entropy(z).double(), entropy(z.double()), atol=1e-4)


def test_impossible_ids_neither_add_entropy_nor_poison_the_gradient() -> None:
    z = torch.tensor([[0.0, -math.inf, 0.0]], dtype=torch.float64, requires_grad=True)
    h = entropy(z)
    h.sum().backward()
    assert h.item() == pytest.approx(math.log(2))
    assert z.grad is not None and bool(torch.isfinite(z.grad).all())


def test_no_rows() -> None:
    empty = torch.zeros(0, 5)
    assert token_logprobs(empty, torch.zeros(0, dtype=torch.int64)).shape == (0,)
    assert topk_logprobs(empty, 2).logprobs_NK.shape == (0, 2)
    assert entropy(empty).shape == (0,)


def test_errors_name_what_came_and_what_was_wanted() -> None:
    z = torch.zeros(2, 5)
    with pytest.raises(ValueError, match=r"temperature is 0.0; wanted a number above 0"):
        entropy(z, temperature=0.0)
    with pytest.raises(ValueError, match=r"k is 0; wanted at least 1"):
        topk_logprobs(z, 0)
    with pytest.raises(ValueError, match=r"flatten batch and time"):
        entropy(torch.zeros(2, 3, 5))
    with pytest.raises(ValueError, match=r"ids_N has shape \[2, 1\]"):
        token_logprobs(z, torch.zeros(2, 1, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"ids has shape \[3, 1\] for logits \[2, 5\]"):
        gather_logprobs(z, torch.zeros(3, 1, dtype=torch.int64))

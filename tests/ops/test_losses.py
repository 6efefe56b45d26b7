"""Channels: own denominators, any micro-batch split, silence that is exact."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from critique_rl.ops.advantages import union_advantages
from critique_rl.ops.divergences import topk_tail_divergence
from critique_rl.ops.logprobs import gather_logprobs, token_logprobs
from critique_rl.ops.losses import ChannelLosses, channel_sum, joint
from critique_rl.ops.ratios import clipped_surrogate, refinement_objective


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("split", [[6], [3, 3], [1, 1, 4], [4, 1, 1], [1] * 6])
def test_six_sequence_losses_average_to_the_same_number_in_any_split(split: list[int]) -> None:
    # per-micro-batch means of 1..6 would give 10.5 for [3, 3], 12.5 for [1, 1, 4], 8.5 for [4, 1, 1]
    terms = vector(1, 2, 3, 4, 5, 6)
    total = sum(channel_sum(part, torch.ones_like(part), 6.0).item() for part in terms.split(split))
    assert total == pytest.approx(3.5, abs=1e-12)


def test_each_channel_divides_by_its_own_tokens() -> None:
    evaluative = vector(0.2, 0.4, 0.1, 0.1, 0.3, 0.5)
    directive = vector(math.nan, math.nan, 0.8, 0.4, 0.2, 0.6)  # the first row of two tokens has no teacher
    mask = vector(0, 0, 1, 1, 1, 1)
    pg = channel_sum(evaluative, torch.ones(6), 6.0)
    distill = channel_sum(directive, mask, 4.0)
    assert pg.item() == pytest.approx(0.266667, abs=1e-6)
    assert distill.item() == pytest.approx(0.5, abs=1e-12)
    zero = torch.zeros(())
    total = joint(pg, distill, zero, distill_coefficient=1.0, imitate_coefficient=1.0)
    assert total.item() == pytest.approx(0.766667, abs=1e-6)


def test_a_missing_teacher_is_a_mask_and_never_probability_one() -> None:
    behaviour = vector(-0.20, -1.50, -0.05, -2.30)
    gap = vector(-0.10, -0.40, -3.05, math.nan) - behaviour
    assert channel_sum(-gap, vector(1, 1, 1, 0), 3.0).item() == pytest.approx(0.6, abs=1e-12)
    # had the whole teacher been encoded as log-prob 0.0, every gap would be a push upwards
    assert bool((0.0 - behaviour > 0).all())


def test_one_correct_refinement_among_seven_failures() -> None:
    advantages = union_advantages(torch.zeros(7, dtype=torch.float64), vector(1.0))
    first = torch.zeros(28, dtype=torch.float64, requires_grad=True)  # 7 rollouts of 4 tokens, ratio 1
    refined = vector(0.9, 0.1, 0.01).log().requires_grad_()
    surrogate = clipped_surrogate(first, first.detach(), advantages.rollouts_n.repeat_interleave(4))
    shaped = refinement_objective(refined, advantages.refinements_k.expand(3), mode="shaped")
    # as printed: rollouts over n = 7, refinements over k = 1
    initial = channel_sum(surrogate, torch.ones(28), 7.0)
    refinement = channel_sum(shaped, torch.ones(3), 1.0)
    assert initial.item() == pytest.approx(-0.5)
    assert refinement.item() == pytest.approx(1.304545, abs=1e-6)
    assert (initial + refinement).item() == pytest.approx(0.804545, abs=1e-6)
    per_first, per_refined = torch.autograd.grad(initial + refinement, (first, refined))
    assert per_first.tolist() == pytest.approx([-0.017857] * 28, abs=1e-6)
    assert per_refined.tolist() == pytest.approx([0.078750, 0.218750, 0.072314], abs=1e-6)
    # one divisor n + k
    together = channel_sum(surrogate, torch.ones(28), 8.0) + channel_sum(shaped, torch.ones(3), 8.0)
    assert together.item() == pytest.approx(-0.274432, abs=1e-6)


def test_all_wrong_union_has_no_loss_and_no_gradient() -> None:
    advantages = union_advantages(torch.zeros(7, dtype=torch.float64), vector(0.0), scale="std")
    refined = vector(0.9, 0.1).log().requires_grad_()
    shaped = refinement_objective(refined, advantages.refinements_k.expand(2), mode="shaped")
    loss = channel_sum(shaped, torch.ones(2), 2.0)
    (gradient,) = torch.autograd.grad(loss, refined)
    assert loss.item() == 0.0 and gradient.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("split", [[5, 4], [1, 8], [3, 3, 3], [1] * 9])
def test_any_micro_batch_split_gives_the_same_gradient(split: list[int]) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, vocabulary = 9, 6
    weight = torch.randn(4, vocabulary, dtype=torch.float64, generator=generator, requires_grad=True)
    hidden = torch.randn(rows, 4, dtype=torch.float64, generator=generator)
    ids = torch.randint(vocabulary, (rows,), generator=generator)
    teacher = torch.randn(rows, vocabulary, dtype=torch.float64, generator=generator)
    advantages = torch.randn(rows, dtype=torch.float64, generator=generator)
    behaviour = token_logprobs(hidden @ weight.detach(), ids) + 0.1
    weights = [torch.rand(rows, generator=generator).double() for _ in range(3)]
    masks = [w * (torch.rand(rows, generator=generator) > 0.4) for w in weights]
    denominators = [float((mask > 0).sum()) for mask in masks]

    def loss(part: slice) -> Tensor:
        logits = hidden[part] @ weight
        logprobs = token_logprobs(logits, ids[part])
        top = logits.detach().topk(3, dim=-1).indices
        divergence = topk_tail_divergence(
            gather_logprobs(logits, top), gather_logprobs(teacher[part], top), kind="reverse"
        )
        channels = ChannelLosses(
            pg=-channel_sum(
                clipped_surrogate(logprobs, behaviour[part], advantages[part]), masks[0][part], denominators[0]
            ),
            distill=channel_sum(divergence, masks[1][part], denominators[1]),
            imitate=-channel_sum(
                refinement_objective(logprobs, advantages[part], mode="shaped"), masks[2][part], denominators[2]
            ),
        )
        return joint(*channels, distill_coefficient=0.1, imitate_coefficient=0.7)

    (whole,) = torch.autograd.grad(loss(slice(0, rows)), weight)
    split_gradient, start = torch.zeros_like(whole), 0
    for size in split:
        (part,) = torch.autograd.grad(loss(slice(start, start + size)), weight)
        split_gradient, start = split_gradient + part, start + size
    assert (split_gradient - whole).abs().max().item() < 1e-10


def test_an_empty_channel_is_zero_with_a_zero_gradient() -> None:
    terms = vector(math.nan, 2.0).requires_grad_()
    loss = channel_sum(terms, vector(0, 0), 0.0)
    (gradient,) = torch.autograd.grad(loss, terms)
    assert loss.item() == 0.0 and gradient.tolist() == [0.0, 0.0]
    assert channel_sum(terms[:0], vector(), 3.0).item() == 0.0


def test_a_missing_teacher_row_reaches_no_parameter() -> None:
    z = torch.randn(2, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    at = torch.tensor([[0, 1], [2, 3]])
    teacher = torch.tensor([[-1.0, -2.0], [math.nan, math.nan]], dtype=torch.float64)
    terms = topk_tail_divergence(gather_logprobs(z, at), teacher, kind="reverse")
    loss = channel_sum(terms, vector(1, 0), 1.0)
    (gradient,) = torch.autograd.grad(loss, z)
    assert math.isfinite(loss.item()) and bool(torch.isfinite(gradient).all())
    assert gradient[1].tolist() == [0.0] * 5


def test_joint_by_hand_and_a_zero_coefficient_removes_even_nan() -> None:
    pg, distill, imitate = (torch.tensor(x, dtype=torch.float64) for x in (0.1, 2.0, 3.0))
    assert joint(pg, distill, imitate, distill_coefficient=0.5, imitate_coefficient=0.25).item() == pytest.approx(1.85)
    nan = torch.tensor(math.nan)
    assert torch.equal(joint(pg, nan, nan, distill_coefficient=0.0, imitate_coefficient=0.0), pg)


@pytest.mark.parametrize("denominator", [-1.0, math.nan, math.inf])
def test_impossible_denominators_are_refused(denominator: float) -> None:
    with pytest.raises(ValueError, match="denominator is"):
        channel_sum(vector(1.0), vector(1.0), denominator)

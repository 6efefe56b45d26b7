"""The clipped surrogate at each id of a support: hand numbers, a plain loop, finite differences, padding, bad input."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from critique_rl.ops.divergences import full_divergence
from critique_rl.ops.logprobs import gather_logprobs
from critique_rl.ops.support_surrogate import support_surrogate

S, T = (0.50, 0.25, 0.15, 0.07, 0.03), (0.10, 0.60, 0.05, 0.20, 0.05)


def logs(probs: Sequence[float]) -> Tensor:
    return torch.tensor([probs], dtype=torch.float64).log()


def loss(
    now: Sequence[float], ids: Sequence[int], *, shift: float = 0.0, **options: float
) -> tuple[float, list[float]]:
    """The loss of one token whose student went from S to `now`, and its gradient towards all five logits."""
    at = torch.tensor([ids])
    z = (logs(now) + shift).requires_grad_()
    value = support_surrogate(
        gather_logprobs(z, at), gather_logprobs(logs(S), at), gather_logprobs(logs(T), at), **options
    )
    (gradient,) = torch.autograd.grad(value.sum(), z)
    return value.item(), gradient[0].tolist()


def test_two_ids_by_hand() -> None:
    # w = (.5, .25) / .75; gaps (-1.609438 -> -1, .875469); A = (-.666667, .291823); every ratio is 1
    value, gradient = loss(S, (0, 1))
    assert value == pytest.approx(0.374844, abs=1e-6)
    # dz_i = -sum_v A_v (1[v = i] - S_i): +.666667 x .5 - (-.291823) x ... = -A_i + S_i sum A, sum A = -.374844
    assert gradient == pytest.approx([0.479245, -0.385534, -0.056227, -0.026239, -0.011245], abs=1e-6)


def test_off_the_old_policy_every_id_has_its_own_ratio() -> None:
    # r = (.9, 1.08): .666667 x .9 - .291823 x 1.08
    assert loss((0.45, 0.27, 0.17, 0.08, 0.03), (0, 1))[0] == pytest.approx(0.600000 - 0.315169, abs=1e-6)


def test_both_ids_beyond_the_clip_have_a_loss_and_no_gradient() -> None:
    # r = (.7, 1.6), clipped to .8 where A < 0 and to 1.28 where A > 0: .533333 - .373533
    value, gradient = loss((0.35, 0.40, 0.15, 0.07, 0.03), (0, 1))
    assert value == pytest.approx(0.159800, abs=1e-6)
    assert gradient == [0.0] * 5


def test_a_wider_gap_clip_lets_the_first_id_say_more() -> None:
    # C = 2 leaves both gaps whole: A_0 = .666667 x -1.609438 = -1.072959; r = (.8, 1.28) lies on the clips' edge
    value, _ = loss((0.40, 0.32, 0.16, 0.08, 0.04), (0, 1), gap_clip=2.0)
    assert value == pytest.approx(1.072959 * 0.8 - 0.291823 * 1.28, abs=1e-6)
    value, _ = loss(S, (0, 1), gap_clip=2.0)
    assert value == pytest.approx(1.072959 - 0.291823, abs=1e-6)


def test_four_ids_by_hand() -> None:
    # w = (.50 .25 .15 .07) / .97; gaps (-1, .875469, -1, 1): A = (-.515464, .225636, -.154639, .072165)
    assert loss(S, (0, 1, 2, 3))[0] == pytest.approx(0.372302, abs=1e-6)


def test_one_shared_id_by_hand() -> None:
    # w = 1: the gap itself
    assert loss(S, (1,))[0] == pytest.approx(-0.875469, abs=1e-6)


def test_its_direction_is_not_that_of_the_divergence() -> None:
    _, gradient = loss(S, (0, 1))
    z = logs(S).requires_grad_()
    (reverse,) = torch.autograd.grad(full_divergence(z, logs(T), kind="reverse").sum(), z)
    # ids 2, 3 and 4 are unseen: all are pushed one way here, where the divergence tells them apart
    assert [g < 0 for g in gradient[2:]] == [True, True, True]
    assert [g < 0 for g in reverse[0, 2:].tolist()] == [False, True, True]


def plain(now: Tensor, was: Tensor, teacher: Tensor, c: float, low: float, high: float) -> list[float]:
    found: list[float] = []
    for s_K, b_K, t_K in zip(now.tolist(), was.tolist(), teacher.tolist(), strict=True):
        ids = [k for k, t in enumerate(t_K) if t != -math.inf]
        mass = sum(math.exp(b_K[k]) for k in ids)
        total = 0.0
        for k in ids:
            advantage = math.exp(b_K[k]) / mass * max(-c, min(c, t_K[k] - b_K[k]))
            ratio = math.exp(max(-20.0, min(20.0, s_K[k] - b_K[k])))
            total += max(-advantage * ratio, -advantage * max(1 - low, min(1 + high, ratio)))
        found.append(total)
    return found


def random_logprobs(seed: int, n: int, k: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    logits = 1.5 * torch.randn(n, k + 3, generator=generator, dtype=torch.float64)
    return logits.log_softmax(dim=-1)[:, :k]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 6),
    padded=st.integers(0, 5),
    c=st.floats(0.05, 4.0),
    low=st.floats(0.0, 0.9),
    high=st.floats(0.0, 2.0),
)
def test_against_a_plain_loop(seed: int, k: int, padded: int, c: float, low: float, high: float) -> None:
    now, was, teacher = (random_logprobs(seed + i, 5, k) for i in range(3))
    teacher[:, k - min(padded, k) :] = -math.inf
    value = support_surrogate(now, was, teacher, gap_clip=c, clip_low=low, clip_high=high)
    assert value.tolist() == pytest.approx(plain(now, was, teacher, c, low, high), rel=1e-9, abs=1e-12)


def test_gradient_against_finite_differences() -> None:
    now = random_logprobs(7, 6, 4).requires_grad_()
    was, teacher = random_logprobs(8, 6, 4), random_logprobs(9, 6, 4)
    teacher[2, 1:] = -math.inf

    def of(student: Tensor) -> Tensor:
        return support_surrogate(student, was, teacher)

    assert torch.autograd.gradcheck(of, (now,))


def test_only_the_student_gets_a_gradient() -> None:
    now, was, teacher = (random_logprobs(i, 3, 4).requires_grad_() for i in range(3))
    support_surrogate(now, was, teacher).sum().backward()
    assert now.grad is not None and bool(now.grad.abs().sum() > 0)
    assert was.grad is None and teacher.grad is None


def test_a_step_down_the_gradient_raises_what_the_teacher_likes_more() -> None:
    z = logs(S).requires_grad_()
    at = torch.arange(5).unsqueeze(0)
    value = support_surrogate(gather_logprobs(z, at), gather_logprobs(z.detach(), at), gather_logprobs(logs(T), at))
    (gradient,) = torch.autograd.grad(value.sum(), z)
    moved = (z - 0.1 * gradient).log_softmax(dim=-1) - logs(S)
    assert moved[0, 1] > 0 > moved[0, 0]


def test_a_teacher_that_agrees_teaches_nothing() -> None:
    now = random_logprobs(3, 4, 5).requires_grad_()
    value = support_surrogate(now, now.detach(), now.detach())
    value.sum().backward()
    assert value.tolist() == [0.0] * 4
    assert now.grad is not None and not now.grad.any()


def test_invariances() -> None:
    # a shift of the logits, and any order of the ids
    value, gradient = loss(S, (0, 1, 3))
    assert loss(S, (0, 1, 3), shift=1.7)[0] == pytest.approx(value, abs=1e-12)
    again, permuted = loss(S, (3, 0, 1))
    assert (again, permuted) == (pytest.approx(value, abs=1e-12), pytest.approx(gradient, abs=1e-12))
    assert sum(gradient) == pytest.approx(0.0, abs=1e-12)


def test_padding_does_not_exist_whatever_the_student_says_there() -> None:
    at = torch.tensor([[0, 1, 0, 4]])
    z = logs(S).requires_grad_()
    teacher = torch.cat([gather_logprobs(logs(T), at[:, :2]), torch.full((1, 2), -math.inf)], dim=-1)
    for said in (-3.0, -math.inf, math.nan):
        was = torch.cat([gather_logprobs(logs(S), at[:, :2]), torch.full((1, 2), said)], dim=-1)
        value = support_surrogate(gather_logprobs(z, at), was, teacher)
        (gradient,) = torch.autograd.grad(value.sum(), z)
        assert (value.item(), gradient[0].tolist()) == loss(S, (0, 1))


def test_a_token_without_an_id_or_with_an_unknown_one_moves_nothing() -> None:
    now = torch.full((5, 2), -0.7, dtype=torch.float64)
    now[3, 0] = math.nan
    now.requires_grad_()
    was = torch.full((5, 2), -0.7, dtype=torch.float64)
    teacher = torch.full((5, 2), -0.5, dtype=torch.float64)
    teacher[0], teacher[1, 1], was[2, 0] = -math.inf, math.nan, -math.inf
    value = support_surrogate(now, was, teacher)
    assert value[0].item() == 0.0
    assert value.isnan().tolist() == [False, True, True, True, False]
    value[torch.tensor([0, 4])].sum().backward(retain_graph=True)
    (0.0 * torch.nan_to_num(value)).sum().backward()
    assert now.grad is not None and bool(now.grad.isfinite().all())
    assert now.grad.any(dim=-1).tolist() == [False, False, False, False, True]


def test_narrow_input_is_widened_and_no_rows_are_no_losses() -> None:
    now, was, teacher = (random_logprobs(i, 2, 3).bfloat16() for i in range(3))
    assert support_surrogate(now, was, teacher).dtype == torch.float32
    assert support_surrogate(now[:0], was[:0], teacher[:0]).shape == (0,)


def test_bad_input_is_refused() -> None:
    now = random_logprobs(0, 2, 3)
    with pytest.raises(ValueError, match=r"shapes differ: .*behaviour_logprobs_NK \[2, 2\]"):
        support_surrogate(now, now[:, :2], now)
    with pytest.raises(ValueError, match="gap_clip is 0; wanted a number of nats above 0"):
        support_surrogate(now, now, now, gap_clip=0)
    with pytest.raises(ValueError, match=r"clip_low is 1\.0"):
        support_surrogate(now, now, now, clip_low=1.0)

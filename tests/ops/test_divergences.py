"""Divergences on truncated supports: values, conventions, padding, poison.

One worked pair throughout: S = (.50 .25 .15 .07 .03), T = (.10 .60 .05 .20 .05); ids 0, 1 are S's top two, 1, 3 T's.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from critique_rl.ops.divergences import DivergenceKind, full_divergence, topk_tail_divergence
from critique_rl.ops.logprobs import gather_logprobs

STUDENT = [0.50, 0.25, 0.15, 0.07, 0.03]
TEACHER = [0.10, 0.60, 0.05, 0.20, 0.05]
KINDS: tuple[DivergenceKind, ...] = ("reverse", "forward", "jsd")


def log(*probs: float) -> Tensor:
    return torch.tensor([probs], dtype=torch.float64).log()


Z_STUDENT, Z_TEACHER = log(*STUDENT) + 1.0, log(*TEACHER) - 0.5


def on(*ids: int) -> tuple[Tensor, Tensor]:
    at = torch.tensor([ids])
    return gather_logprobs(Z_STUDENT, at), gather_logprobs(Z_TEACHER, at)


def loop_divergence(student: list[float], teacher: list[float], kind: DivergenceKind, a: float = 0.5) -> float:
    def kl(p: list[float], q: list[float]) -> float:
        return sum(x * math.log(x / y) for x, y in zip(p, q, strict=True) if x > 0)

    if kind == "reverse":
        return kl(student, teacher)
    if kind == "forward":
        return kl(teacher, student)
    mixture = [(1 - a) * s + a * t for s, t in zip(student, teacher, strict=True)]
    return (1 - a) * kl(student, mixture) + a * kl(teacher, mixture)


@pytest.mark.parametrize(("kind", "expected"), [("reverse", 0.661831), ("forward", 0.544913), ("jsd", 0.140561)])
def test_full_divergence(kind: DivergenceKind, expected: float) -> None:
    assert full_divergence(Z_STUDENT, Z_TEACHER, kind=kind).item() == pytest.approx(expected, abs=1e-6)
    assert loop_divergence(STUDENT, TEACHER, kind) == pytest.approx(expected, abs=1e-6)
    shifted = full_divergence(Z_STUDENT + 40, Z_TEACHER - 300, kind=kind)
    assert shifted.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("alpha", "expected"), [(0.1, 0.048959), (0.25, 0.102505), (0.5, 0.140561), (0.75, 0.111648), (0.9, 0.056624)]
)
def test_jsd_mixes_the_teacher_in_by_alpha(alpha: float, expected: float) -> None:
    value = full_divergence(Z_STUDENT, Z_TEACHER, kind="jsd", jsd_alpha=alpha)
    assert value.item() == pytest.approx(expected, abs=1e-6)


def test_jsd_ends_are_the_two_kls_and_rescaling_keeps_the_scale() -> None:
    student, teacher = on(0, 1, 2, 3, 4)
    for alpha, limit in ((1e-6, 0.544913), (1 - 1e-6, 0.661831)):
        value = topk_tail_divergence(
            student, teacher, kind="jsd", jsd_alpha=alpha, whole_vocabulary=True, rescale_jsd=True
        )
        assert value.item() == pytest.approx(limit, abs=1e-5)
    near = log(*STUDENT) + torch.tensor([[1e-3, -1e-3, 0.0, 2e-3, 0.0]])
    ratio = full_divergence(Z_STUDENT, near, kind="jsd") / full_divergence(Z_STUDENT, near, kind="reverse")
    assert ratio.item() == pytest.approx(0.25, abs=1e-4)  # a (1 - a)


TRUNCATIONS = [
    ((0, 1), (0.540271, 0.419034, 0.111037), (0.712143, 0.589475, 0.151580)),
    ((1, 3), (0.539813, 0.490491, 0.122603), (0.002682, 0.002766, 0.000681)),
    ((1,), (0.252589, 0.273838, 0.064181), (0.0, 0.0, 0.0)),
    ((0, 1, 2), (0.659015, 0.538480, 0.139584), None),
]


@pytest.mark.parametrize(("ids", "with_tail", "renormalised"), TRUNCATIONS)
def test_truncated_supports(
    ids: tuple[int, ...], with_tail: tuple[float, ...], renormalised: tuple[float, ...] | None
) -> None:
    student, teacher = on(*ids)
    got = [topk_tail_divergence(student, teacher, kind=kind).item() for kind in KINDS]
    assert got == pytest.approx(with_tail, abs=1e-6)
    if renormalised is not None:
        blind = [topk_tail_divergence(student, teacher, kind=kind, tail=False).item() for kind in KINDS]
        assert blind == pytest.approx(renormalised, abs=1e-6)


@pytest.mark.parametrize(("ids", "reverse", "forward"), [((0, 1), 0.585852, 0.364337), ((1, 3), -0.292355, 0.735246)])
def test_a_raw_sum_is_no_divergence(ids: tuple[int, ...], reverse: float, forward: float) -> None:
    # what `whole_vocabulary` yields on a support that is not the whole vocabulary: it can be negative
    student, teacher = on(*ids)
    for kind, expected in (("reverse", reverse), ("forward", forward)):
        value = topk_tail_divergence(student, teacher, kind=kind, whole_vocabulary=True)
        assert value.item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_all_but_one_id_plus_tail_is_the_full_divergence(kind: DivergenceKind) -> None:
    # K = V - 1: the tail bin is exactly the id left out
    tail = topk_tail_divergence(*on(0, 1, 2, 3), kind=kind)
    assert tail.item() == pytest.approx(loop_divergence(STUDENT, TEACHER, kind), abs=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_whole_vocabulary_has_no_phantom_tail(kind: DivergenceKind, dtype: torch.dtype) -> None:
    student, teacher = (side.to(dtype) for side in on(0, 1, 2, 3, 4))
    value = topk_tail_divergence(student, teacher, kind=kind, whole_vocabulary=True)
    assert value.item() == pytest.approx(loop_divergence(STUDENT, TEACHER, kind), abs=1e-6)
    assert value.dtype == dtype


def test_entry_clip_bounds_each_term_of_the_forward_kind() -> None:
    student, teacher = on(0, 1, 2, 3, 4)
    # terms -.160944, .525281, -.054931, .209964, .025541
    for clip, expected in ((None, 0.544913), (0.2, 0.209667), (0.05, -0.090333)):
        value = topk_tail_divergence(student, teacher, kind="forward", whole_vocabulary=True, entry_clip=clip)
        assert value.item() == pytest.approx(expected, abs=1e-6)


def test_centred_gap_has_mean_zero_and_less_variance() -> None:
    student, teacher = on(0, 1, 2, 3, 4)
    gap = (teacher - student)[0]
    centred = gap + full_divergence(Z_STUDENT, Z_TEACHER, kind="reverse")
    assert centred.tolist() == pytest.approx([-0.947607, 1.537300, -0.436781, 1.711653, 1.172657], abs=1e-6)
    probs = torch.tensor(STUDENT, dtype=torch.float64)
    assert (probs * centred).sum().item() == pytest.approx(0.0, abs=1e-12)
    assert (probs * gap**2).sum().item() == pytest.approx(1.752776, abs=1e-6)
    assert (probs * centred**2).sum().item() == pytest.approx(1.314755, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", [True, False])
def test_padding_columns_do_not_exist(kind: DivergenceKind, tail: bool) -> None:
    student, teacher = on(0, 1)
    pad = torch.full((1, 3), -math.inf, dtype=torch.float64)
    padded = torch.cat([student, pad], dim=-1).requires_grad_()
    value = topk_tail_divergence(padded, torch.cat([teacher, pad], dim=-1), kind=kind, tail=tail)
    plain_input = student.clone().requires_grad_()
    plain = topk_tail_divergence(plain_input, teacher, kind=kind, tail=tail)
    assert torch.equal(value, plain)
    value.sum().backward()
    plain.sum().backward()
    assert padded.grad is not None and plain_input.grad is not None
    assert torch.equal(padded.grad[:, :2], plain_input.grad)
    assert padded.grad[:, 2:].tolist() == [[0.0] * 3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", [True, False])
def test_a_row_of_nothing_but_padding_is_zero(kind: DivergenceKind, tail: bool) -> None:
    student = torch.full((1, 3), -math.inf, dtype=torch.float64, requires_grad=True)
    value = topk_tail_divergence(student, student.detach(), kind=kind, tail=tail)
    value.sum().backward()
    assert value.item() == 0.0
    assert student.grad is not None and student.grad.tolist() == [[0.0] * 3]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", [True, False])
def test_a_missing_teacher_row_is_loud_but_poisons_no_gradient(kind: DivergenceKind, tail: bool) -> None:
    student, teacher = on(0, 1)
    rows = student.repeat(2, 1).requires_grad_()
    value = topk_tail_divergence(rows, torch.cat([torch.full_like(teacher, math.nan), teacher]), kind=kind, tail=tail)
    assert math.isnan(value[0].item())
    torch.where(torch.tensor([False, True]), value, 0.0).sum().backward()
    assert rows.grad is not None and rows.grad[0].tolist() == [0.0, 0.0]
    assert bool(torch.isfinite(rows.grad[1]).all()) and bool((rows.grad[1] != 0).any())


def test_an_impossible_id_on_one_side_only() -> None:
    whole, lacking = log(0.5, 0.5), torch.cat([log(1.0), torch.full((1, 1), -math.inf, dtype=torch.float64)], dim=-1)

    def value(student: Tensor, teacher: Tensor, kind: DivergenceKind) -> float:
        student = student.clone().requires_grad_()
        result = topk_tail_divergence(student, teacher, kind=kind, whole_vocabulary=True)
        torch.where(torch.isfinite(result), result, 0.0).sum().backward()
        assert student.grad is not None and bool(torch.isfinite(student.grad).all())
        return result.item()

    assert value(whole, lacking, "reverse") == math.inf
    assert value(lacking, whole, "reverse") == pytest.approx(math.log(2))  # 1 log(1 / .5)
    assert value(lacking, whole, "forward") == math.inf
    assert value(whole, lacking, "forward") == pytest.approx(math.log(2))
    expected = loop_divergence([0.5, 0.5], [1.0, 0.0], "jsd")
    assert value(whole, lacking, "jsd") == pytest.approx(expected)
    assert value(lacking, whole, "jsd") == pytest.approx(expected)


def test_tail_at_the_edge_of_rounding_stays_finite() -> None:
    student = torch.tensor([[0.9999999, 1e-9]], dtype=torch.float32).log().requires_grad_()
    for kind in KINDS:
        value = topk_tail_divergence(student, torch.tensor([[0.5, 0.1]]).log(), kind=kind)
        assert bool(torch.isfinite(value).all())
        (gradient,) = torch.autograd.grad(value.sum(), student)
        assert bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_student_with_no_tail_at_all_stays_finite(dtype: torch.dtype) -> None:
    student = torch.tensor([[0.5, 0.5]], dtype=dtype).log().requires_grad_()
    # the missing tail counts as 1e-7, log -16.118096
    value = topk_tail_divergence(student, torch.tensor([[0.3, 0.3]], dtype=dtype).log(), kind="forward")
    assert value.item() == pytest.approx(0.6 * math.log(0.6) + 0.4 * (math.log(0.4) + 16.118096), abs=1e-5)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert bool(torch.isfinite(gradient).all())


def test_narrow_input_is_reduced_in_float32_and_no_rows_give_no_values() -> None:
    student, teacher = (side.bfloat16() for side in on(0, 1))
    value = topk_tail_divergence(student, teacher, kind="reverse")
    assert value.dtype == torch.float32
    wide = topk_tail_divergence(student.double(), teacher.double(), kind="reverse")
    assert value.item() == pytest.approx(wide.item(), abs=1e-6)
    assert topk_tail_divergence(student[:0], teacher[:0], kind="jsd").shape == (0,)


def test_errors_name_what_came_and_what_was_wanted() -> None:
    student, teacher = on(0, 1)
    with pytest.raises(ValueError, match=r"student_logprobs_NK \[1, 2\], teacher_logprobs_NK \[1, 1\]"):
        topk_tail_divergence(student, teacher[:, :1], kind="reverse")
    with pytest.raises(ValueError, match="kind is 'kl'"):
        topk_tail_divergence(student, teacher, kind="kl")  # type: ignore[arg-type]
    for alpha in (0.0, 1.0):
        with pytest.raises(ValueError, match="jsd_alpha"):
            topk_tail_divergence(student, teacher, kind="jsd", jsd_alpha=alpha)
    with pytest.raises(ValueError, match="tail_ratio_cap"):
        topk_tail_divergence(student, teacher, kind="forward", tail_ratio_cap=0.0)
    with pytest.raises(ValueError, match=r"entry_clip is 0.2 with kind 'reverse'"):
        topk_tail_divergence(student, teacher, kind="reverse", entry_clip=0.2)

"""Targets between student and teacher: hand numbers, what merging bins costs, gradients, degenerate rows.

The worked pair of test_divergences.py: S = (.50 .25 .15 .07 .03), T = (.10 .60 .05 .20 .05).
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from critique_rl.ops.divergences import DivergenceKind, divergence_logit_gradient, topk_tail_divergence
from critique_rl.ops.logprobs import gather_logprobs, topk_logprobs
from critique_rl.ops.targets import TargetKind, target_logprobs

STUDENT, TEACHER = [0.50, 0.25, 0.15, 0.07, 0.03], [0.10, 0.60, 0.05, 0.20, 0.05]
KINDS: tuple[DivergenceKind, ...] = ("reverse", "forward", "jsd")
EDITS: tuple[TargetKind, ...] = ("mixed", "clipped_gap")


def log(*probs: float) -> Tensor:
    return torch.tensor([probs], dtype=torch.float64).log()


LOG_S, LOG_T = log(*STUDENT), log(*TEACHER)


def whole(kind: TargetKind, *, mix: float = 0.01, gap_clip: float = 1.0) -> list[float]:
    q = target_logprobs(LOG_S, LOG_T, kind=kind, mix=mix, gap_clip=gap_clip, whole_vocabulary=True)
    return q.exp()[0].tolist()


# Values


@pytest.mark.parametrize(
    ("mix", "expected"),
    [
        (0.01, [0.102174, 0.597998, 0.050827, 0.198986, 0.050015]),
        (0.1, [0.123572, 0.578302, 0.058709, 0.189435, 0.049982]),
        (0.5, [0.261663, 0.453214, 0.101342, 0.138459, 0.045321]),
    ],
)
def test_mixed_is_a_geometric_mean(mix: float, expected: list[float]) -> None:
    assert whole("mixed", mix=mix) == pytest.approx(expected, abs=1e-6)
    plain = [t ** (1 - mix) * s**mix for s, t in zip(STUDENT, TEACHER, strict=True)]
    assert whole("mixed", mix=mix) == pytest.approx([x / sum(plain) for x in plain], abs=1e-12)


@pytest.mark.parametrize(
    ("clip", "expected"),
    [
        (1.0, [0.170409, 0.555864, 0.051123, 0.176283, 0.046322]),
        (0.5, [0.312227, 0.424361, 0.093668, 0.118821, 0.050923]),
    ],
)
def test_clipped_gap_moves_no_id_further_than_the_clip(clip: float, expected: list[float]) -> None:
    q = whole("clipped_gap", gap_clip=clip)
    assert q == pytest.approx(expected, abs=1e-6)
    # S_v e^clip(gap) sums to 1.079401 at C = 1; an id with |gap| < C gets T_v / Z
    assert clip != 1.0 or TEACHER[1] / q[1] == pytest.approx(1.079401, abs=1e-6)
    assert all(abs(math.log(x / s)) <= 2 * clip for x, s in zip(q, STUDENT, strict=True))


def test_the_divergence_to_a_clipped_target_is_a_true_one() -> None:
    q = target_logprobs(LOG_S, LOG_T, kind="clipped_gap", whole_vocabulary=True)
    assert topk_tail_divergence(LOG_S, q, kind="reverse", whole_vocabulary=True).item() == pytest.approx(
        0.422215, abs=1e-6
    )


def test_without_an_edit_it_is_the_teacher_bit_for_bit() -> None:
    assert target_logprobs(LOG_S, LOG_T, kind="teacher") is LOG_T
    assert whole("clipped_gap", gap_clip=math.inf) == pytest.approx(TEACHER, abs=1e-15)
    assert whole("clipped_gap", gap_clip=1.7) == pytest.approx(TEACHER, abs=1e-12)  # the largest gap is 1.609438
    assert whole("mixed", mix=1e-12) == pytest.approx(TEACHER, abs=1e-10)


# Bins


@pytest.mark.parametrize("kind", EDITS)
def test_all_ids_but_one_and_the_tail_are_the_whole_vocabulary(kind: TargetKind) -> None:
    q = target_logprobs(LOG_S[:, :4], LOG_T[:, :4], kind=kind).exp()[0].tolist()
    assert q == pytest.approx(whole(kind)[:4], abs=1e-12)


def test_the_tail_is_edited_as_one_id() -> None:
    # bins S (.5, .25, .25), T (.1, .6, .3). mix 1/2: sqrt(.05), sqrt(.15), sqrt(.075) over their sum .884766
    q = target_logprobs(LOG_S[:, :2], LOG_T[:, :2], kind="mixed", mix=0.5).exp()[0].tolist()
    assert q == pytest.approx([math.sqrt(0.05) / 0.884766, math.sqrt(0.15) / 0.884766], abs=1e-6)
    # the tail's share, .309529, is more than the ids in it would get one by one: .285122
    assert 1 - sum(q) == pytest.approx(0.309529, abs=1e-6)
    assert sum(whole("mixed", mix=0.5)[2:]) == pytest.approx(0.285122, abs=1e-6)
    # C = 1: .5 / e, .6, .3 over 1.083940, though ids 2 and 3 alone would be clipped
    q = target_logprobs(LOG_S[:, :2], LOG_T[:, :2], kind="clipped_gap").exp()[0].tolist()
    assert q == pytest.approx([0.5 / math.e / 1.083940, 0.6 / 1.083940], abs=1e-6)


@pytest.mark.parametrize("kind", EDITS)
def test_without_a_tail_it_is_a_distribution_over_the_support(kind: TargetKind) -> None:
    q = target_logprobs(LOG_S[:, :2], LOG_T[:, :2], kind=kind, tail=False)
    assert q.exp().sum().item() == pytest.approx(1.0, abs=1e-12)
    alone = target_logprobs(log(2 / 3, 1 / 3), log(1 / 7, 6 / 7), kind=kind, whole_vocabulary=True)
    assert torch.allclose(q, alone, atol=1e-12)


vectors = st.lists(st.floats(-4, 4), min_size=6, max_size=6).map(lambda v: torch.tensor([v], dtype=torch.float64))
quick = settings(deadline=None, max_examples=40, derandomize=True)


@quick
@given(vectors, vectors, st.sampled_from(EDITS), st.sampled_from(KINDS), st.integers(1, 5), st.booleans())
def test_invariances(
    z: Tensor, teacher: Tensor, kind: TargetKind, divergence: DivergenceKind, k: int, tail: bool
) -> None:
    at = topk_logprobs(z, k).ids_NK

    def gradient(z: Tensor, teacher: Tensor, at: Tensor) -> Tensor:
        z = z.clone().requires_grad_()
        student = gather_logprobs(z, at)
        q = target_logprobs(student, gather_logprobs(teacher, at), kind=kind, mix=0.3, tail=tail)
        value = topk_tail_divergence(student, q, kind=divergence, tail=tail)
        assert value.item() >= -1e-9
        (found,) = torch.autograd.grad(value.sum(), z)
        return found

    plain = gradient(z, teacher, at)
    assert plain.sum().item() == pytest.approx(0.0, abs=1e-10)
    assert torch.allclose(gradient(z + 30, teacher - 7, at), plain, atol=1e-9)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.allclose(
        gradient(z[:, order], teacher[:, order], torch.argsort(order)[at]), plain[:, order], atol=1e-9
    )
    assert gradient(z, z, at).abs().max().item() < 1e-9  # a teacher that agrees is no target to move to


@quick
@given(vectors, vectors, st.floats(0.05, 3.0))
def test_no_probability_is_asked_to_change_by_more_than_twice_the_clip(z: Tensor, teacher: Tensor, clip: float) -> None:
    s, t = z.log_softmax(dim=-1), teacher.log_softmax(dim=-1)
    q = target_logprobs(s[:, :4], t[:, :4], kind="clipped_gap", gap_clip=clip)
    assert (q - s[:, :4]).abs().max().item() <= 2 * clip + 1e-9


@quick
@given(vectors, vectors, st.sampled_from(KINDS))
def test_a_bounded_target_is_never_further_away_than_the_teacher(
    z: Tensor, teacher: Tensor, divergence: DivergenceKind
) -> None:
    # for the mixture: the divergence to a point on the geodesic from T to S falls with the student's share
    s, t = z.log_softmax(dim=-1), teacher.log_softmax(dim=-1)
    values = [
        topk_tail_divergence(
            s,
            target_logprobs(s, t, kind="mixed", mix=mix, whole_vocabulary=True),
            kind=divergence,
            whole_vocabulary=True,
        ).item()
        for mix in (1e-9, 0.2, 0.5, 0.9)
    ]
    assert all(near <= far + 1e-9 for far, near in pairwise(values))


# Gradients


@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("divergence", KINDS)
@pytest.mark.parametrize("tail", [True, False])
def test_the_student_in_the_target_is_a_constant(kind: TargetKind, divergence: DivergenceKind, tail: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(3, 7, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.randn(3, 7, dtype=torch.float64, generator=generator).requires_grad_()
    at = topk_logprobs(z.detach(), 3).ids_NK

    def q(logits: Tensor) -> Tensor:
        sides = gather_logprobs(logits, at), gather_logprobs(teacher, at)
        return target_logprobs(*sides, kind=kind, mix=0.3, gap_clip=0.4, tail=tail)

    fixed = q(z)
    assert not fixed.requires_grad

    def value(logits: Tensor, target: Tensor) -> Tensor:
        return topk_tail_divergence(
            gather_logprobs(logits, at), target, kind=divergence, tail=tail, tail_ratio_cap=math.inf
        )

    assert torch.autograd.gradcheck(value, (z, fixed))
    (gradient,) = torch.autograd.grad(value(z, q(z)).sum(), z)
    closed = divergence_logit_gradient(z, fixed, at, kind=divergence, tail=tail, tail_ratio_cap=math.inf)
    assert torch.allclose(gradient, closed, atol=1e-12)


@pytest.mark.parametrize("kind", EDITS)
def test_one_descent_step_nears_the_target_and_the_teacher(kind: TargetKind) -> None:
    z = LOG_S.clone().requires_grad_()
    q = target_logprobs(LOG_S, LOG_T, kind=kind, mix=0.3, whole_vocabulary=True)
    value = topk_tail_divergence(z.log_softmax(dim=-1), q, kind="forward", whole_vocabulary=True)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    after = (z - 0.1 * gradient).log_softmax(dim=-1).detach()
    for far in (q, LOG_T):
        distances = [topk_tail_divergence(s, far, kind="forward", whole_vocabulary=True).item() for s in (LOG_S, after)]
        assert distances[1] < distances[0]


# Degenerate input


@pytest.mark.parametrize("kind", EDITS)
@pytest.mark.parametrize("tail", [True, False])
def test_padding_stays_padding_and_nan_stays_loud(kind: TargetKind, tail: bool) -> None:
    pad = torch.full((1, 2), -math.inf, dtype=torch.float64)
    padded = target_logprobs(
        torch.cat([LOG_S[:, :2], pad], dim=-1), torch.cat([LOG_T[:, :2], pad], dim=-1), kind=kind, tail=tail
    )
    plain = target_logprobs(LOG_S[:, :2], LOG_T[:, :2], kind=kind, tail=tail)
    assert torch.allclose(padded[:, :2], plain, atol=1e-15) and padded[0, 2:].tolist() == [-math.inf] * 2

    rows = LOG_S[:, :2].repeat(2, 1).requires_grad_()
    missing = torch.cat([torch.full_like(LOG_T[:, :2], math.nan), LOG_T[:, :2]])
    value = topk_tail_divergence(rows, target_logprobs(rows, missing, kind=kind, tail=tail), kind="forward", tail=tail)
    assert math.isnan(value[0].item()) and math.isfinite(value[1].item())
    (gradient,) = torch.autograd.grad(torch.where(torch.tensor([False, True]), value, 0.0).sum(), rows)
    assert gradient[0].tolist() == [0.0, 0.0] and bool(gradient[1].any())


def test_what_one_side_rules_out() -> None:
    lacking = torch.tensor([[0.0, -math.inf]], dtype=torch.float64)
    half = log(0.5, 0.5)

    def q(student: Tensor, teacher: Tensor, kind: TargetKind) -> list[float]:
        return target_logprobs(student, teacher, kind=kind, whole_vocabulary=True).exp()[0].tolist()

    assert q(half, lacking, "mixed") == [1.0, 0.0]
    assert q(lacking, half, "mixed") == [1.0, 0.0]
    # .5 e^.693147 = 1 and .5 e^-1 = .183940, over their sum
    assert q(half, lacking, "clipped_gap") == pytest.approx([1 / 1.183940, 0.183940 / 1.183940], abs=1e-6)
    assert q(lacking, half, "clipped_gap") == [1.0, 0.0]
    assert q(lacking, lacking, "clipped_gap") == [1.0, 0.0]


def test_narrow_input_is_widened_and_no_rows_are_no_targets() -> None:
    student, teacher = LOG_S.bfloat16(), LOG_T.bfloat16()
    for kind in EDITS:
        q = target_logprobs(student, teacher, kind=kind, whole_vocabulary=True)
        assert q.dtype == torch.float32
        wide = target_logprobs(student.double(), teacher.double(), kind=kind, whole_vocabulary=True)
        assert torch.allclose(q.double(), wide, atol=1e-6)
        assert target_logprobs(student[:0], teacher[:0], kind=kind).shape == (0, 5)


def test_errors_name_what_came_and_what_was_wanted() -> None:
    with pytest.raises(ValueError, match=r"student_logprobs_NK \[1, 5\], teacher_logprobs_NK \[1, 2\]"):
        target_logprobs(LOG_S, LOG_T[:, :2], kind="mixed")
    with pytest.raises(ValueError, match="kind is 'ema'"):
        target_logprobs(LOG_S, LOG_T, kind="ema")  # type: ignore[arg-type]
    for mix in (0.0, 1.0):
        with pytest.raises(ValueError, match="mix is"):
            target_logprobs(LOG_S, LOG_T, kind="mixed", mix=mix)
    with pytest.raises(ValueError, match=r"gap_clip is 0\.0; wanted a number of nats above 0"):
        target_logprobs(LOG_S, LOG_T, kind="clipped_gap", gap_clip=0.0)

"""Gradients of the divergences: spec numbers, closed form, finite differences, invariances.

Same worked pair as in test_divergences.py. Gradients are towards the student's logits.
"""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from critique_rl.ops.divergences import (
    DivergenceKind,
    divergence_logit_gradient,
    full_divergence,
    topk_tail_divergence,
)
from critique_rl.ops.logprobs import gather_logprobs, token_logprobs, topk_logprobs

STUDENT = [0.50, 0.25, 0.15, 0.07, 0.03]
Z_STUDENT = torch.tensor([STUDENT], dtype=torch.float64).log() + 1.0
Z_TEACHER = torch.tensor([[0.10, 0.60, 0.05, 0.20, 0.05]], dtype=torch.float64).log() - 0.5
KINDS: tuple[DivergenceKind, ...] = ("reverse", "forward", "jsd")
ALL = (0, 1, 2, 3, 4)

SPEC_ROWS = [
    ("reverse", ALL, [0.473803, -0.384325, 0.065517, -0.119816, -0.035180]),
    ("forward", ALL, [0.40, -0.35, 0.10, -0.13, -0.02]),
    ("reverse", (0, 1), [0.534583, -0.353935, -0.108389, -0.050582, -0.021678]),
    ("forward", (0, 1), [0.400000, -0.350000, -0.030000, -0.014000, -0.006000]),
    ("forward", (1, 3), [0.352941, -0.350000, 0.105882, -0.130000, 0.021176]),
    ("jsd", (0, 1), [0.102974, -0.078695, -0.014568, -0.006798, -0.002914]),
    ("jsd", (1, 3), [0.079483, -0.081002, 0.023845, -0.027096, 0.004769]),
    ("reverse", (1, 3), [0.341981, -0.353820, 0.102594, -0.111274, 0.020519]),
]


def autograd_gradient(
    z: Tensor,
    teacher_z: Tensor,
    ids: Tensor,
    *,
    kind: DivergenceKind,
    cap: float = 10.0,
    entry_clip: float | None = None,
    **options: bool,
) -> Tensor:
    z = z.clone().requires_grad_()
    value = topk_tail_divergence(
        gather_logprobs(z, ids),
        gather_logprobs(teacher_z, ids),
        kind=kind,
        tail_ratio_cap=cap,
        entry_clip=entry_clip,
        **options,
    )
    (gradient,) = torch.autograd.grad(value.sum(), z)
    return gradient


@pytest.mark.parametrize(("kind", "ids", "expected"), SPEC_ROWS)
def test_spec_gradients(kind: DivergenceKind, ids: tuple[int, ...], expected: list[float]) -> None:
    at, whole = torch.tensor([ids]), ids == ALL
    gradient = autograd_gradient(Z_STUDENT, Z_TEACHER, at, kind=kind, whole_vocabulary=whole)
    assert gradient[0].tolist() == pytest.approx(expected, abs=1e-6)
    closed = divergence_logit_gradient(Z_STUDENT, gather_logprobs(Z_TEACHER, at), at, kind=kind, whole_vocabulary=whole)
    assert torch.allclose(closed, gradient, atol=1e-12)


def test_renormalised_gradient_leaves_unseen_ids_alone_and_raw_does_not_conserve() -> None:
    at = torch.tensor([[0, 1]])
    renormalised = autograd_gradient(Z_STUDENT, Z_TEACHER, at, kind="reverse", tail=False)
    assert renormalised[0].tolist() == pytest.approx([0.552201, -0.552201, 0, 0, 0], abs=1e-6)
    raw = autograd_gradient(Z_STUDENT, Z_TEACHER, at, kind="reverse", whole_vocabulary=True)
    assert raw[0].tolist() == pytest.approx([0.636793, -0.302830, -0.200378, -0.093510, -0.040076], abs=1e-6)


def test_policy_gradient_with_the_gap_as_advantage_is_the_negative_reverse_gradient() -> None:
    ids = torch.tensor(ALL)
    z = Z_STUDENT.repeat(5, 1).requires_grad_()
    logprobs = token_logprobs(z, ids)
    teacher = token_logprobs(Z_TEACHER.repeat(5, 1), ids)
    probs = torch.tensor(STUDENT, dtype=torch.float64)
    gap = (teacher - logprobs).detach()

    def expected_gradient(signal: Tensor) -> list[float]:
        (gradient,) = torch.autograd.grad((probs * signal * logprobs).sum(), z, retain_graph=True)
        return gradient.sum(dim=0).tolist()

    negative = [-0.473803, 0.384325, -0.065517, 0.119816, 0.035180]
    assert expected_gradient(gap) == pytest.approx(negative, abs=1e-6)
    # a penalty that does not depend on the action teaches nothing
    assert expected_gradient(torch.full((5,), 0.54, dtype=torch.float64)) == pytest.approx([0.0] * 5, abs=1e-12)
    # zeroing the gap outside the support biases it
    truncated = gap * torch.tensor([1.0, 1.0, 0.0, 0.0, 0.0])
    biased = [-0.511793, 0.365330, 0.087878, 0.041010, 0.017576]
    assert expected_gradient(truncated) == pytest.approx(biased, abs=1e-6)
    # backpropagating k1 = log S(a) - log T(a) itself: zero in expectation, so the teacher never enters
    (k1,) = torch.autograd.grad((probs * (logprobs - teacher)).sum(), z)
    assert k1.sum(dim=0).tolist() == pytest.approx([0.0] * 5, abs=1e-12)


def test_worked_joint_step() -> None:
    z = Z_STUDENT.clone().requires_grad_()
    at = torch.tensor([[0, 1]])
    directive = topk_tail_divergence(gather_logprobs(z, at), gather_logprobs(Z_TEACHER, at), kind="reverse").sum()
    logprob = token_logprobs(z, torch.tensor([0]))
    surrogate = (torch.exp(logprob - logprob.detach()) * -0.5).sum()
    loss = -surrogate + 0.1 * directive
    assert loss.item() == pytest.approx(0.5540271, abs=1e-6)
    (gradient,) = torch.autograd.grad(loss, z)
    # .1 * (.534583 -.353935 -.108389 -.050582 -.021678) + .5 * (.5 -.25 -.15 -.07 -.03)
    assert gradient[0].tolist() == pytest.approx([0.303458, -0.160394, -0.085839, -0.040058, -0.017168], abs=1e-6)


def test_forward_tail_gradient_is_capped_but_its_value_is_not() -> None:
    # S tail 1e-4, T tail .3: ratio 3000
    z = torch.tensor([[0.6, 0.3999, 5e-5, 5e-5]], dtype=torch.float64).log()
    teacher = torch.tensor([[0.4, 0.3, 0.1, 0.2]], dtype=torch.float64).log()
    at = torch.tensor([[0, 1]])
    pair = gather_logprobs(z, at), gather_logprobs(teacher, at)
    capped = topk_tail_divergence(*pair, kind="forward", tail_ratio_cap=10.0)
    free = topk_tail_divergence(*pair, kind="forward", tail_ratio_cap=math.inf)
    assert torch.equal(capped, free)
    assert free.item() == pytest.approx(0.4 * math.log(0.4 / 0.6) + 0.3 * math.log(0.3 / 0.3999) + 0.3 * math.log(3000))
    # dz_v = S_v (T_V - S_V r) in the tail, r = min(ratio, cap)
    for cap, ratio in ((10.0, 10.0), (math.inf, 3000.0)):
        gradient = autograd_gradient(z, teacher, at, kind="forward", cap=cap)
        assert gradient[0, 2].item() == pytest.approx(5e-5 * (0.7 - 0.9999 * ratio), rel=1e-9)
        assert gradient.sum().item() == pytest.approx(0.0, abs=1e-12)
        closed = divergence_logit_gradient(z, pair[1], at, kind="forward", tail_ratio_cap=cap)
        assert torch.allclose(closed, gradient, atol=1e-10)


def test_clipped_entries_stop_pushing() -> None:
    at = torch.tensor([ALL])
    z = Z_STUDENT.clone()
    s = gather_logprobs(z, at).requires_grad_()
    value = topk_tail_divergence(
        s, gather_logprobs(Z_TEACHER, at), kind="forward", whole_vocabulary=True, entry_clip=0.2
    )
    (gradient,) = torch.autograd.grad(value.sum(), s)
    # d/ds_v = -T_v, and 0 for ids 1 and 3, whose terms exceed .2
    assert gradient[0].tolist() == pytest.approx([-0.1, 0.0, -0.05, 0.0, -0.05], abs=1e-12)
    # towards logits: dz_v = dL/ds_v + .2 S_v; the ids that were cut off are even pushed down a little
    clipped = autograd_gradient(Z_STUDENT, Z_TEACHER, at, kind="forward", whole_vocabulary=True, entry_clip=0.2)
    assert clipped[0].tolist() == pytest.approx([0.0, 0.05, -0.02, 0.014, -0.044], abs=1e-12)


@pytest.mark.parametrize("tail", [True, False])
def test_clipped_entries_against_a_plain_loop_and_finite_differences(tail: bool) -> None:
    generator = torch.Generator().manual_seed(6)
    z = torch.randn(4, 7, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.randn(4, 7, dtype=torch.float64, generator=generator)
    at = topk_logprobs(teacher, 3).ids_NK
    teacher_at = gather_logprobs(teacher, at)

    def value(logits: Tensor) -> Tensor:
        return topk_tail_divergence(
            gather_logprobs(logits, at), teacher_at, kind="forward", tail=tail, entry_clip=0.1, tail_ratio_cap=math.inf
        )

    assert torch.autograd.gradcheck(value, (z,))
    cut = 0
    for n, got in enumerate(value(z).tolist()):
        s, t = (side[n, at[n]].exp().tolist() for side in (z.log_softmax(-1), teacher.log_softmax(-1)))
        bins = [(*s, 1 - sum(s)), (*t, 1 - sum(t))] if tail else [[x / sum(p) for x in p] for p in (s, t)]
        entries = [q * math.log(q / p) for p, q in zip(*bins, strict=True)]
        cut += sum(entry > 0.1 for entry in entries)
        assert got == pytest.approx(sum(min(entry, 0.1) for entry in entries), abs=1e-12)
    assert 0 < cut < 4 * (4 if tail else 3)  # both sides of the clip are there
    assert value(z).min().item() < 0  # which is legal: only the upper side is bounded


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tail", [True, False])
@pytest.mark.parametrize("rescale", [True, False])
def test_finite_differences(kind: DivergenceKind, tail: bool, rescale: bool) -> None:
    generator = torch.Generator().manual_seed(5)
    z = torch.randn(3, 7, dtype=torch.float64, generator=generator, requires_grad=True)
    teacher = torch.randn(3, 7, dtype=torch.float64, generator=generator)
    at = topk_logprobs(z.detach(), 3).ids_NK
    teacher_at = gather_logprobs(teacher, at)

    def value(logits: Tensor) -> Tensor:
        return topk_tail_divergence(
            gather_logprobs(logits, at),
            teacher_at,
            kind=kind,
            tail=tail,
            rescale_jsd=rescale,
            jsd_alpha=0.3,
            tail_ratio_cap=math.inf,
        )

    def whole(logits: Tensor) -> Tensor:
        return full_divergence(logits, teacher, kind=kind)

    assert torch.autograd.gradcheck(value, (z,))
    assert torch.autograd.gradcheck(whole, (z,))


def test_no_gradient_reaches_the_teacher() -> None:
    teacher = Z_TEACHER.clone().requires_grad_()
    student = Z_STUDENT.clone().requires_grad_()
    for kind in KINDS:
        full_divergence(student, teacher, kind=kind).sum().backward()
        at = torch.tensor([[0, 1]])
        topk_tail_divergence(gather_logprobs(student, at), gather_logprobs(teacher, at), kind=kind).sum().backward()
    assert student.grad is not None and teacher.grad is None


def test_closed_form_ignores_padding_whatever_its_id() -> None:
    at = torch.tensor([[0, 1, 0, 4]])
    padded = gather_logprobs(Z_TEACHER, at).index_fill(-1, torch.tensor([2, 3]), -math.inf)
    short = torch.tensor([[0, 1]])
    for kind in KINDS:
        for tail in (True, False):
            closed = divergence_logit_gradient(Z_STUDENT, padded, at, kind=kind, tail=tail)
            plain = autograd_gradient(Z_STUDENT, Z_TEACHER, short, kind=kind, tail=tail)
            assert torch.allclose(closed, plain, atol=1e-12)
    missing = torch.tensor([[0, 1, -100, -100]])
    closed = divergence_logit_gradient(Z_STUDENT, padded, missing, kind="jsd")
    assert torch.allclose(closed, autograd_gradient(Z_STUDENT, Z_TEACHER, short, kind="jsd"), atol=1e-12)


def test_closed_form_survives_a_support_with_next_to_no_mass() -> None:
    z, at = torch.tensor([[800.0, 0.0, -1.0]], dtype=torch.float64), torch.tensor([[1, 2]])
    teacher = torch.tensor([[0.5, 0.3, 0.2]], dtype=torch.float64).log()
    closed = divergence_logit_gradient(z, gather_logprobs(teacher, at), at, kind="reverse", tail=False)
    assert closed[0, 0].item() == 0.0
    assert torch.allclose(closed, autograd_gradient(z, teacher, at, kind="reverse", tail=False), atol=1e-9)


def test_closed_form_refuses_whole_vocabulary_on_part_of_it() -> None:
    at = torch.tensor([[0, 1]])
    with pytest.raises(ValueError, match="holds 2 of 5 ids"):
        divergence_logit_gradient(Z_STUDENT, gather_logprobs(Z_TEACHER, at), at, kind="reverse", whole_vocabulary=True)


vectors = st.lists(st.floats(-4, 4), min_size=6, max_size=6).map(lambda v: torch.tensor([v], dtype=torch.float64))
quick = settings(deadline=None, max_examples=40, derandomize=True)


@quick
@given(vectors, vectors, st.sampled_from(KINDS), st.integers(1, 5), st.booleans(), st.floats(-50, 50))
def test_invariances(z: Tensor, teacher: Tensor, kind: DivergenceKind, k: int, tail: bool, shift: float) -> None:
    at = topk_logprobs(z, k).ids_NK
    gradient = autograd_gradient(z, teacher, at, kind=kind, tail=tail)
    assert gradient.sum().item() == pytest.approx(0.0, abs=1e-10)
    assert torch.allclose(gradient, autograd_gradient(z + shift, teacher - shift, at, kind=kind, tail=tail), atol=1e-9)
    closed = divergence_logit_gradient(z, gather_logprobs(teacher, at), at, kind=kind, tail=tail)
    assert torch.allclose(gradient, closed, atol=1e-9)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    position = torch.argsort(order)
    permuted = autograd_gradient(z[:, order], teacher[:, order], position[at], kind=kind, tail=tail)
    assert torch.allclose(permuted, gradient[:, order], atol=1e-10)


@quick
@given(vectors, st.sampled_from(KINDS), st.integers(1, 5), st.booleans())
def test_a_teacher_that_agrees_teaches_nothing(z: Tensor, kind: DivergenceKind, k: int, tail: bool) -> None:
    at = topk_logprobs(z, k).ids_NK
    same = gather_logprobs(z, at)
    assert topk_tail_divergence(same, same, kind=kind, tail=tail).item() == pytest.approx(0.0, abs=1e-12)
    assert autograd_gradient(z, z, at, kind=kind, tail=tail).abs().max().item() < 1e-10


@quick
@given(vectors, vectors, st.sampled_from(KINDS))
def test_tail_bound_grows_with_nested_supports_up_to_the_full_value(
    z: Tensor, teacher: Tensor, kind: DivergenceKind
) -> None:
    order = topk_logprobs(z, 6).ids_NK
    values = [
        topk_tail_divergence(gather_logprobs(z, order[:, :k]), gather_logprobs(teacher, order[:, :k]), kind=kind).item()
        for k in range(1, 6)
    ]
    values.append(full_divergence(z, teacher, kind=kind).item())
    assert values[0] >= -1e-12
    assert all(low <= high + 1e-10 for low, high in pairwise(values))


@quick
@given(vectors, vectors, st.sampled_from(KINDS))
def test_one_descent_step_lowers_the_divergence(z: Tensor, teacher: Tensor, kind: DivergenceKind) -> None:
    at = topk_logprobs(z, 3).ids_NK
    teacher_at = gather_logprobs(teacher, at)
    gradient = autograd_gradient(z, teacher, at, kind=kind, cap=math.inf)
    before = topk_tail_divergence(gather_logprobs(z, at), teacher_at, kind=kind)
    after = topk_tail_divergence(gather_logprobs(z - 1e-4 * gradient, at), teacher_at, kind=kind)
    assert after.item() <= before.item() + 1e-12

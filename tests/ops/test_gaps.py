"""The sampled gap and what is made of it: hand numbers, what it is in expectation, unknown log-probs."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from critique_rl.ops.divergences import full_divergence
from critique_rl.ops.gaps import centred_gap, certainty_weights, sampled_gap, signed_advantages, support_entropy
from critique_rl.ops.logprobs import token_logprobs


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


BEHAVIOUR, TEACHER = vector(-0.20, -1.50, -0.05, -2.30), vector(-0.10, -0.40, -3.05, -2.30)
STUDENT_V, TEACHER_V = [0.50, 0.25, 0.15, 0.07, 0.03], [0.10, 0.60, 0.05, 0.20, 0.05]


@pytest.mark.parametrize(
    ("clip", "expected"),
    [(math.inf, [0.1, 1.1, -3.0, 0.0]), (1.0, [0.1, 1.0, -1.0, 0.0]), (2.0, [0.1, 1.1, -2.0, 0.0])],
)
def test_by_hand(clip: float, expected: list[float]) -> None:
    assert sampled_gap(TEACHER, BEHAVIOUR, clip=clip).tolist() == pytest.approx(expected, abs=1e-12)


def test_as_an_advantage_it_descends_the_reverse_divergence() -> None:
    # each of five ids as often as the policy takes it: sum_a S_a g_a d log S(a) = -d KL(S||T)
    z = vector(*STUDENT_V).log().unsqueeze(0).requires_grad_()
    teacher = vector(*TEACHER_V).log().unsqueeze(0)
    every = torch.arange(5)
    logprobs = token_logprobs(z.expand(5, 5), every)
    gap = sampled_gap(token_logprobs(teacher.expand(5, 5), every), logprobs, clip=math.inf)
    (ascent,) = torch.autograd.grad((vector(*STUDENT_V) * gap * logprobs).sum(), z, retain_graph=True)
    (descent,) = torch.autograd.grad(full_divergence(z, teacher, kind="reverse").sum(), z)
    assert torch.allclose(ascent, -descent, atol=1e-12)
    # clipped it is another direction, yet the same way up for the teacher's favourite and down for the student's
    clipped = sampled_gap(token_logprobs(teacher.expand(5, 5), every), logprobs, clip=0.5)
    (bounded,) = torch.autograd.grad((vector(*STUDENT_V) * clipped * logprobs).sum(), z)
    assert bounded[0, 1] > 0 > bounded[0, 0] and not torch.allclose(bounded, ascent, atol=1e-3)


def test_a_missing_teacher_is_unknown_and_never_praise() -> None:
    missing = vector(-0.1, math.nan, -math.inf, -2.3)
    assert torch.isnan(sampled_gap(missing, BEHAVIOUR, clip=1.0)).tolist() == [False, True, True, False]
    unknown = sampled_gap(TEACHER, vector(math.nan, -1.5, -0.05, -math.inf), clip=1.0)
    assert torch.isnan(unknown).tolist() == [True, False, False, True]
    # what padding with 0.0 would have said: (.2, 1.5, .05, 2.3), all of it praise
    assert sampled_gap(torch.zeros_like(BEHAVIOUR), BEHAVIOUR, clip=math.inf).tolist() == [0.2, 1.5, 0.05, 2.3]


# The gap less its mean


def every_id(clip: float, *, reverse_kl: float | None = None) -> Tensor:
    """The centred gap of each of the five ids at one state; the divergence is that of all of them unless given."""
    student, teacher = vector(*STUDENT_V).log(), vector(*TEACHER_V).log()
    whole = full_divergence(student.unsqueeze(0), teacher.unsqueeze(0), kind="reverse")
    known = whole if reverse_kl is None else vector(reverse_kl)
    return centred_gap(teacher, student, known.expand(5), clip=clip)


def test_the_centred_gap_by_hand() -> None:
    # gaps (-1.609438 .875469 -1.098612 1.049822 .510826), each plus KL = .661831
    centred = every_id(math.inf)
    assert centred.tolist() == pytest.approx([-0.947607, 1.537300, -0.436781, 1.711653, 1.172657], abs=1e-6)
    probs = vector(*STUDENT_V)
    assert (probs * centred).sum().item() == pytest.approx(0.0, abs=1e-12)
    # the mean square falls from 1.752776 by .661831^2 = .438020
    assert (probs * centred**2).sum().item() == pytest.approx(1.314755, abs=1e-6)
    assert every_id(1.0).tolist() == pytest.approx([-0.947607, 1.0, -0.436781, 1.0, 1.0], abs=1e-6)
    # over the student's top two and a tail KL is .540271: the mean is no longer 0, yet nearer to it than -.661831
    assert (probs * every_id(math.inf, reverse_kl=0.540271)).sum().item() == pytest.approx(-0.121560, abs=1e-6)


def test_a_centred_gap_has_the_policy_gradient_of_the_plain_one() -> None:
    z = vector(*STUDENT_V).log().unsqueeze(0).requires_grad_()
    logprobs = token_logprobs(z.expand(5, 5), torch.arange(5))
    plain = sampled_gap(vector(*TEACHER_V).log(), vector(*STUDENT_V).log(), clip=math.inf)
    one, other = (
        torch.autograd.grad((vector(*STUDENT_V) * gap * logprobs).sum(), z, retain_graph=True)[0]
        for gap in (plain, every_id(math.inf))
    )
    assert torch.allclose(one, other, atol=1e-12)


def test_a_centred_gap_of_unknowns_is_unknown() -> None:
    unknown = centred_gap(
        vector(-0.1, math.nan, -0.2, -0.2), vector(-0.2, -0.2, -math.inf, -0.2), vector(0.3, 0.3, 0.3, math.inf), clip=1
    )
    assert unknown.isnan().tolist() == [False, True, True, True]
    assert unknown[0].item() == pytest.approx(0.4)
    assert centred_gap(TEACHER.bfloat16(), BEHAVIOUR.bfloat16(), TEACHER, clip=1.0).dtype == torch.float32
    with pytest.raises(ValueError, match=r"shapes differ: .*reverse_kl_N \[3\]"):
        centred_gap(TEACHER, BEHAVIOUR, TEACHER[:3], clip=1.0)
    with pytest.raises(ValueError, match="clip is 0"):
        centred_gap(TEACHER, BEHAVIOUR, TEACHER, clip=0)


def test_equal_sides_have_no_gap_and_no_side_gets_a_gradient() -> None:
    both = BEHAVIOUR.clone().requires_grad_()
    gap = sampled_gap(both, both, clip=1.0)
    assert gap.tolist() == [0.0] * 4 and not gap.requires_grad
    assert sampled_gap(BEHAVIOUR[:0], TEACHER[:0], clip=1.0).shape == (0,)


def test_narrow_input_is_widened() -> None:
    assert sampled_gap(TEACHER.bfloat16(), BEHAVIOUR.bfloat16(), clip=1.0).dtype == torch.float32


# Advantages that the gap scales and never turns

GAP = vector(0.1, 1.1, -3.0, 0.0)


@pytest.mark.parametrize(
    ("advantage", "expected"),
    [
        # half of A, and half of A clip(e^g, .8, 1.2): e^.1 = 1.105171, e^1.1 and e^-3 are clipped, e^0 = 1
        (1.0, [1.052585, 1.1, 0.9, 1.0]),
        # e^-g where A < 0: .904837, clipped .8, clipped 1.2, 1
        (-1.0, [-0.952419, -0.9, -1.1, -1.0]),
        (0.0, [0.0] * 4),
    ],
)
def test_signed_advantages_by_hand(advantage: float, expected: list[float]) -> None:
    found = signed_advantages(torch.full_like(GAP, advantage), GAP, share=0.5, clip=0.2)
    assert found.tolist() == pytest.approx(expected, abs=1e-6)


def test_a_signed_advantage_keeps_its_sign_and_an_unknown_gap_changes_nothing() -> None:
    gap = torch.linspace(-9, 9, 13, dtype=torch.float64)
    for advantage in (0.7, -0.7):
        scaled = signed_advantages(torch.full_like(gap, advantage), gap, share=1.0, clip=0.9)
        assert bool((scaled * advantage > 0).all())
        # what the teacher likes is praised more, and blamed less
        assert scaled.tolist() == sorted(scaled.tolist())
    whole = vector(0.5, -0.5, 2.0)
    assert signed_advantages(whole, vector(3.0, -3.0, 0.2), share=0.0, clip=0.2).tolist() == whole.tolist()
    holed = signed_advantages(whole, vector(math.nan, 0.0, math.nan), share=0.5, clip=0.2)
    assert holed.tolist() == whole.tolist() and not holed.requires_grad


def test_entropy_over_a_support_and_its_tail() -> None:
    teacher = vector(*TEACHER_V).log()
    assert support_entropy(teacher.unsqueeze(0)).item() == pytest.approx(1.158215, abs=1e-6)
    # two of five and a tail: .6, .2, .2 -> -.6 ln .6 - .4 ln .2 = .306495 + .643775
    assert support_entropy(teacher[[1, 3]].unsqueeze(0)).item() == pytest.approx(0.950271, abs=1e-6)
    assert support_entropy(vector(0.0, -math.inf).unsqueeze(0)).tolist() == [0.0]
    assert support_entropy(torch.zeros(0, 3)).shape == (0,)
    uniform = torch.full((1, 4), math.log(0.25), dtype=torch.float64)
    assert support_entropy(uniform).item() == pytest.approx(math.log(4))


def test_certainty_weights_by_hand() -> None:
    # raw e^-H: .904837, .314046, .2; mean .472961
    weights = certainty_weights(vector(0.1, 1.158215, math.log(5)), beta=1.0)
    assert weights.tolist() == pytest.approx([1.913132, 0.664000, 0.422868], abs=1e-6)
    assert weights.mean().item() == pytest.approx(1.0)
    assert certainty_weights(vector(0.1, 3.0), beta=0.0).tolist() == [1.0, 1.0]
    assert certainty_weights(vector(800.0, 900.0), beta=50.0).tolist() == [2.0, 0.0]
    assert certainty_weights(vector(), beta=1.0).shape == (0,)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"teacher_logprobs_N \[4\], behaviour_logprobs_N \[3\]"):
        sampled_gap(TEACHER, BEHAVIOUR[:3], clip=1.0)
    with pytest.raises(ValueError, match=r"clip is 0\.0; wanted a number of nats above 0"):
        sampled_gap(TEACHER, BEHAVIOUR, clip=0.0)
    x = vector(1.0)
    for share, clip in ((-0.1, 0.2), (1.1, 0.2), (0.5, 0.0), (0.5, 1.0)):
        with pytest.raises(ValueError, match=f"share is {share}, clip {clip}; wanted"):
            signed_advantages(x, x, share=share, clip=clip)
    with pytest.raises(ValueError, match=r"advantages_N \[1\], gap_N \[4\]"):
        signed_advantages(x, GAP, share=0.5, clip=0.2)
    with pytest.raises(ValueError, match=r"beta is -1\.0; wanted"):
        certainty_weights(x, beta=-1.0)
    with pytest.raises(ValueError, match="not finite; leave out"):
        certainty_weights(vector(math.nan), beta=1.0)

"""Worked numbers through the chunked head: five ids, a student S and a teacher T, all divergences and their gradients.

The pair reaches the head as hidden states that are the logits, with the identity as the head's weight.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from critique_rl.ops.divergences import DivergenceKind, topk_tail_divergence
from critique_rl.ops.fused import HeadTerms, head_terms

STUDENT, TEACHER = [0.50, 0.25, 0.15, 0.07, 0.03], [0.10, 0.60, 0.05, 0.20, 0.05]
Z_STUDENT = torch.tensor([STUDENT], dtype=torch.float64).log() + 1.0
LOG_TEACHER = torch.tensor([TEACHER], dtype=torch.float64).log()
GAP = (LOG_TEACHER - torch.tensor([STUDENT], dtype=torch.float64).log())[0]
EYE = torch.eye(5, dtype=torch.float64)
ALL = (0, 1, 2, 3, 4)


def test_hand_numbers() -> None:
    # S: log .25 = -1.386294, log .07 = -2.659260, H(S) = 1.269060; at temperature 1/2 p is S^2 / sum S^2,
    # sum S^2 = .25 + .0625 + .0225 + .0049 + .0009 = .3408, so log p(1) = log(.0625 / .3408) = -1.696129
    one, ids, rows = torch.tensor([1]), torch.tensor([[3, 1]]), torch.tensor([0])
    terms = head_terms(Z_STUDENT, EYE, one, rows_M=rows, ids_MK=ids, entropy=True)
    assert terms.logprobs_N.tolist() == pytest.approx([-1.386294], abs=1e-6)
    assert terms.support_MK[0].tolist() == pytest.approx([-2.659260, -1.386294], abs=1e-6)
    assert terms.entropy_N is not None and terms.entropy_N.tolist() == pytest.approx([1.269060], abs=1e-6)
    assert head_terms(Z_STUDENT, EYE, one, temperature=0.5).logprobs_N.item() == pytest.approx(-1.696129, abs=1e-6)


def dz(loss_of_terms: Callable[[HeadTerms], Tensor], *, ids: tuple[int, ...] = (0,)) -> list[float]:
    """Gradient of a loss towards the student's logits, through the fused head, with one support of `ids`."""
    z = Z_STUDENT.clone().requires_grad_()
    terms = head_terms(z, EYE, torch.tensor([0]), rows_M=torch.tensor([0]), ids_MK=torch.tensor([ids]), entropy=True)
    (gradient,) = torch.autograd.grad(loss_of_terms(terms), z)
    return gradient[0].tolist()


def divergence(terms: HeadTerms, ids: tuple[int, ...], kind: DivergenceKind, **options: object) -> Tensor:
    teacher = LOG_TEACHER[:, list(ids)]
    whole = len(ids) >= terms.vocabulary
    return topk_tail_divergence(terms.support_MK, teacher, kind=kind, **{"whole_vocabulary": whole} | options).sum()  # pyright: ignore[reportArgumentType]


def value(ids: tuple[int, ...], kind: DivergenceKind, **options: object) -> float:
    terms = head_terms(
        Z_STUDENT, EYE, torch.tensor([0]), rows_M=torch.tensor([0]), ids_MK=torch.tensor([ids]), chunk_bytes=1
    )
    return divergence(terms, ids, kind, **options).item()


@pytest.mark.parametrize(("kind", "expected"), [("reverse", 0.661831), ("forward", 0.544913), ("jsd", 0.140561)])
def test_t1_full_divergences(kind: DivergenceKind, expected: float) -> None:
    assert value(ALL, kind) == pytest.approx(expected, abs=1e-6)
    assert value((0, 1, 2, 3), kind) == pytest.approx(expected, abs=1e-6)  # the tail is the fifth id


@pytest.mark.parametrize(
    ("alpha", "expected"), [(0.1, 0.048959), (0.25, 0.102505), (0.5, 0.140561), (0.75, 0.111648), (0.9, 0.056624)]
)
def test_t2_the_mixture_of_jsd(alpha: float, expected: float) -> None:
    assert value(ALL, "jsd", jsd_alpha=alpha) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("ids", "tail", "expected"),
    [
        ((0, 1), True, (0.540271, 0.419034, 0.111037)),
        ((0, 1), False, (0.712143, 0.589475, 0.151580)),
        ((1, 3), True, (0.539813, 0.490491, 0.122603)),
        ((1, 3), False, (0.002682, 0.002766, 0.000681)),
        ((1,), True, (0.252589, 0.273838, 0.064181)),
        ((1,), False, (0.0, 0.0, 0.0)),
        ((0, 1, 2), True, (0.659015, 0.538480, 0.139584)),
    ],
)
def test_t2_truncated_supports(ids: tuple[int, ...], tail: bool, expected: tuple[float, float, float]) -> None:
    kinds: tuple[DivergenceKind, ...] = ("reverse", "forward", "jsd")
    assert [value(ids, kind, tail=tail) for kind in kinds] == pytest.approx(expected, abs=1e-6)


def test_t3_what_a_gap_may_be_used_for() -> None:
    z = Z_STUDENT.clone().requires_grad_()
    terms = head_terms(z.expand(5, 5), EYE, torch.arange(5), chunk_bytes=1)
    p = torch.tensor(STUDENT, dtype=torch.float64)

    def expected_gradient(per_action: Tensor) -> list[float]:
        """Of sum_a S_a x_a log S(a) with S_a x_a detached: each action as often as the policy takes it."""
        (gradient,) = torch.autograd.grad((p * per_action * terms.logprobs_N).sum(), z, retain_graph=True)
        return gradient[0].tolist()

    as_advantage = [-0.473803, 0.384325, -0.065517, 0.119816, 0.035180]
    assert expected_gradient(GAP) == pytest.approx(as_advantage, abs=1e-6)
    zero = [0.0] * 5
    assert expected_gradient(torch.full((5,), 0.7)) == pytest.approx(zero, abs=1e-12)  # independent of the action
    (k1,) = torch.autograd.grad((p * (terms.logprobs_N - LOG_TEACHER[0])).sum(), z, retain_graph=True)
    assert k1[0].tolist() == pytest.approx(zero, abs=1e-12)  # k1 differentiated itself
    biased = [-0.511793, 0.365330, 0.087878, 0.041010, 0.017576]
    assert expected_gradient(GAP * torch.tensor([1, 1, 0, 0, 0])) == pytest.approx(biased, abs=1e-6)


@pytest.mark.parametrize(
    ("kind", "ids", "options", "expected"),
    [
        ("reverse", ALL, {}, [0.473803, -0.384325, 0.065517, -0.119816, -0.035180]),
        ("forward", ALL, {}, [0.40, -0.35, 0.10, -0.13, -0.02]),
        ("reverse", (0, 1), {}, [0.534583, -0.353935, -0.108389, -0.050582, -0.021678]),
        ("reverse", (0, 1), {"tail": False}, [0.552201, -0.552201, 0, 0, 0]),
        ("reverse", (0, 1), {"whole_vocabulary": True}, [0.636793, -0.302830, -0.200378, -0.093510, -0.040076]),
        # T17
        ("forward", (0, 1), {}, [0.400000, -0.350000, -0.030000, -0.014000, -0.006000]),
        ("forward", (1, 3), {}, [0.352941, -0.350000, 0.105882, -0.130000, 0.021176]),
        ("jsd", (0, 1), {}, [0.102974, -0.078695, -0.014568, -0.006798, -0.002914]),
        ("jsd", (1, 3), {}, [0.079483, -0.081002, 0.023845, -0.027096, 0.004769]),
        ("reverse", (1, 3), {}, [0.341981, -0.353820, 0.102594, -0.111274, 0.020519]),
    ],
)
def test_t4_and_t17_gradients(
    kind: DivergenceKind, ids: tuple[int, ...], options: dict[str, object], expected: list[float]
) -> None:
    gradient = dz(lambda terms: divergence(terms, ids, kind, **options), ids=ids)
    assert gradient == pytest.approx(expected, abs=1e-6)
    assert sum(gradient) == pytest.approx(0.0, abs=1e-12)


def test_a_step_up_the_entropys_gradient_flattens() -> None:
    # dH/dz_v = -p_v (log p_v + H): negative for the likely, e.g. -.5 (-.693147 + 1.269060) = -.287957 for id 0
    gradient = dz(lambda terms: terms.entropy_N.sum())  # pyright: ignore[reportOptionalMemberAccess]
    assert gradient[0] == pytest.approx(-0.287957, abs=1e-6)
    assert gradient[4] > 0 and sum(gradient) == pytest.approx(0.0, abs=1e-12)


def test_one_id_several_times_in_a_support_adds_up() -> None:
    z = Z_STUDENT.clone().requires_grad_()
    rows, ids = torch.tensor([0]), torch.tensor([[1, 1, 1, 0]])
    terms = head_terms(z, EYE, torch.tensor([1]), rows_M=rows, ids_MK=ids)
    (gradient,) = torch.autograd.grad(terms.support_MK.sum() + terms.logprobs_N.sum(), z)
    expected = torch.tensor([1.0, 4, 0, 0, 0], dtype=torch.float64) - 5 * torch.tensor(STUDENT, dtype=torch.float64)
    torch.testing.assert_close(gradient[0], expected, rtol=0, atol=1e-12)

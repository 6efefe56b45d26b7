"""KL estimators in value and in gradient, by enumerating a vocabulary of five; the adaptive entropy weight."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import get_args

import pytest
import torch
from torch import Tensor

from critique_rl.ops.divergences import topk_tail_divergence
from critique_rl.ops.logprobs import entropy
from critique_rl.ops.penalties import KlKind, adapt_entropy_weight, kl_penalty

KINDS: tuple[KlKind, ...] = get_args(KlKind)
POLICY, REFERENCE = (0.50, 0.25, 0.15, 0.07, 0.03), (0.10, 0.60, 0.05, 0.20, 0.05)
REVERSE, FORWARD = 0.661831, 0.544913
REVERSE_GRADIENT = [0.473803, -0.384325, 0.065517, -0.119816, -0.035180]
FORWARD_GRADIENT = [0.40, -0.35, 0.10, -0.13, -0.02]  # policy - reference


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def expectation(terms_of: Callable[[Tensor, Tensor], Tensor]) -> tuple[float, list[float]]:
    """Value and gradient towards the logits, averaged over tokens sampled from the policy."""
    z = (vector(*POLICY).log() + 1.0).requires_grad_()
    terms = terms_of(z.log_softmax(-1), vector(*REFERENCE).log())
    mean = (vector(*POLICY) * terms).sum()
    (gradient,) = torch.autograd.grad(mean, z)
    return mean.item(), gradient.tolist()


# KL


def test_values_by_hand() -> None:
    # log p - log q = -.1, -1.1, 3; k3 = e^-d - 1 + d
    policy, reference = vector(-0.2, -1.5, -0.05), vector(-0.1, -0.4, -3.05)
    assert kl_penalty(policy, reference, kind="k1").tolist() == pytest.approx([-0.1, -1.1, 3.0])
    assert kl_penalty(policy, reference, kind="k2").tolist() == pytest.approx([0.005, 0.605, 4.5])
    assert kl_penalty(policy, reference, kind="k3").tolist() == pytest.approx([0.005171, 0.904166, 2.049787], abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_values_against_a_plain_loop(kind: KlKind) -> None:
    terms = kl_penalty(vector(*POLICY).log(), vector(*REFERENCE).log(), kind=kind).tolist()
    for p, q, term in zip(POLICY, REFERENCE, terms, strict=True):
        d = math.log(p / q)
        assert term == pytest.approx({"k1": d, "k2": d * d / 2, "k3": q / p - 1 + d}[kind])


def test_k1_and_k2_pull_by_the_gradient_of_the_reverse_kl() -> None:
    value, gradient = expectation(lambda p, q: kl_penalty(p, q, kind="k1"))
    assert value == pytest.approx(REVERSE, abs=1e-6) and gradient == pytest.approx(REVERSE_GRADIENT, abs=1e-6)
    value, gradient = expectation(lambda p, q: kl_penalty(p, q, kind="k2"))
    squares = sum(p * math.log(p / q) ** 2 / 2 for p, q in zip(POLICY, REFERENCE, strict=True))
    assert value == pytest.approx(squares) and value > REVERSE + 0.2  # 0.876388: biased
    assert gradient == pytest.approx(REVERSE_GRADIENT, abs=1e-6)


def test_k3_has_the_value_of_one_divergence_and_the_gradient_of_the_other() -> None:
    value, gradient = expectation(lambda p, q: kl_penalty(p, q, kind="k3"))
    assert value == pytest.approx(REVERSE, abs=1e-6)
    assert gradient == pytest.approx(FORWARD_GRADIENT, abs=1e-6)


def test_differentiating_the_plain_log_ratio_pulls_nowhere() -> None:
    value, gradient = expectation(lambda p, q: p - q)
    assert value == pytest.approx(REVERSE, abs=1e-6)
    assert gradient == pytest.approx([0.0] * 5, abs=1e-12)


def test_in_expectation_it_is_the_divergence_over_the_whole_vocabulary() -> None:
    z = vector(*POLICY).log().requires_grad_()
    whole = topk_tail_divergence(
        z.log_softmax(-1).unsqueeze(0), vector(*REFERENCE).log().unsqueeze(0), kind="reverse", whole_vocabulary=True
    )
    (gradient,) = torch.autograd.grad(whole.sum(), z)
    sampled = expectation(lambda p, q: kl_penalty(p, q, kind="k1"))
    assert sampled[0] == pytest.approx(whole.item()) and sampled[1] == pytest.approx(gradient.tolist())


@pytest.mark.parametrize("kind", ["k2", "k3"])
def test_gradients_against_finite_differences(kind: KlKind) -> None:
    policy, reference = vector(-0.2, -1.5, -0.05).requires_grad_(), vector(-0.1, -0.4, -3.05)
    assert torch.autograd.gradcheck(lambda p: kl_penalty(p, reference, kind=kind), (policy,))


def test_gradient_of_k1_is_that_of_k2_token_by_token() -> None:
    # its value is not what is differentiated, so finite differences would see another gradient: 1
    policy, reference = vector(-0.2, -1.5, -0.05).requires_grad_(), vector(-0.1, -0.4, -3.05)
    first, second = (torch.autograd.grad(kl_penalty(policy, reference, kind=k).sum(), policy)[0] for k in ("k1", "k2"))
    assert torch.equal(first, second) and first.tolist() == pytest.approx([-0.1, -1.1, 3.0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("p", "q"), [(0.5, 0.1), (0.1, 0.5)])
def test_a_step_down_the_penalty_nears_the_reference(kind: KlKind, p: float, q: float) -> None:
    policy = vector(p).log().requires_grad_()
    (gradient,) = torch.autograd.grad(kl_penalty(policy, vector(q).log(), kind=kind).sum(), policy)
    moved = (policy - 0.01 * gradient).item()
    assert abs(moved - math.log(q)) < abs(math.log(p / q))


@pytest.mark.parametrize("kind", KINDS)
def test_at_the_reference_there_is_no_pull(kind: KlKind) -> None:
    policy = vector(*POLICY).log().requires_grad_()
    terms = kl_penalty(policy, policy.detach(), kind=kind)
    (gradient,) = torch.autograd.grad(terms.sum(), policy)
    assert terms.tolist() == [0.0] * 5 and gradient.tolist() == [0.0] * 5


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("missing", [math.nan, -math.inf, math.inf])
def test_a_missing_reference_is_loud_and_poisons_no_gradient(kind: KlKind, missing: float) -> None:
    policy = vector(-1.0, -2.0).requires_grad_()
    terms = kl_penalty(policy, vector(missing, -1.0), kind=kind)
    assert torch.isnan(terms).tolist() == [True, False]
    (gradient,) = torch.autograd.grad(terms.nansum(), policy)
    assert gradient[0] == 0 and bool(torch.isfinite(gradient).all()) and gradient[1] != 0


@pytest.mark.parametrize("kind", KINDS)
def test_extreme_ratios_stay_finite(kind: KlKind) -> None:
    policy = vector(-900.0, 0.0).requires_grad_()
    terms = kl_penalty(policy, vector(0.0, -900.0), kind=kind)
    (gradient,) = torch.autograd.grad(terms.sum(), policy)
    assert bool(torch.isfinite(terms).all()) and bool(torch.isfinite(gradient).all())


def test_no_gradient_to_the_reference_narrow_input_nothing_at_all() -> None:
    policy, reference = (torch.tensor([-1.0], dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    for kind in KINDS:
        terms = kl_penalty(policy, reference, kind=kind)
        assert terms.dtype == torch.float32
        terms.sum().backward()
        assert kl_penalty(vector(), vector(), kind=kind).shape == (0,)
    assert policy.grad is not None and reference.grad is None


def test_errors_of_the_penalty() -> None:
    with pytest.raises(ValueError, match="reference_logprobs_N"):
        kl_penalty(vector(-1.0), vector(-1.0, -2.0))
    with pytest.raises(ValueError, match="kind is 'k4'; wanted 'k1', 'k2' or 'k3'"):
        kl_penalty(vector(-1.0), vector(-1.0), kind="k4")  # type: ignore[arg-type]


# Entropy


def test_the_bonus_raises_the_entropy() -> None:
    z = vector(*POLICY).log().unsqueeze(0).requires_grad_()
    before = entropy(z)
    assert before.item() == pytest.approx(1.269060, abs=1e-6)
    (gradient,) = torch.autograd.grad(-before.sum(), z)  # what is minimised is minus the entropy
    assert entropy(z - 0.1 * gradient).item() > before.item()


def test_minus_the_mean_sampled_logprob_is_the_entropy_in_expectation() -> None:
    sampled = -(vector(*POLICY) * vector(*POLICY).log()).sum()
    assert sampled.item() == pytest.approx(entropy(vector(*POLICY).log().unsqueeze(0)).item())


def test_adaptive_weight_by_hand() -> None:
    # below the target: raised, and the bonus is on; above: lowered, and it is off; at it: kept, and it is on
    assert adapt_entropy_weight(0.01, 0.15, 0.2) == pytest.approx((0.015, 0.015))
    assert adapt_entropy_weight(0.01, 0.25, 0.2) == pytest.approx((0.0, 0.005))
    assert adapt_entropy_weight(0.01, 0.2, 0.2) == pytest.approx((0.01, 0.01))
    assert adapt_entropy_weight(0.01, 0.15, 0.2, delta=0.1) == pytest.approx((0.11, 0.11))


def test_adaptive_weight_against_a_plain_loop_over_a_run() -> None:
    entropies = [0.5, 0.3, 0.19, 0.18, 0.21, 0.1, 0.2, 0.15, 0.4]
    weight, applied = 0.0, list[float]()
    for seen in entropies:
        now = adapt_entropy_weight(weight, seen, 0.2)
        applied.append(now.applied)
        weight = json.loads(json.dumps(now.carried))  # all its state
    # 0, 0 (floor), .005, .010, .005 (above: not applied), .010, .010 (at it), .015, .010 (above)
    assert applied == pytest.approx([0, 0, 0.005, 0.010, 0, 0.010, 0.010, 0.015, 0])
    assert weight == pytest.approx(0.010)


def test_a_long_time_on_one_side_does_not_wind_it_up() -> None:
    weight = 0.0
    for _ in range(100):
        weight = adapt_entropy_weight(weight, 0.9, 0.2).carried
    assert weight == 0.0 and adapt_entropy_weight(weight, 0.1, 0.2).carried == pytest.approx(0.005)
    for _ in range(1000):
        weight = adapt_entropy_weight(weight, 0.1, 0.2).carried
    assert weight == 1.0 and adapt_entropy_weight(weight, 0.9, 0.2).carried == pytest.approx(0.995)


@pytest.mark.parametrize("unmeasured", [math.nan, math.inf, -math.inf])
def test_a_step_without_tokens_changes_nothing(unmeasured: float) -> None:
    assert adapt_entropy_weight(0.03, unmeasured, 0.2) == (0.0, 0.03)


@pytest.mark.parametrize(
    "options", [{"coefficient": -0.1}, {"target": -0.1}, {"delta": 0.0}, {"highest": 0.0}, {"coefficient": math.nan}]
)
def test_errors_of_the_adaptive_weight(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="wanted 0 or more for the first two, above 0 for the others"):
        adapt_entropy_weight(**{"coefficient": 0.1, "entropy": 0.1, "target": 0.2} | options)

"""Ratio objectives: clipped surrogate, shaping, refinement modes. All values are to be maximised."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from critique_rl.ops.logprobs import gather_logprobs, token_logprobs
from critique_rl.ops.ratios import (
    RatioMode,
    clipped_surrogate,
    refinement_objective,
    shaping_gradient_weight,
    shaping_weight,
)

BARE = (0.9, 0.1, 0.01)
GUIDED = (0.95, 0.6, 0.8)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def surrogate(advantage: float, ratio: float, **options: Any) -> float:
    return clipped_surrogate(vector(ratio).log(), vector(1.0).log(), vector(advantage), **options).item()


def gradient_weights(
    advantages: Tensor, mode: RatioMode, probs: tuple[float, ...] = BARE, **options: Any
) -> list[float]:
    policy = vector(*probs).log().requires_grad_()
    objective = refinement_objective(policy, advantages, mode=mode, **options)
    (gradient,) = torch.autograd.grad(objective.sum(), policy)
    return gradient.tolist()


# The clipped surrogate


@pytest.mark.parametrize(
    ("advantage", "ratio", "expected"),
    [(1, 1.5, 1.28), (1, 0.5, 0.5), (-1, 1.5, -1.5), (-1, 0.5, -0.8), (-2, 0.8, -1.6)],
)
def test_clipped_surrogate_by_hand(advantage: float, ratio: float, expected: float) -> None:
    assert surrogate(advantage, ratio, clip_low=0.2, clip_high=0.28) == pytest.approx(expected, abs=1e-12)


def test_engine_drift_kills_exactly_the_gradients_that_agree_with_it() -> None:
    behaviour = vector(1.0, 1.0, 1.0, 1.0).log()
    policy = vector(0.3, 0.3, -0.3, -0.3).requires_grad_()
    objective = clipped_surrogate(policy, behaviour, vector(0.5, -0.5, 0.5, -0.5), clip_low=0.2, clip_high=0.28)
    assert objective.tolist() == pytest.approx([0.64, -0.674929, 0.370409, -0.4], abs=1e-6)
    (gradient,) = torch.autograd.grad(objective.sum(), policy)
    assert [value != 0 for value in gradient.tolist()] == [False, True, True, False]


def test_dual_clip_bounds_only_negative_advantages() -> None:
    assert surrogate(-1, 9.0, dual_clip=3.0) == pytest.approx(-3.0)
    assert surrogate(-1, 1.5, dual_clip=3.0) == pytest.approx(-1.5)
    assert surrogate(1, 0.1, dual_clip=3.0) == pytest.approx(0.1)


def test_log_ratio_is_clamped_so_that_nothing_overflows() -> None:
    policy = vector(0.0).requires_grad_()
    objective = clipped_surrogate(policy, vector(-5000.0), vector(-1.0))
    assert objective.item() == pytest.approx(-math.exp(20))
    (gradient,) = torch.autograd.grad(objective.sum(), policy)
    assert gradient.item() == 0.0


def test_support_surrogate_of_two_ids_by_hand() -> None:
    # per-id advantages over a two-id support: w = (2/3, 1/3), gap clipped to (-1, .875469), A = w * gap
    at, advantages = torch.tensor([[0, 1]]), vector(-0.666667, 0.291823).unsqueeze(0)
    behaviour_logits = vector(0.50, 0.25, 0.15, 0.07, 0.03).log().unsqueeze(0)
    behaviour = gather_logprobs(behaviour_logits, at)

    def loss(probs: tuple[float, ...]) -> tuple[float, list[float]]:
        z = vector(*probs).log().unsqueeze(0).requires_grad_()
        value = -clipped_surrogate(gather_logprobs(z, at), behaviour, advantages, clip_high=0.28).sum()
        (gradient,) = torch.autograd.grad(value, z)
        return value.item(), gradient[0].tolist()

    value, gradient = loss((0.50, 0.25, 0.15, 0.07, 0.03))
    assert value == pytest.approx(0.374844, abs=1e-6)
    assert gradient == pytest.approx([0.479245, -0.385534, -0.056227, -0.026239, -0.011245], abs=1e-6)
    assert loss((0.45, 0.27, 0.17, 0.08, 0.03))[0] == pytest.approx(0.284831, abs=1e-6)
    value, gradient = loss((0.35, 0.40, 0.15, 0.07, 0.03))
    assert value == pytest.approx(0.159800, abs=1e-6)
    assert gradient == [0.0] * 5


def test_surrogate_gradient_against_finite_differences() -> None:
    policy = vector(-0.3, -1.2, -2.0, -0.7).requires_grad_()
    behaviour, advantages = vector(-0.35, -1.0, -3.0, -0.1), vector(1.0, -0.5, 2.0, -1.5)
    assert torch.autograd.gradcheck(lambda p: clipped_surrogate(p, behaviour, advantages, dual_clip=2.0), (policy,))


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_surrogate_moves_the_token_the_way_of_its_advantage(advantage: float) -> None:
    z = vector(0.3, -1.2, 0.8).unsqueeze(0).requires_grad_()
    before = token_logprobs(z, torch.tensor([1]))
    (gradient,) = torch.autograd.grad(clipped_surrogate(before, before.detach(), vector(advantage)).sum(), z)
    after = token_logprobs(z + 0.1 * gradient, torch.tensor([1]))
    assert (after - before).item() * advantage > 0


# Shaping

SHAPING = [
    (1e-4, 0.000999, 9.980030, 0.000998),
    (0.001, 0.009901, 9.802960, 0.009803),
    (0.01, 0.090909, 8.264463, 0.082645),
    (0.05, 0.333333, 4.444444, 0.222222),
    (0.1, 0.5, 2.5, 0.25),
    (0.2, 0.666667, 1.111111, 0.222222),
    (0.5, 0.833333, 0.277778, 0.138889),
    (0.9, 0.9, 0.1, 0.09),
    (0.99, 0.908257, 0.084168, 0.083326),
    (1.0, 0.909091, 0.082645, 0.082645),
]


@pytest.mark.parametrize(("prob", "value", "slope", "psi"), SHAPING)
def test_shaping_table(prob: float, value: float, slope: float, psi: float) -> None:
    p = vector(prob).requires_grad_()
    shaped = shaping_weight(p.log(), 0.1)
    assert shaped.item() == pytest.approx(value, abs=1e-6)
    (gradient,) = torch.autograd.grad(shaped.sum(), p)
    assert gradient.item() == pytest.approx(slope, abs=1e-6)
    assert shaping_gradient_weight(vector(prob).log(), 0.1).item() == pytest.approx(psi, abs=1e-6)


def test_shaping_gradient_is_symmetric_about_gamma_and_at_most_a_quarter() -> None:
    probs = vector(0.01, 0.05, 0.03, 0.1)
    mirrored = 0.01 / probs
    assert torch.allclose(shaping_gradient_weight(probs.log(), 0.1), shaping_gradient_weight(mirrored.log(), 0.1))
    for gamma in (0.01, 0.1, 0.5):
        grid = shaping_gradient_weight(torch.linspace(-12, 0, 500, dtype=torch.float64), gamma)
        assert grid.max().item() <= 0.25
        assert shaping_gradient_weight(vector(gamma).log(), gamma).item() == pytest.approx(0.25)


def test_shaping_weight_gradient_is_psi_even_for_an_impossible_token() -> None:
    logprobs = vector(-math.inf, -90.0, -3.0, 0.0).requires_grad_()
    (gradient,) = torch.autograd.grad(shaping_weight(logprobs, 0.1).sum(), logprobs)
    assert torch.allclose(gradient, shaping_gradient_weight(logprobs.detach(), 0.1), atol=1e-15)
    assert gradient[0].item() == 0.0


def test_shaped_logit_gradient_by_hand() -> None:
    z = vector(0.3, -1.2, 0.8, -0.5).unsqueeze(0).requires_grad_()
    logprob = token_logprobs(z, torch.tensor([1]))
    assert logprob.exp().item() == pytest.approx(0.067184, abs=1e-6)
    value = refinement_objective(logprob, vector(1.0), mode="shaped")
    assert value.item() == pytest.approx(0.401857, abs=1e-6)
    (gradient,) = torch.autograd.grad(value.sum(), z)
    assert gradient[0].tolist() == pytest.approx([-0.072374, 0.224219, -0.119325, -0.032520], abs=1e-6)


# Refinement modes


def test_gradient_weights_of_the_three_modes() -> None:
    ones = vector(1.0, 1.0, 1.0)
    assert gradient_weights(ones, "shaped") == pytest.approx([0.09, 0.25, 0.082645], abs=1e-6)
    guided = vector(*GUIDED).log()
    correction = gradient_weights(ones, "oc_is", guided_logprobs_N=guided)
    assert correction == pytest.approx([0.947368, 0.166667, 0.0125], abs=1e-6)
    assert math.prod(correction) == pytest.approx(0.00197368, abs=1e-8)
    start = vector(*BARE).log()
    weighted = gradient_weights(ones, "awr", start_logprobs_N=start, awr_coefficient=1.0)
    assert weighted == pytest.approx([1.0, 1.0, 1.0], abs=1e-12)  # log .01 = -4.6 is above the floor of -5
    assert gradient_weights(ones, "awr", start_logprobs_N=start) == pytest.approx([0.1] * 3)


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("shaped", [0.09, 0.25, 0.082645]),  # gamma p / (p + gamma)^2
        ("awr", [0.1, 0.1, 0.1]),
        ("oc_is", [0.947368, 0.166667, 0.0125]),  # p / b
        ("in_context", [1.0, 1.0, 1.0]),
    ],
)
def test_the_table_of_gradient_weights_on_real_logits(mode: RatioMode, expected: list[float]) -> None:
    # three rows of four logits, of which id 2 has the bare probability .9, .1, .01; the rest is shared unevenly
    rows = [[(1 - p) * share for share in (0.5, 0.3)] + [p, (1 - p) * 0.2] for p in BARE]
    guided = vector(*GUIDED).log()
    if mode == "in_context":  # there the policy stands in the refine context, and has just sampled from it
        rows = [[(1 - b) * share for share in (0.5, 0.3)] + [b, (1 - b) * 0.2] for b in GUIDED]
    logits = (torch.tensor(rows, dtype=torch.float64).log() + vector(0.7)).requires_grad_()
    logprobs = token_logprobs(logits, torch.tensor([2, 2, 2]))
    objective = refinement_objective(
        logprobs, vector(1.0, 1.0, 1.0), mode=mode, start_logprobs_N=vector(*BARE).log(), guided_logprobs_N=guided
    )
    (gradient,) = torch.autograd.grad(objective.sum(), logits)
    score = torch.eye(4, dtype=torch.float64)[2] - logits.detach().softmax(-1)  # d log p / d logits
    assert torch.allclose(gradient, vector(*expected).unsqueeze(1) * score, atol=1e-6)


def test_in_context_is_ppo_under_the_refine_context() -> None:
    guided, advantages = vector(0.5, 0.5, 0.5).log(), vector(1.0, -1.0, 1.0)
    policy = vector(0.7, 0.7, 0.3).log()  # ratios 1.4, 1.4, .6
    value = refinement_objective(policy, advantages, mode="in_context", guided_logprobs_N=guided)
    assert value.tolist() == pytest.approx([1.2, -1.4, 0.6])
    wide = refinement_objective(policy, advantages, mode="in_context", guided_logprobs_N=guided, clip=0.5)
    assert wide.tolist() == pytest.approx([1.4, -1.4, 0.6])
    assert torch.equal(value, clipped_surrogate(policy, guided, advantages))


def test_values_equal_the_documented_objectives() -> None:
    policy, advantages = vector(*BARE).log(), vector(0.5, -1.0, 2.0)
    start, guided = vector(0.8, 0.2, 0.02).log(), vector(0.3, 0.6, 0.8).log()
    shaped = refinement_objective(policy, advantages, mode="shaped")
    assert shaped.tolist() == pytest.approx([a * p / (p + 0.1) for a, p in zip((0.5, -1, 2), BARE, strict=True)])
    awr = refinement_objective(policy, advantages, mode="awr", start_logprobs_N=start)
    assert awr.tolist() == pytest.approx([0.1 * 0.5 * 0.9 / 0.8, -0.1 * 0.1 / 0.2, 0.1 * 2 * 0.01 / 0.02])
    oc_is = refinement_objective(policy, advantages, mode="oc_is", guided_logprobs_N=guided)
    assert oc_is.tolist() == pytest.approx([0.5 * 2.0, -0.1 / 0.6, 2 * 0.01 / 0.8])  # .9 / .3 = 3, capped at 2


def test_a_capped_token_keeps_the_cap_as_its_weight() -> None:
    weights = gradient_weights(vector(1.0), "oc_is", (0.9,), guided_logprobs_N=vector(0.1).log(), cap=2.0)
    assert weights == pytest.approx([2.0])


def test_identical_contexts_give_a_ratio_of_exactly_one() -> None:
    policy = vector(*BARE).log()
    objective = refinement_objective(policy, vector(1.0, 1.0, 1.0), mode="oc_is", guided_logprobs_N=policy)
    assert objective.tolist() == [1.0, 1.0, 1.0]


def test_awr_floor_drops_hopeless_tokens() -> None:
    probs = (0.0068, 0.0067)  # exp(-5) = .0067379
    weights = gradient_weights(
        vector(1.0, 1.0), "awr", probs, start_logprobs_N=vector(*probs).log(), awr_coefficient=1.0
    )
    assert weights == pytest.approx([1.0, 0.0])


def test_no_clip_on_the_shaped_weight() -> None:
    # the printed clip would leave A = -.125 without gradient wherever p / (p + .1) < .8, that is p < .4
    probs = tuple(0.1 * rho / (1 - rho) for rho in (0.2, 0.5, 0.79, 0.8))
    policy = vector(*probs).log()
    objective = refinement_objective(policy, torch.full((4,), -0.125, dtype=torch.float64), mode="shaped")
    assert objective.tolist() == pytest.approx([-0.125 * rho for rho in (0.2, 0.5, 0.79, 0.8)])
    assert all(weight < 0 for weight in gradient_weights(torch.full((4,), -0.125), "shaped", probs))
    positive = refinement_objective(vector(*BARE).log(), torch.full((3,), 0.875), mode="shaped")
    assert positive.tolist() == pytest.approx([0.7875, 0.4375, 0.079545], abs=1e-6)


@pytest.mark.parametrize("mode", ["shaped", "awr", "oc_is", "in_context"])
def test_refinement_gradients_against_finite_differences(mode: RatioMode) -> None:
    policy = vector(-0.3, -1.2, -2.0).requires_grad_()
    start, guided = vector(-0.35, -1.0, -3.0), vector(-0.2, -1.5, -2.5)  # no ratio reaches the cap
    advantages = vector(1.0, -0.5, 2.0)
    options: dict[str, Any] = {"start_logprobs_N": start, "guided_logprobs_N": guided}
    (gradient,) = torch.autograd.grad(refinement_objective(policy, advantages, mode=mode, **options).sum(), policy)
    for token in range(3):
        h = torch.zeros(3, dtype=torch.float64)
        h[token] = 1e-6
        up, down = (
            refinement_objective((policy + sign * h).detach(), advantages, mode=mode, **options).sum().item()
            for sign in (1, -1)
        )
        assert gradient[token].item() == pytest.approx((up - down) / 2e-6, abs=1e-7)


@pytest.mark.parametrize("mode", ["shaped", "awr", "oc_is", "in_context"])
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_refinements_move_the_token_the_way_of_their_advantage(mode: RatioMode, advantage: float) -> None:
    (weight,) = gradient_weights(
        vector(advantage), mode, (0.3,), start_logprobs_N=vector(0.3).log(), guided_logprobs_N=vector(0.28).log()
    )
    assert weight * advantage > 0


# Missing and unusable input


@pytest.mark.parametrize("missing", [math.nan, -math.inf, math.inf])
def test_missing_logprobs_and_advantages_are_loud_but_poison_no_gradient(missing: float) -> None:
    policy = vector(-1.0, -1.0, -1.0).requires_grad_()
    holed, ones = vector(-1.0, missing, -1.0), vector(1.0, 1.0, 1.0)
    cases = [
        clipped_surrogate(policy, holed, ones),
        clipped_surrogate(policy, ones, holed),
        refinement_objective(policy, holed, mode="shaped"),
        refinement_objective(policy, ones, mode="awr", start_logprobs_N=holed),
        refinement_objective(policy, ones, mode="oc_is", guided_logprobs_N=holed),
        refinement_objective(policy, ones, mode="in_context", guided_logprobs_N=holed),
    ]
    for objective in cases:
        assert torch.isnan(objective).tolist() == [False, True, False]
        kept = torch.where(torch.tensor([True, False, True]), objective, 0.0).sum()
        (gradient,) = torch.autograd.grad(kept, policy)
        assert gradient[1].item() == 0.0 and bool(torch.isfinite(gradient).all())


def test_only_the_policy_gets_a_gradient_and_narrow_input_is_widened() -> None:
    sides = [torch.tensor([-1.0], dtype=torch.bfloat16, requires_grad=True) for _ in range(4)]
    policy, behaviour, advantages, guided = sides
    total = clipped_surrogate(policy, behaviour, advantages)
    total = total + refinement_objective(policy, advantages, mode="oc_is", guided_logprobs_N=guided)
    total = total + refinement_objective(policy, advantages, mode="awr", start_logprobs_N=guided)
    assert total.dtype == torch.float32
    total.sum().backward()
    assert policy.grad is not None
    assert behaviour.grad is None and advantages.grad is None and guided.grad is None


def test_errors_name_what_came_and_the_way_out() -> None:
    x = vector(-1.0)
    with pytest.raises(
        ValueError, match=r"mode 'awr' needs start_logprobs_N .* got None; pass it, or use mode 'shaped'"
    ):
        refinement_objective(x, x, mode="awr", guided_logprobs_N=x)
    with pytest.raises(ValueError, match=r"mode 'oc_is' needs guided_logprobs_N"):
        refinement_objective(x, x, mode="oc_is", start_logprobs_N=x)
    with pytest.raises(ValueError, match=r"mode 'in_context' needs guided_logprobs_N"):
        refinement_objective(x, x, mode="in_context", start_logprobs_N=x)
    with pytest.raises(ValueError, match="mode is 'none'"):
        refinement_objective(x, x, mode="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cap is 0"):
        refinement_objective(x, x, mode="oc_is", guided_logprobs_N=x, cap=0.0)
    for gamma in (0.0, 1.0):
        with pytest.raises(ValueError, match="gamma is"):
            refinement_objective(x, x, mode="shaped", gamma=gamma)
    with pytest.raises(ValueError, match="clip_low is 1"):
        clipped_surrogate(x, x, x, clip_low=1.0)
    with pytest.raises(ValueError, match="dual_clip is 1"):
        clipped_surrogate(x, x, x, dual_clip=1.0)
    with pytest.raises(ValueError, match="shapes differ"):
        clipped_surrogate(x, x, torch.zeros(2))
    with pytest.raises(ValueError, match="guided_logprobs_N"):
        refinement_objective(x, x, mode="oc_is", guided_logprobs_N=torch.zeros(2))

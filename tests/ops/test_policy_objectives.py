"""The policy-gradient objectives by name: hand numbers, plain references, what their gradients are and must not be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from critique_rl.ops.losses import channel_sum
from critique_rl.ops.ratios import (
    Objective,
    clipped_surrogate,
    importance_ratios,
    policy_objective,
    score_objective,
    sequence_clipped_surrogate,
    sequence_mean_weights,
)

OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
CLIPS: dict[Objective, dict[str, Any]] = {
    "clip": {"clip_low": 0.2, "clip_high": 0.28},
    "cispo": {"clip_high": 0.5},
    "gspo": {"clip_low": 0.04, "clip_high": 0.04},
    "reinforce": {"tis_cap": 1.5},
}
# two sequences, of two and three tokens; the last token does not count
BEHAVIOUR = (-1.0, -2.0, -0.5, -3.0, -1.0)
LOG_RATIO = (0.2, -0.1, -0.3, 0.0, 9.0)
WEIGHTS = (1.0, 1.0, 1.0, 1.0, 0.0)
LENGTHS = (2, 3)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def policy_of(log_ratio: Sequence[float] = LOG_RATIO) -> Tensor:
    return (vector(*BEHAVIOUR) + vector(*log_ratio)).requires_grad_()


def terms_and_gradient(
    objective: Objective, advantages: Sequence[float], policy: Tensor | None = None, **options: Any
) -> tuple[list[float], list[float]]:
    policy = policy_of() if policy is None else policy
    terms = policy_objective(
        policy, vector(*BEHAVIOUR), vector(*advantages), vector(*WEIGHTS), LENGTHS, objective=objective, **options
    )
    (gradient,) = torch.autograd.grad((terms * vector(*WEIGHTS)).sum(), policy)
    return terms.tolist(), gradient.tolist()


# One ratio per sequence


def test_sequence_ratio_by_hand() -> None:
    # exp((.2 - .1) / 2) = 1.051271, exp((-.3 + 0) / 2) = .860708
    ratios = importance_ratios(policy_of(), vector(*BEHAVIOUR), vector(*WEIGHTS), LENGTHS, objective="gspo")
    assert ratios.tolist() == pytest.approx([1.051271] * 2 + [0.860708] * 3, abs=1e-6)
    per_token = importance_ratios(policy_of(), vector(*BEHAVIOUR), vector(*WEIGHTS), LENGTHS, objective="clip")
    assert per_token.tolist() == pytest.approx([math.exp(x) for x in LOG_RATIO])
    assert not ratios.requires_grad and not per_token.requires_grad


def test_a_sequence_is_clipped_as_a_whole() -> None:
    terms, gradient = terms_and_gradient("gspo", [1.0] * 5, **CLIPS["gspo"])
    assert terms[:4] == pytest.approx([1.04, 1.04, 0.860708, 0.860708], abs=1e-6)
    assert gradient == pytest.approx([0.0, 0.0, 0.860708, 0.860708, 0.0], abs=1e-6)
    terms, gradient = terms_and_gradient("gspo", [-1.0] * 5, **CLIPS["gspo"])
    assert terms[:4] == pytest.approx([-1.051271, -1.051271, -0.96, -0.96], abs=1e-6)
    assert gradient == pytest.approx([-1.051271, -1.051271, 0.0, 0.0, 0.0], abs=1e-6)


@pytest.mark.parametrize("advantages", [(1.0, -1.0), (-0.5, 2.0), (0.7, 0.2), (0.0, 0.0)])
@pytest.mark.parametrize("clip", [0.04, 0.3])
def test_its_token_form_is_the_sequence_objective_under_equal_advantages(
    advantages: tuple[float, float], clip: float
) -> None:
    policy = policy_of()
    kept = vector(*WEIGHTS)
    direct = torch.zeros((), dtype=torch.float64)
    for i, (start, length) in enumerate(((0, 2), (2, 3))):
        log_ratio = [policy[t] - BEHAVIOUR[t] for t in range(start, start + length) if kept[t] > 0]
        s = torch.exp(torch.stack(log_ratio).mean())  # differentiable, unlike the one in the token form
        bounded = s.clamp(1 - clip, 1 + clip)
        direct = direct + torch.minimum(s * advantages[i], bounded * advantages[i]) / 2
    (wanted,) = torch.autograd.grad(direct, policy)
    spread = vector(*[advantages[0]] * 2, *[advantages[1]] * 3)
    terms = sequence_clipped_surrogate(policy, vector(*BEHAVIOUR), spread, kept, LENGTHS, clip_low=clip, clip_high=clip)
    total = channel_sum(terms, sequence_mean_weights(kept, LENGTHS), 2)
    (gradient,) = torch.autograd.grad(total, policy)
    assert total.item() == pytest.approx(direct.item(), abs=1e-12)
    assert torch.allclose(gradient, wanted, atol=1e-12)


def test_sequence_gradient_against_finite_differences() -> None:
    kept, behaviour = vector(*WEIGHTS), vector(*BEHAVIOUR)
    weights = sequence_mean_weights(kept, LENGTHS)

    def total(policy: Tensor) -> Tensor:
        terms = sequence_clipped_surrogate(
            policy, behaviour, vector(1.0, 1.0, -2.0, -2.0, -2.0), kept, LENGTHS, clip_low=0.3, clip_high=0.3
        )
        return channel_sum(terms, weights, 2)

    assert torch.autograd.gradcheck(total, (policy_of(),))


def test_one_missing_logprob_makes_its_sequence_unknown_but_not_if_it_does_not_count() -> None:
    for missing in (math.nan, math.inf, -math.inf):
        policy = policy_of()
        holed = vector(missing, *BEHAVIOUR[1:4], missing)
        terms = sequence_clipped_surrogate(
            policy, holed, vector(*[1.0] * 5), vector(*WEIGHTS), LENGTHS, clip_low=0.3, clip_high=0.3
        )
        assert torch.isnan(terms).tolist() == [True, True, False, False, False]
        (gradient,) = torch.autograd.grad(terms.nansum(), policy)
        assert bool(torch.isfinite(gradient).all()) and gradient[:2].tolist() == [0.0, 0.0] and gradient[2] > 0


def test_sequence_ratio_is_clamped_so_that_nothing_overflows() -> None:
    policy = vector(0.0, 0.0).requires_grad_()
    terms = sequence_clipped_surrogate(
        policy, vector(-5000.0, -4000.0), vector(-1.0, -1.0), vector(1.0, 1.0), [2], clip_high=0.2
    )
    assert terms.tolist() == pytest.approx([-math.exp(20)] * 2)


# A constant weight on the score


def test_capped_scores_by_hand() -> None:
    # r = 1.221403, .904837, .740818, 1, e^9; log p = -.8, -2.1, -.8, -3, 8
    terms, gradient = terms_and_gradient("cispo", [1.0, -1.0, 2.0, 1.0, 1.0], clip_high=0.1)
    assert gradient == pytest.approx([1.1, -0.904837, 1.481636, 1.0, 0.0], abs=1e-6)
    assert terms[:4] == pytest.approx([-0.88, 1.900158, -1.185309, -3.0], abs=1e-6)
    # a clipped token would have lost its gradient
    _, clipped = terms_and_gradient("clip", [1.0, -1.0, 2.0, 1.0, 1.0], clip_low=0.2, clip_high=0.1)
    assert clipped[0] == 0.0 and clipped[1:4] == pytest.approx(gradient[1:4])


def test_truncated_weights_by_hand() -> None:
    policy = vector(-0.5, 0.0, 0.3, 1.2).requires_grad_()
    (weights,) = torch.autograd.grad(
        score_objective(policy, vector(0.0, 0.0, 0.0, 0.0), vector(1.0, 1.0, 1.0, 1.0), cap=2.0).sum(), policy
    )
    assert weights.tolist() == pytest.approx([0.606531, 1.0, 1.349859, 2.0], abs=1e-6)


def test_without_a_cap_the_behaviour_policy_is_not_read() -> None:
    unknown = vector(*[math.nan] * 5)
    policy = policy_of()
    terms = score_objective(policy, unknown, vector(1.0, -1.0, 2.0, 0.5, 0.0))
    assert terms.tolist() == pytest.approx([-0.8, 2.1, -1.6, -1.5, 0.0])
    (gradient,) = torch.autograd.grad(terms.sum(), policy)
    assert gradient.tolist() == [1.0, -1.0, 2.0, 0.5, 0.0]
    assert torch.autograd.gradcheck(lambda p: score_objective(p, unknown, vector(1.0, -1.0, 2.0, 0.5, 0.0)), (policy,))


@pytest.mark.parametrize("advantages", [(1.0, -2.0, 0.5, 0.0, 3.0)])
def test_uncapped_weights_correct_for_the_sampler_in_expectation(advantages: tuple[float, ...]) -> None:
    z = vector(0.3, -1.2, 0.8, -0.5, 0.1).requires_grad_()
    sampler = vector(0.50, 0.25, 0.15, 0.07, 0.03)
    logprobs = z.log_softmax(-1)
    (wanted,) = torch.autograd.grad((logprobs.exp() * vector(*advantages)).sum(), z, retain_graph=True)
    terms = score_objective(logprobs, sampler.log(), vector(*advantages), cap=1e6)
    (gradient,) = torch.autograd.grad((sampler * terms).sum(), z, retain_graph=True)
    assert torch.allclose(gradient, wanted, atol=1e-12)
    (plain,) = torch.autograd.grad((sampler * score_objective(logprobs, sampler.log(), vector(*advantages))).sum(), z)
    assert not torch.allclose(plain, wanted, atol=1e-2)


def test_cispo_is_reinforce_under_a_truncated_weight() -> None:
    assert terms_and_gradient("cispo", [1.0, -1.0, 2.0, 1.0, 1.0], clip_high=0.1) == terms_and_gradient(
        "reinforce", [1.0, -1.0, 2.0, 1.0, 1.0], tis_cap=1.1
    )


# All of them


def test_clip_is_the_clipped_surrogate_bit_for_bit() -> None:
    advantages = vector(1.0, -1.0, 2.0, -1.0, 0.5)
    options: dict[str, Any] = {"clip_low": 0.1, "clip_high": 0.15, "dual_clip": 1.5}
    by_name = policy_objective(policy_of(), vector(*BEHAVIOUR), advantages, vector(*WEIGHTS), LENGTHS, **options)
    assert torch.equal(by_name, clipped_surrogate(policy_of(), vector(*BEHAVIOUR), advantages, **options))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_on_the_policy_that_sampled_all_are_the_plain_policy_gradient(objective: Objective) -> None:
    advantages = [1.0, -1.0, 2.0, 0.5, 0.0]
    _, gradient = terms_and_gradient(objective, advantages, policy_of([0.0] * 5), **CLIPS[objective])
    assert gradient == pytest.approx([a * w for a, w in zip(advantages, WEIGHTS, strict=True)], abs=1e-12)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_a_token_moves_the_way_of_its_advantage(objective: Objective, advantage: float) -> None:
    z = vector(0.3, -1.2, 0.8).requires_grad_()
    before = z.log_softmax(-1)[1:2]
    terms = policy_objective(
        before, before.detach(), vector(advantage), vector(1.0), [1], objective=objective, **CLIPS[objective]
    )
    (gradient,) = torch.autograd.grad(terms.sum(), z)
    after = (z + 0.1 * gradient).log_softmax(-1)[1]
    assert (after - before[0]).item() * advantage > 0


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_sequences_do_not_see_each_other(objective: Objective) -> None:
    advantages = vector(1.0, 1.0, -2.0, -2.0, -2.0)
    policy, behaviour, weights = policy_of().detach(), vector(*BEHAVIOUR), vector(*WEIGHTS)

    def terms(at: slice, lengths: Sequence[int]) -> Tensor:
        return policy_objective(
            policy[at], behaviour[at], advantages[at], weights[at], lengths, objective=objective, **CLIPS[objective]
        )

    together = terms(slice(0, 5), LENGTHS)
    apart = torch.cat([terms(slice(0, 2), [2]), terms(slice(2, 5), [3])])
    assert torch.equal(together, apart)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_nothing_counts_and_nothing_is_there(objective: Objective) -> None:
    policy = policy_of()
    terms = policy_objective(
        policy,
        vector(*[math.nan] * 5),
        vector(*[1.0] * 5),
        vector(*[0.0] * 5),
        LENGTHS,
        objective=objective,
        **CLIPS[objective],
    )
    (gradient,) = torch.autograd.grad(channel_sum(terms, vector(*[0.0] * 5), 0), policy)
    assert gradient.tolist() == [0.0] * 5
    none = vector()
    empty: list[int] = []
    assert policy_objective(none, none, none, none, empty, objective=objective, **CLIPS[objective]).shape == (0,)
    assert importance_ratios(none, none, none, empty, objective=objective).shape == (0,)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_an_unknown_advantage_is_loud_and_poisons_no_gradient(objective: Objective) -> None:
    policy = policy_of()
    terms = policy_objective(
        policy,
        vector(*BEHAVIOUR),
        vector(math.nan, 1.0, 1.0, 1.0, 1.0),
        vector(*WEIGHTS),
        LENGTHS,
        objective=objective,
        **CLIPS[objective],
    )
    assert torch.isnan(terms).tolist() == [True, False, False, False, False]
    (gradient,) = torch.autograd.grad(terms.nansum(), policy)
    assert gradient[0] == 0 and bool(torch.isfinite(gradient).all())


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_only_the_policy_gets_a_gradient_and_narrow_input_is_widened(objective: Objective) -> None:
    policy, behaviour, advantages = (torch.tensor([-1.0], dtype=torch.bfloat16, requires_grad=True) for _ in range(3))
    terms = policy_objective(policy, behaviour, advantages, torch.ones(1), [1], objective=objective, **CLIPS[objective])
    assert terms.dtype == torch.float32
    terms.sum().backward()
    assert policy.grad is not None and behaviour.grad is None and advantages.grad is None


# Means per sequence


def test_means_per_sequence_by_hand() -> None:
    # (.2 + .4) / 2 = .3 and (.1 + .1 + .3 + .5) / 4 = .25, mean .275; over all six tokens .266667
    losses, ones = vector(0.2, 0.4, 0.1, 0.1, 0.3, 0.5), vector(*[1.0] * 6)
    weights = sequence_mean_weights(ones, [2, 4])
    assert weights.tolist() == [0.5, 0.5, 0.25, 0.25, 0.25, 0.25]
    assert channel_sum(losses, weights, 2).item() == pytest.approx(0.275)
    assert channel_sum(losses, ones, 6).item() == pytest.approx(0.266667, abs=1e-6)


def test_masked_tokens_and_empty_sequences_do_not_count() -> None:
    weights = sequence_mean_weights(vector(1, 0, 0.5, 0, 0, 3), [3, 0, 2, 1])
    assert weights.tolist() == [0.5, 0.0, 0.25, 0.0, 0.0, 3.0]
    assert sequence_mean_weights(vector(), []).shape == (0,)


def test_split_batches_add_up() -> None:
    losses = torch.rand(9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = vector(1, 1, 0, 1, 1, 1, 1, 0, 1)
    whole = channel_sum(losses, sequence_mean_weights(weights, [2, 3, 4]), 3)
    parts = [
        channel_sum(losses[at], sequence_mean_weights(weights[at], lengths), 3)
        for at, lengths in ((slice(0, 2), [2]), (slice(2, 9), [3, 4]))
    ]
    assert whole.item() == pytest.approx(sum(part.item() for part in parts), abs=1e-15)


# Errors


def test_errors_name_what_came_and_the_way_out() -> None:
    x, one = vector(-1.0), vector(1.0)
    for objective in ("clip", "cispo", "gspo"):
        with pytest.raises(
            ValueError, match=rf"tis_cap is 2.0 with objective '{objective}'.*use objective 'reinforce'"
        ):
            policy_objective(x, x, x, one, [1], objective=objective, tis_cap=2.0)
    with pytest.raises(ValueError, match="objective is 'ppo'; wanted 'clip', 'cispo'"):
        policy_objective(x, x, x, one, [1], objective="ppo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cap is 0"):
        score_objective(x, x, x, cap=0.0)
    with pytest.raises(ValueError, match="clip_low is 1"):
        sequence_clipped_surrogate(x, x, x, one, [1], clip_low=1.0)
    with pytest.raises(ValueError, match=r"lengths add up to 2 for tokens of shape \[1\]"):
        sequence_clipped_surrogate(x, x, x, one, [2])
    with pytest.raises(ValueError, match="lengths add up to 0"):
        sequence_mean_weights(one, [])
    for call in (score_objective, clipped_surrogate):
        with pytest.raises(ValueError, match="shapes differ"):
            call(x, x, torch.zeros(2))
    with pytest.raises(ValueError, match="shapes differ"):
        sequence_clipped_surrogate(x, x, x, torch.zeros(2), [1])
    with pytest.raises(ValueError, match="shapes differ"):
        importance_ratios(x, torch.zeros(2), one, [1], objective="clip")

"""Which tokens spend entropy, by hand and by a plain loop; the terms of KL-Cov; a softmax of five tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from critique_rl.ops.covariance import (
    clip_binds,
    clip_cov_choice,
    kl_cov_choice,
    kl_cov_penalty,
    token_products,
    top_choice,
    unclipped_surrogate,
)
from critique_rl.ops.logprobs import entropy
from critique_rl.ops.penalties import adapt_entropy_weight
from critique_rl.ops.ratios import clipped_surrogate

PI = (0.7, 0.2, 0.06, 0.03, 0.01)


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def ones(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.int64)


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# spec 9.7, line by line


def test_vector_9_7_tokens() -> None:
    p, advantages = vector(0.9, 0.5, 0.05, 0.01), vector(1.2, -0.8, 1.0, -1.5)
    assert p.log().mean().item() == pytest.approx(-2.099853, abs=1e-6)
    assert advantages.mean().item() == pytest.approx(-0.025)
    products = token_products(p.log(), advantages, ones(4))
    assert products.tolist() == pytest.approx([2.443253, -1.090197, -0.918277, 3.695344], abs=1e-6)
    assert kl_cov_choice(products, share=0.002).tolist() == [False, False, False, True]
    picked = [clip_cov_choice(products, ones(4) < 0, share=2e-4, band=(1, 5), generator=draw(s)) for s in range(20)]
    assert {tuple(chosen.nonzero().flatten().tolist()) for chosen in picked} == {(0,), (3,)}


def test_vector_9_7_k_units() -> None:
    # 100k tokens: the authors' k_percent 0.2 is 0.2 % = 0.002 -> 200; 0.0002 -> 20
    products = torch.arange(100_000, dtype=torch.float64)
    assert int(kl_cov_choice(products, share=0.2 / 100).sum()) == 200
    assert int(kl_cov_choice(products, share=0.002).sum()) == 200
    assert int(kl_cov_choice(products, share=0.0002).sum()) == 20


def test_vector_9_7_kl_cov_on_policy() -> None:
    logp = vector(-1.0, -0.3, -4.0).requires_grad_()
    penalty = kl_cov_penalty(logp, logp.detach())
    assert penalty.tolist() == [0.0, 0.0, 0.0]
    (gradient,) = torch.autograd.grad(penalty.sum(), logp)
    assert gradient.tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize(
    ("ratio", "advantage", "high", "loss", "alive"),
    [
        (1.25, 1.0, 0.2, -1.2, False),
        (1.25, 1.0, 0.28, -1.25, True),
        (1.4, 1.0, 0.2, -1.2, False),
        (1.4, 1.0, 0.28, -1.28, False),
        (0.7, 1.0, 0.2, -0.7, True),
        (0.7, -1.0, 0.2, 0.8, False),
        (1.4, -1.0, 0.2, 1.4, True),
    ],
)
def test_vector_9_7_clip(ratio: float, advantage: float, high: float, loss: float, alive: bool) -> None:
    behaviour, one = vector(-1.0), vector(advantage)
    policy = (behaviour + math.log(ratio)).requires_grad_()
    term = -clipped_surrogate(policy, behaviour, one, clip_low=0.2, clip_high=high)
    assert term.item() == pytest.approx(loss)
    (gradient,) = torch.autograd.grad(term.sum(), policy)
    assert bool(gradient != 0) is alive
    assert bool(clip_binds(policy, behaviour, one, clip_low=0.2, clip_high=high)) is not alive


@pytest.mark.parametrize(
    ("action", "advantage", "change", "first_order"),
    [
        (0, 1, -0.077466, -0.075347),
        (0, -1, 0.072073, 0.075347),
        (3, 1, 0.159087, 0.151106),
        (3, -1, -0.140981, -0.151106),
    ],
)
def test_vector_9_7_one_logit_step(action: int, advantage: float, change: float, first_order: float) -> None:
    # dz = eta A (onehot - pi) with eta .5; to first order dH = -Cov(log pi, dz) under pi
    pi, logits = vector(*PI), vector(*PI).log()
    onehot = torch.nn.functional.one_hot(torch.tensor(action), 5).double()
    dz = 0.5 * advantage * (onehot - pi)
    assert entropy(logits[None]).item() == pytest.approx(0.891613, abs=1e-6)
    assert (entropy((logits + dz)[None]) - entropy(logits[None])).item() == pytest.approx(change, abs=1e-6)
    assert -covariance(pi, logits, dz) == pytest.approx(first_order, abs=1e-6)
    if (action, advantage) == (0, 1):
        assert (logits + dz).softmax(-1)[0].item() == pytest.approx(0.744778, abs=1e-6)


def test_vector_9_7_natural_and_plain_gradient() -> None:
    pi, logits, eta = vector(*PI), vector(*PI).log(), 0.01
    advantages = vector(1, -0.5, 0.2, -0.3, 0.1)
    before = entropy(logits[None]).item()
    natural = eta * advantages
    assert -covariance(pi, logits, natural) == pytest.approx(-44.299858e-4, abs=1e-9)
    assert entropy((logits + natural)[None]).item() - before == pytest.approx(-44.389511e-4, abs=1e-9)
    plain = eta * pi * (advantages - (pi * advantages).sum())
    assert -covariance(pi, logits, plain) == pytest.approx(-14.060829e-4, abs=1e-9)
    assert entropy((logits + plain)[None]).item() - before == pytest.approx(-14.071771e-4, abs=1e-9)


def covariance(pi: Tensor, left: Tensor, right: Tensor) -> float:
    return float((pi * (left - (pi * left).sum()) * (right - (pi * right).sum())).sum())


def test_vector_9_7_adaptive_entropy() -> None:
    carried, applied = [0.0], list[float]()
    for seen in (0.5, 0.3, 0.18, 0.15, 0.19, 0.25, 0.22):
        weight = adapt_entropy_weight(carried[-1], seen, 0.2)
        applied.append(weight.applied)
        carried.append(weight.carried)
    assert carried[1:] == pytest.approx([0, 0, 0.005, 0.010, 0.015, 0.010, 0.005])
    assert applied == pytest.approx([0, 0, 0.005, 0.010, 0.015, 0, 0])


# products and choices


tokens = st.lists(
    st.tuples(st.floats(-9, 0), st.floats(-3, 3), st.integers(0, 2), st.booleans()), min_size=1, max_size=30
)


@given(tokens, st.floats(0.01, 1.0))
def test_choices_against_a_plain_loop(rows: list[tuple[float, float, int, bool]], share: float) -> None:
    logp, adv = vector(*(row[0] for row in rows)), vector(*(row[1] for row in rows))
    mask = torch.tensor([row[2] for row in rows])
    on = [i for i, row in enumerate(rows) if row[2] > 0]
    products = token_products(logp, adv, mask)
    assert [i for i, c in enumerate(products.tolist()) if not math.isnan(c)] == on
    if not on:
        assert not kl_cov_choice(products, share=share).any()
        return
    mean_logp, mean_adv = (sum(rows[i][k] for i in on) / len(on) for k in (0, 1))
    for i in on:
        wanted = (rows[i][0] - mean_logp) * (rows[i][1] - mean_adv)
        assert products[i].item() == pytest.approx(wanted, abs=1e-9)
    ordered = sorted(on, key=lambda i: -products[i].item())
    held = kl_cov_choice(products, share=share).nonzero().flatten().tolist()
    assert held == sorted(ordered[: max(1, int(len(on) * share))])
    clipped = torch.tensor([row[3] for row in rows])
    candidates = [i for i in on if not rows[i][3] and 0.5 < products[i].item() < 2]
    dropped = clip_cov_choice(products, clipped, share=share, band=(0.5, 2), generator=draw()).nonzero().flatten()
    assert set(dropped.tolist()) <= set(candidates)
    assert len(dropped) == min(len(candidates), max(1, int(share * len(on))))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(0, 5), st.integers(1, 5))
def test_padding_moves_no_choice_and_ties_go_by_place(values: list[int], padding: int, count: int) -> None:
    bare = top_choice(vector(*values), ones(len(values)), count=count).tolist()
    assert sum(bare) == min(count, len(values))
    places = sorted(range(len(values)), key=lambda i: (-values[i], i))[:count]
    assert [i for i, chosen in enumerate(bare) if chosen] == sorted(places)
    mask = torch.cat([ones(len(values)), torch.zeros(padding, dtype=torch.int64)])
    padded = top_choice(vector(*values, *[99.0] * padding), mask, count=count).tolist()
    assert padded == bare + [False] * padding


def test_a_draw_is_uniform_over_the_band_and_repeats_with_its_seed() -> None:
    products = vector(0.5, 1.5, 2.0, 3.0, 4.9, 5.0, 7.0)
    free = ones(7) < 0
    seen = [0] * 7
    for seed in range(600):
        chosen = clip_cov_choice(products, free, share=0.01, band=(1, 5), generator=draw(seed))
        again = clip_cov_choice(products, free, share=0.01, band=(1, 5), generator=draw(seed))
        assert torch.equal(chosen, again)
        seen[int(chosen.nonzero())] += 1
    assert seen[0] == seen[5] == seen[6] == 0
    assert all(100 < count < 200 for count in seen[1:5])  # 150 expected, standard deviation 10.6


def test_nothing_to_choose_from() -> None:
    nothing = token_products(vector(-1, -2), vector(1, 2), torch.zeros(2))
    assert nothing.isnan().all()
    assert not kl_cov_choice(nothing, share=1.0).any()
    assert not clip_cov_choice(nothing, ones(2) < 0, share=1.0, band=(1, 5), generator=draw()).any()
    assert token_products(vector(-1), vector(5), ones(1)).tolist() == [0.0]
    assert kl_cov_choice(vector(0.0, 0.0), share=2e-4).tolist() == [True, False]  # at least one


def test_products_have_no_gradient() -> None:
    logp = vector(-1, -2).requires_grad_()
    assert not token_products(logp, vector(1, 2), ones(2)).requires_grad


# terms of KL-Cov


def test_terms_by_hand() -> None:
    # r = 1.25, .8: J = r A; |log r| = .223144 both
    behaviour = vector(-1.0, -1.0)
    policy = behaviour + vector(math.log(1.25), math.log(0.8))
    assert unclipped_surrogate(policy, behaviour, vector(2, -1)).tolist() == pytest.approx([2.5, -0.8])
    assert kl_cov_penalty(policy, behaviour).tolist() == pytest.approx([0.223144, 0.223144], abs=1e-6)


def test_no_clip_binds_in_the_unclipped_surrogate() -> None:
    policy = vector(-1.0).requires_grad_()
    term = unclipped_surrogate(policy, vector(-3.0), vector(1.0))
    (gradient,) = torch.autograd.grad(term.sum(), policy)
    assert gradient.item() == pytest.approx(math.exp(2))


def surrogate_of(policy: Tensor) -> Tensor:
    return unclipped_surrogate(policy, vector(-1, -2, -3), vector(1, -2, 0.5))


def penalty_of(policy: Tensor) -> Tensor:
    return kl_cov_penalty(policy, vector(-1, -2, -3))


@pytest.mark.parametrize("term", [surrogate_of, penalty_of])
def test_gradients(term: Callable[[Tensor], Tensor]) -> None:
    policy = vector(-1.3, -1.1, -3.4).requires_grad_()
    assert torch.autograd.gradcheck(term, (policy,))


def test_the_penalty_pulls_back_from_either_side() -> None:
    policy = vector(-0.5, -1.5).requires_grad_()
    (gradient,) = torch.autograd.grad(kl_cov_penalty(policy, vector(-1.0, -1.0)).sum(), policy)
    assert gradient.tolist() == [1.0, -1.0]  # to minimise: the one that rose falls, the one that fell rises


def test_an_unknown_behaviour_is_nan_without_a_gradient() -> None:
    policy = vector(-0.5, -1.5).requires_grad_()
    for terms in (
        unclipped_surrogate(policy, vector(math.nan, -1), vector(1, 1)),
        kl_cov_penalty(policy, vector(math.nan, -1)),
    ):
        assert terms[0].isnan() and terms[1].isfinite()
        (gradient,) = torch.autograd.grad(terms.sum(), policy)
        assert gradient[0] == 0 and gradient[1] != 0


@pytest.mark.parametrize("share", [0.0, -0.1, 1.1, math.nan])
def test_a_share_is_a_fraction(share: float) -> None:
    with pytest.raises(ValueError, match="wanted a fraction above 0 and up to 1"):
        kl_cov_choice(vector(1, 2), share=share)


def test_bad_input_is_told() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        token_products(vector(1, 2), vector(1), ones(2))
    with pytest.raises(ValueError, match="lower end below its upper one"):
        clip_cov_choice(vector(1), ones(1) < 0, share=0.1, band=(5, 1), generator=draw())


# spec 9.9: tabular softmax of five tokens


def step_by_clip(pi: Tensor, sampled: Tensor, advantages: Tensor, *, clip_high: float, eta: float) -> Tensor:
    """Eight gradient steps of PPO's objective on one batch, of which `sampled` are the shares of the tokens."""
    logits = pi.log().clone()
    for _ in range(8):
        z = logits.detach().requires_grad_()
        terms = clipped_surrogate(z.log_softmax(-1), pi.log(), advantages, clip_low=0.2, clip_high=clip_high)
        (gradient,) = torch.autograd.grad((sampled * terms).sum(), z)
        logits = logits + eta * gradient
    return logits.softmax(-1)


def nats(pi: Tensor) -> float:
    return entropy(pi.log()[None]).item()


def test_vector_9_9_entropy_falls_where_reward_follows_probability() -> None:
    pi = vector(*PI)
    fallen = [nats(pi)]
    for _ in range(30):
        pi = step_by_clip(pi, pi, pi - (pi * pi).sum(), clip_high=0.2, eta=2.0)
        fallen.append(nats(pi))
    assert all(later < earlier for earlier, later in pairwise(fallen))


def test_vector_9_9_clip_higher_slows_it() -> None:
    # Of each eight samples three are the common right token, four a wrong one, one a rare right one: A = .5, -.5, .5.
    # The common one cannot reach its bound of .96; the rare one can, and is what keeps entropy up.
    sampled, advantages = vector(3, 4, 1, 0, 0) / 8, vector(0.5, -0.5, 0.5, 0, 0)
    courses: list[list[float]] = []
    for clip_high in (0.2, 0.28):
        pi = vector(0.8, 0.16, 0.02, 0.015, 0.005)
        found = [nats(pi)]
        for _ in range(4):
            pi = step_by_clip(pi, sampled, advantages, clip_high=clip_high, eta=1.0)
            found.append(nats(pi))
        courses.append(found)
    narrow, wide = courses
    assert all(later < earlier for course in courses for earlier, later in pairwise(course))
    assert all(w > n for n, w in zip(narrow[2:], wide[2:], strict=True))

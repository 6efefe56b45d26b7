"""Clip-Cov, KL-Cov and 80/20 inside a real step: the plain formula over the whole batch, however it is split."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from critique_rl.config.loss import LossConfig
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.token_choice import Surveyed, choose_tokens
from critique_rl.types import TrainSample
from tests.policy.test_pg_channel import batch
from tests.tiny import sample, step_config, tiny_model, tiny_policy, weights

OPTIONS: list[dict[str, object]] = [
    {"clip_cov_share": 0.2, "clip_cov_band": (-9.0, 9.0)},
    {"clip_cov_share": 0.3, "clip_cov_band": (-9.0, 9.0), "normalizer": "tokens", "clip_high": 0.28},
    {"kl_cov_share": 0.3, "normalizer": "tokens"},
    {"kl_cov_share": 0.01, "kl_cov_weight": 3.0, "normalizer": "sequences"},
    {"top_entropy_share": 0.3, "normalizer": "tokens"},
    {"top_entropy_share": 0.3, "normalizer": "sequences", "entropy_weight": 0.1},
    {"top_entropy_share": 0.5, "normalizer": "tokens", "kl_cov_share": 0.2},
]


def moved(options: Mapping[str, object], **optimizer: object) -> HFPolicy:
    """A policy that is no longer the one that sampled `batch(0)`."""
    policy = tiny_policy(step_config(loss=options, distillation={"teacher": "live"}, optimizer=optimizer))
    policy.model.load_state_dict(tiny_model(1).state_dict())
    return policy


def gradient_of(policy: HFPolicy, samples: list[TrainSample], *, max_tokens: int) -> Tensor:
    policy.model.zero_grad()
    chosen = policy.train_step.choose(samples)
    assert policy.train_step.accumulate(chosen.samples, max_tokens=max_tokens) is not None
    return torch.cat([p.grad.flatten() for p in policy.model.parameters() if p.grad is not None])


def plain_gradient(options: Mapping[str, object], samples: list[TrainSample]) -> Tensor:
    """Token by token over whole logits; only Clip-Cov's draw is taken from the step's own generator."""
    loss, model = LossConfig.model_validate(options), tiny_model(1)
    rows = [s for s in samples if (s.pg_weight * s.loss_mask).any()]
    tokens: list[tuple[int, Tensor, Tensor, float, float]] = []
    for i, s in enumerate(rows):
        at = slice(len(s.prompt_ids) - 1, -1)
        logits = model(input_ids=torch.tensor([[*s.prompt_ids, *s.completion_ids]])).logits[0, at]
        logp_TV = logits.log_softmax(-1)
        for t, token in enumerate(s.completion_ids):
            if s.loss_mask[t] > 0:
                own = -(logp_TV[t].exp() * logp_TV[t]).sum()
                tokens.append((i, logp_TV[t, token], own, float(s.behaviour_logprobs[t]), float(s.advantages[t])))
    n = len(tokens)
    logps, advs = [x[1].item() for x in tokens], [x[4] for x in tokens]
    c = [(p - sum(logps) / n) * (a - sum(advs) / n) for p, a in zip(logps, advs, strict=True)]
    by_entropy = sorted(range(n), key=lambda j: -tokens[j][2].item())
    kept = set(by_entropy[: max(1, int(loss.top_entropy_share * n + 0.9999))])
    held = set(sorted(range(n), key=lambda j: -c[j])[: max(1, int(n * loss.kl_cov_share))])
    ratios = [math.exp(p - x[3]) for p, x in zip(logps, tokens, strict=True)]
    free = [j for j in range(n) if not clipped(ratios[j], advs[j], loss)]
    order = torch.randperm(len(free), generator=torch.Generator().manual_seed(0)).tolist()
    dropped = {free[j] for j in order[: max(int(loss.clip_cov_share * n), 1)]} if loss.clip_cov_share else set()
    left = {i: sum(tokens[j][0] == i for j in kept) for i in range(len(rows))}
    total = torch.zeros((), dtype=torch.float64)
    for j, (i, logp, own, behaviour, advantage) in enumerate(tokens):
        if j not in kept:
            continue
        slope = -advantage * ratios[j]
        if loss.kl_cov_share > 0:
            slope += loss.kl_cov_weight * math.copysign(1, logps[j] - behaviour) * (j in held)
        elif clipped(ratios[j], advantage, loss) or j in dropped:
            slope = 0.0
        divisor = {
            "constant": len(rows) * 8,
            "tokens": len(kept),
            "sequences": sum(count > 0 for count in left.values()) * left[i],
        }[loss.normalizer]
        total = total + (slope * logp - loss.entropy_weight * own) / divisor
    return torch.cat([part.flatten() for part in torch.autograd.grad(total, list(model.parameters()))])


def clipped(ratio: float, advantage: float, loss: LossConfig) -> bool:
    return (advantage > 0 and ratio > 1 + loss.clip_high) or (advantage < 0 and ratio < 1 - loss.clip_low)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_gradient_is_that_of_the_plain_formula_however_the_batch_is_split(options: dict[str, object]) -> None:
    samples = batch(0)
    wanted = plain_gradient(options, samples)
    assert wanted.norm() > 1e-3
    for micro_batch_tokens in (1, 20, 10_000):
        policy = moved(options, micro_batch_tokens=micro_batch_tokens)
        found = gradient_of(policy, samples, max_tokens=micro_batch_tokens)
        assert torch.allclose(found, wanted, atol=1e-10, rtol=0)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_order_of_the_rows_changes_nothing_but_the_draw(options: dict[str, object]) -> None:
    if "clip_cov_share" in options:
        options = options | {"clip_cov_share": 1.0}  # all candidates: nothing is drawn
    samples = batch(0)
    one, other = (gradient_of(moved(options), rows, max_tokens=50) for rows in (samples, samples[::-1]))
    assert torch.allclose(one, other, atol=1e-12, rtol=0)


def test_clip_cov_keeps_what_it_drops_in_the_denominator() -> None:
    # every token is dropped and every one still counted: the loss is 0, and not undefined
    rows = [sample((4, 5), (6, 7), advantage=a, pg=1.0, behaviour=[-6.0, -6.0]) for a in (1.0, -1.0)]
    policy = tiny_policy(
        step_config(loss={"clip_cov_share": 1.0, "clip_cov_band": (-99, 99), "clip_low": 0.999, "clip_high": 1e9})
    )
    policy.model.load_state_dict(tiny_model(1).state_dict())
    chosen = policy.train_step.choose(rows)
    assert chosen.figures["tokens/dropped"] == 4.0
    report = policy.train_step.accumulate(chosen.samples)
    assert report is not None and report.pg_loss == 0.0
    assert all(float(p.grad.abs().max()) == 0 for p in policy.model.parameters() if p.grad is not None)


def test_what_is_off_surveys_nothing_and_changes_nothing() -> None:
    policy = tiny_policy()
    samples = batch(0)
    chosen = policy.train_step.choose(samples)
    assert chosen.figures == {} and all(a is b for a, b in zip(chosen.samples, samples, strict=True))


def test_the_report_names_the_choice_and_the_entropy_of_all_tokens() -> None:
    samples = batch(1)
    plain = moved({"normalizer": "tokens"}).step(samples)
    found = moved({"normalizer": "tokens", "top_entropy_share": 0.2}).step(samples)
    tokens = sum(int((s.pg_weight * s.loss_mask > 0).sum()) for s in samples)
    assert found.applied and found.diagnostics["tokens/top_entropy"] == int(0.2 * tokens + 0.9999)
    # rows without an advantage are surveyed too, so the means differ unless taken over the same rows
    assert found.diagnostics["policy/top_entropy_threshold"] > found.diagnostics["policy/entropy"]
    assert plain.diagnostics["policy/entropy"] > 0
    assert plain.diagnostics["ratio/clip_fraction"] > 0
    held = moved({"kl_cov_share": 0.01}).step(samples)
    assert held.diagnostics["ratio/clip_fraction"] == 0.0  # nothing is clipped
    assert held.diagnostics["tokens/held"] == 1.0
    assert held.diagnostics["policy/covariance_held"] > held.diagnostics["policy/covariance"]


def test_a_token_that_clip_cov_may_drop_moves_without_it_and_not_with_it() -> None:
    # one token: c = 0 lies in the band, so it is always dropped
    one = sample((4, 5), (6,), advantage=1.0, pg=1.0, behaviour=[-1.0])
    loss = {"clip_high": 1e9, "clip_low": 0.999}
    free = tiny_policy(step_config(loss=loss))
    stuck = tiny_policy(step_config(loss=loss | {"clip_cov_share": 0.1, "clip_cov_band": (-1, 1)}))
    for policy, moves in ((free, True), (stuck, False)):
        before = weights(policy)
        policy.step([one])
        assert (not torch.equal(weights(policy), before)) is moves


def test_kl_cov_pulls_a_token_back_that_has_no_advantage() -> None:
    flat = [replace(s, advantages=np.zeros(len(s.completion_ids))) for s in batch(0)]
    report = moved({"kl_cov_share": 0.5}).step(flat)
    assert report.applied and report.diagnostics["rows/trained"] >= 1.0
    assert not moved({}).step(flat).applied


def test_covariance_is_of_the_base_advantages_where_a_method_amplified_some() -> None:
    loss = LossConfig.model_validate({"kl_cov_share": 0.01})
    plain = sample((4,), (5, 6), pg=1.0, behaviour=[-1, -1])
    plain = replace(plain, advantages=np.array([1.0, -1.0]))
    amplified = replace(plain, advantages=np.array([1.0, 9.0]), base_advantages=plain.advantages)
    told = {0: Surveyed(np.array([-0.1, -2.0]), np.array([0.1, 0.2]))}
    one, other = (choose_tokens([s], told, loss, seed=0) for s in (plain, amplified))
    assert one.figures == other.figures
    # c = (.95)(1) = .95 for both: equal, so the first
    assert one.samples[0].held is not None and one.samples[0].held.tolist() == [1.0, 0.0]


def test_nothing_in_the_channel_chooses_nothing() -> None:
    policy = moved({"kl_cov_share": 0.5})
    rows = [sample((4, 5), (6, 7), advantage=1.0, imitate=1.0)]
    assert policy.train_step.choose(rows).figures == {}
    assert policy.step(rows).applied

"""The options of [loss] inside a real step: gradients against the plain formula, any split, state and report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from critique_rl.config.loss import LossConfig
from critique_rl.policy.hf import HFPolicy
from critique_rl.types import TrainSample
from tests.tiny import V, gradient, sample, step_config, tiny_model, tiny_policy, weights

OPTIONS: list[dict[str, object]] = [
    {"objective": "gspo", "clip_low": 0.05, "clip_high": 0.05, "normalizer": "sequences"},
    {"objective": "gspo", "clip_low": 0.3, "clip_high": 0.3},
    {"objective": "cispo", "clip_high": 0.3, "normalizer": "tokens"},
    {"objective": "reinforce"},
    {"objective": "reinforce", "tis_cap": 1.2, "normalizer": "sequences"},
    {"normalizer": "sequences"},
    {"kl_weight": 0.7},
    {"kl_weight": 0.7, "kl_kind": "k2", "normalizer": "sequences"},
    {"kl_weight": 0.7, "kl_kind": "k3", "objective": "cispo", "clip_high": 1.0},
    {"entropy_weight": 0.3},
    {"entropy_weight": 0.3, "entropy_target": 50.0, "kl_weight": 0.2},
]


def batch(model_seed: int = 0) -> list[TrainSample]:
    """Rollouts of unequal length with masked tokens, one without an advantage, one that no verifier could score."""
    rng = np.random.default_rng(5)
    model = tiny_model(model_seed)
    samples: list[TrainSample] = []
    for i, (prompt_length, length) in enumerate([(3, 5), (1, 8), (6, 2), (2, 1), (4, 7)]):
        prompt, completion = (tuple(int(x) for x in rng.integers(4, V, size=n)) for n in (prompt_length, length))
        with torch.no_grad():
            logits_TV = model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
        own = logits_TV.log_softmax(-1)[range(length), list(completion)].numpy()
        mask = np.ones(length)
        behaviour = own + rng.normal(scale=0.25, size=length)
        if i == 1:
            mask[[0, 5]] = 0.0
            behaviour[5] = np.nan  # unknown, and masked
        samples.append(
            sample(
                prompt,
                completion,
                advantage=[0.7, -0.5, 0.0, -1.2, 0.3][i],
                pg=0.0 if i == 4 else 1.0,
                behaviour=behaviour.tolist(),
                mask=mask.tolist(),
            )
        )
    return samples


def plain_gradient(options: Mapping[str, object], samples: list[TrainSample], reference_seed: int = 0) -> Tensor:
    """One rollout and one token at a time, over whole logits, without the ops under test."""
    loss = LossConfig.model_validate(options)
    model, reference = tiny_model(1), tiny_model(reference_seed)
    used = [s for s in samples if (s.pg_weight * s.loss_mask).any()]
    tokens = sum(int((s.pg_weight * s.loss_mask > 0).sum()) for s in used)
    total = torch.zeros((), dtype=torch.float64)
    for s in used:
        ids = torch.tensor([[*s.prompt_ids, *s.completion_ids]])
        at = slice(len(s.prompt_ids) - 1, -1)
        logprobs_TV = model(input_ids=ids).logits[0, at].log_softmax(-1)
        with torch.no_grad():
            reference_TV = reference(input_ids=ids).logits[0, at].log_softmax(-1)
        counted = [t for t in range(len(s.completion_ids)) if s.loss_mask[t] > 0]
        mean = sum(float(logprobs_TV[t, s.completion_ids[t]].detach()) - s.behaviour_logprobs[t] for t in counted)
        for t in counted:
            logp = logprobs_TV[t, s.completion_ids[t]]
            sequence = loss.objective == "gspo"
            log_ratio = mean / len(counted) if sequence else float(logp.detach()) - s.behaviour_logprobs[t]
            slope = slope_of(loss, math.exp(log_ratio), float(s.advantages[t]))
            gap = float(logp.detach()) - float(reference_TV[t, s.completion_ids[t]])
            pull = {"k1": gap, "k2": gap, "k3": 1 - math.exp(-gap)}[loss.kl_kind]
            entropy = -(logprobs_TV[t].exp() * logprobs_TV[t]).sum()
            bonus = loss.entropy_weight + (0.005 if loss.entropy_target is not None else 0.0)  # far below its target
            term = (-slope + loss.kl_weight * pull) * logp - bonus * entropy
            total = (
                total
                + term
                / {"constant": len(used) * 8, "tokens": tokens, "sequences": len(used) * len(counted)}[loss.normalizer]
            )
    return torch.cat([part.flatten() for part in torch.autograd.grad(total, list(model.parameters()))])


def slope_of(loss: LossConfig, ratio: float, advantage: float) -> float:
    if loss.objective == "reinforce":
        return advantage * (1.0 if loss.tis_cap is None else min(ratio, loss.tis_cap))
    if loss.objective == "cispo":
        return advantage * min(ratio, 1 + loss.clip_high)
    clipped = (advantage > 0 and ratio > 1 + loss.clip_high) or (advantage < 0 and ratio < 1 - loss.clip_low)
    return 0.0 if clipped else advantage * ratio


def moved_policy(options: Mapping[str, object]) -> HFPolicy:
    """A policy that started as model 0, which is its reference, and now has the weights of model 1."""
    policy = tiny_policy(step_config(loss=options, distillation={"teacher": "live"}))
    policy.model.load_state_dict(tiny_model(1).state_dict())
    return policy


def referenced(policy: HFPolicy, samples: list[TrainSample]) -> list[TrainSample]:
    """What `HFPolicy.step` hands to the training step."""
    return list(policy._with_reference(samples))  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_gradient_is_that_of_the_plain_formula_however_the_batch_is_split(options: dict[str, object]) -> None:
    samples, policy = batch(1), moved_policy(options)
    wanted = plain_gradient(options, samples)
    assert wanted.norm() > 1e-3
    for max_tokens in (1, 20, 10_000):
        policy.model.zero_grad()
        assert policy.train_step.accumulate(referenced(policy, samples), max_tokens=max_tokens) is not None
        parts = [p.grad for p in policy.model.parameters() if p.grad is not None]
        mine = torch.cat([part.flatten() for part in parts])
        assert torch.allclose(mine, wanted, atol=1e-10, rtol=0)


def test_named_options_change_nothing_where_they_are_off() -> None:
    plain, named = tiny_policy(), tiny_policy(step_config(loss={"objective": "clip", "kl_weight": 0.0}))
    assert torch.equal(gradient(plain, batch()), gradient(named, batch()))


def test_a_group_without_contrast_is_still_held_near_the_reference() -> None:
    flat = [replace(s, advantages=np.zeros(len(s.completion_ids))) for s in batch(1)]
    free = moved_policy({})
    assert not free.step(flat).applied
    held = moved_policy({"kl_weight": 1.0, "kl_kind": "k2", "objective": "reinforce"})
    before = held.step(flat)
    assert before.applied and before.diagnostics["rows/trained"] == 4.0
    again = held.train_step.accumulate(referenced(held, flat))
    assert again is not None and 0 < again.pg_loss < before.pg_loss


def test_clip_fraction_of_each_objective() -> None:
    # eight tokens on the policy, then all ratios e^.5 = 1.65
    def fraction(**options: object) -> float:
        policy = tiny_policy(step_config(loss=options))
        own = policy.logprobs([(1, 5)], [tuple(range(10, 18))])[0]
        report = policy.step([sample((1, 5), range(10, 18), advantage=1.0, pg=1.0, behaviour=(own - 0.5).tolist())])
        return report.diagnostics["ratio/clip_fraction"]

    assert fraction() == 1.0 and fraction(clip_high=0.7) == 0.0
    assert fraction(objective="cispo", clip_high=0.5) == 1.0 and fraction(objective="cispo", clip_high=0.7) == 0.0
    assert fraction(objective="gspo") == 1.0
    assert fraction(objective="reinforce") == 0.0 and fraction(objective="reinforce", tis_cap=1.5) == 1.0


def test_the_adaptive_weight_moves_with_applied_steps_and_survives_a_checkpoint(tmp_path: Path) -> None:
    config = step_config(loss={"entropy_target": 100.0, "entropy_weight": 0.01})
    policy = tiny_policy(config)
    report = policy.step(batch())
    assert report.diagnostics["policy/entropy_weight"] == pytest.approx(0.015)
    assert policy.train_step.entropy_coefficient == pytest.approx(0.015)
    policy.step([])
    assert policy.train_step.entropy_coefficient == pytest.approx(0.015)  # nothing was applied
    policy.save(tmp_path)
    resumed = tiny_policy(config, seed=3)
    resumed.restore(tmp_path)
    assert resumed.train_step.entropy_coefficient == policy.train_step.entropy_coefficient
    assert policy.step(batch()) == resumed.step(batch())
    assert torch.equal(weights(policy), weights(resumed))


def test_the_spec_s_course_of_the_adaptive_weight_in_real_steps() -> None:
    # spec 9.7, adaptive entropy: target .2, delta .005
    policy = tiny_policy(step_config(loss={"entropy_target": 0.2}))
    carried, applied = list[float](), list[float]()
    for seen in (0.5, 0.3, 0.18, 0.15, 0.19, 0.25, 0.22):
        report = policy.step([sample((1, 5), (10, 11, 12), advantage=1.0, pg=1.0, behaviour=[-seen] * 3)])
        applied.append(report.diagnostics["policy/entropy_weight"])
        carried.append(policy.train_step.entropy_coefficient)
    assert carried == pytest.approx([0, 0, 0.005, 0.010, 0.015, 0.010, 0.005])
    assert applied == pytest.approx([0, 0, 0.005, 0.010, 0.015, 0, 0])


def test_above_its_target_the_entropy_is_left_alone() -> None:
    low = tiny_policy(step_config(loss={"entropy_target": 1e-3, "entropy_weight": 0.5}))
    assert torch.equal(gradient(low, batch()), gradient(tiny_policy(), batch()))

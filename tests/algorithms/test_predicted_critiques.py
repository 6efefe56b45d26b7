"""Critiques as one-hot targets: the loss and gradient of a cross-entropy over their own tokens, and nobody diluted."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from critique_rl.algorithms.predicted_critiques import PredictedCritiques, one_hot
from critique_rl.policy.hf import HFPolicy
from critique_rl.types import Rollout, TrainSample
from tests.algorithms.groups import rollout
from tests.tiny import V, gradient, random_targets, sample, step_config, tiny_policy

PROMPT = (4, 5, 6)
SAID = [
    replace(rollout("r0/critique", (11, 12, 2), (4, 5, 6, 7)), behaviour_logprobs=()),
    replace(rollout("r1/critique", (13, 2), (4, 5, 6, 8)), behaviour_logprobs=()),
]


def plain(k: int = 6) -> list[TrainSample]:
    rng = np.random.default_rng(1)
    return [
        sample(PROMPT, (7, 8, 9, 2), advantage=0.5, pg=1.0, distill=0.7, teacher=random_targets(rng, 4, k)),
        sample(PROMPT, (10, 2), advantage=-0.5, pg=1.0),
        sample(PROMPT, (14, 15, 2), advantage=0.9, imitate=1.0),
    ]


def policy(weight: float = 1.0) -> HFPolicy:
    return tiny_policy(step_config(distillation={"weight": weight}))


def add(samples: list[TrainSample], *, weight: float = 1.0, channel: float = 1.0) -> list[TrainSample]:
    return PredictedCritiques(weight=weight, channel_weight=channel).add(samples, SAID)


def cross_entropy(of: HFPolicy) -> torch.Tensor:
    """-mean log p over the 5 tokens that were said."""
    model = of.model
    total = torch.zeros((), dtype=torch.float64)
    for said in SAID:
        ids = torch.tensor([[*said.prompt_ids, *said.completion_ids]])
        logprobs = model(input_ids=ids).logits[0, :-1].log_softmax(dim=-1)
        at = range(len(said.prompt_ids) - 1, ids.shape[1] - 1)
        total = total - sum(logprobs[t, ids[0, t + 1]] for t in at)
    return total / 5


def its_gradient(of: HFPolicy) -> torch.Tensor:
    of.model.zero_grad()
    cross_entropy(of).backward()
    found = torch.cat([p.grad.flatten() for p in of.model.parameters() if p.grad is not None])
    of.model.zero_grad()
    return found.double()


def test_a_one_hot_by_hand() -> None:
    found = one_hot(SAID[1], 3)
    assert found.ids_TK.tolist() == [[13, 0, 1], [2, 0, 1]]
    assert found.logprobs_TK.tolist() == [[0.0, -np.inf, -np.inf]] * 2
    assert one_hot(SAID[1], 1).ids_TK.tolist() == [[13], [2]]
    whole = one_hot(SAID[0], V).ids_TK
    assert all(sorted(ids) == list(range(V)) for ids in whole.tolist())


@pytest.mark.parametrize("weight", [1.0, 0.25])
@pytest.mark.parametrize("channel", [1.0, 0.2])
@pytest.mark.parametrize("k", [6, V])
def test_the_loss_gains_the_mean_cross_entropy_and_nothing_is_diluted(weight: float, channel: float, k: int) -> None:
    with_them = gradient(policy(channel), add(plain(k), weight=weight, channel=channel))
    without = gradient(policy(channel), plain(k))
    wanted = without + weight * its_gradient(policy())
    assert (with_them - wanted).norm() < 1e-5 * wanted.norm()
    report = policy(channel).train_step.accumulate(add(plain(k), weight=weight, channel=channel))
    before = policy(channel).train_step.accumulate(plain(k))
    assert report is not None and before is not None
    assert report.loss - before.loss == pytest.approx(weight * float(cross_entropy(policy()).detach()), rel=1e-5)
    others = (report.pg_loss, report.imitate_loss)
    assert others == pytest.approx((before.pg_loss, before.imitate_loss), rel=1e-12)


@pytest.mark.parametrize("rows", [0, 3])
def test_without_targets_the_channel_is_theirs(rows: int) -> None:
    samples = [replace(s, teacher=None) for s in plain()[:rows]]
    found = add(samples, weight=0.5)
    assert all(s.teacher is not None and s.teacher.ids_TK.shape[1] == 1 for s in found[rows:])
    report = policy().train_step.accumulate(found[rows:])
    assert report is not None
    assert report.loss == pytest.approx(0.5 * float(cross_entropy(policy()).detach()), rel=1e-5)


def test_what_was_said_becomes_likelier() -> None:
    learner = policy()
    prompts, said = [s.prompt_ids for s in SAID], [s.completion_ids for s in SAID]
    before = [lp.sum() for lp in learner.logprobs(prompts, said)]
    learner.step(add([]))
    after = [lp.sum() for lp in learner.logprobs(prompts, said)]
    assert all(b > a for a, b in zip(before, after, strict=True))


def test_they_are_no_rollouts_and_carry_no_reward() -> None:
    for found in add(plain())[3:]:
        assert not (found.advantages.any() or found.pg_weight.any() or found.imitate_weight.any())
        assert np.isnan(found.behaviour_logprobs).all()


def test_nothing_said_changes_nothing() -> None:
    samples = plain()
    silent: list[Rollout] = []
    assert PredictedCritiques(weight=1.0, channel_weight=1.0).add(samples, silent) == samples

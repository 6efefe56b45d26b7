"""Shaping on own successes: which rollouts get it, and that nothing else differs from GRPO."""

from __future__ import annotations

import pytest
import torch

from critique_rl.algorithms.grpo import Grpo
from critique_rl.algorithms.self_imitation import SelfImitation
from critique_rl.config.algorithm import GrpoConfig, SelfImitationConfig, TwoChannelConfig, imitation_options
from critique_rl.config.refinement import RefinementConfig
from tests.algorithms.groups import ERROR, advantages, assert_same_samples, critique, group, refinement
from tests.tiny import gradient, sample, step_config, tiny_policy

METHOD = SelfImitation(SelfImitationConfig())
GRPO = Grpo(GrpoConfig())


def test_right_rollouts_carry_both_terms_and_wrong_ones_grpos_alone() -> None:
    samples = METHOD.assemble([group([1, 0, 0.5, 0])])
    assert advantages(samples) == pytest.approx([0.625, -0.375, 0.125, -0.375])
    assert [bool(s.imitate_weight.any()) for s in samples] == [True, False, False, False]  # half right is not right
    assert all(s.pg_weight.all() for s in samples)
    assert samples[0].imitate_weight.tolist() == [1.0] and samples[0].guided_logprobs is None


@pytest.mark.parametrize("scale", ["none", "std", "loo"])
@pytest.mark.parametrize("rewards", [[0, 0, 0], [1, 1], [0.5, 0], [ERROR, 0], [ERROR], []])
def test_without_a_success_or_without_contrast_it_is_grpo_bit_for_bit(scale: str, rewards: list[float | None]) -> None:
    options = {"scale": scale}
    mine = SelfImitation(SelfImitationConfig.model_validate(options)).assemble([group(rewards)] if rewards else [])
    assert_same_samples(mine, Grpo(GrpoConfig.model_validate(options)).assemble([group(rewards)] if rewards else []))


def test_a_critics_feedback_is_not_looked_at() -> None:
    fed = group([1, 0], [refinement(0, 1.0)], critiques=[critique("r1", 0.9)], taught=["r1"])
    assert_same_samples(METHOD.assemble([fed]), METHOD.assemble([group([1, 0])]))
    assert METHOD.needs == frozenset() and METHOD.name == "self_imitation"


def test_its_gradient_is_grpos_and_psi_times_the_scores() -> None:
    # on the policy's own tokens at ratio 1: - A / D - w Psi(p) A / N of grad log p, Psi(p) = gamma p / (p + gamma)^2
    gamma, weight = 0.1, 0.7
    config = step_config(loss={"normalizer": "tokens"}, refinement={"gamma": gamma, "weight": weight})
    policy = tiny_policy(config)
    prompt, completion = (4, 5), (7, 8, 9)
    (own,) = policy.logprobs([prompt], [completion])
    row = sample(prompt, completion, advantage=0.5, pg=1.0, imitate=1.0, behaviour=own.tolist())
    logits = policy.model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, 1:-1]
    chosen = logits.log_softmax(dim=-1).gather(-1, torch.tensor(completion)[:, None])[:, 0]
    p = chosen.detach().exp()
    factor = 0.5 * (1 + weight * gamma * p / (p + gamma) ** 2)
    by_hand = torch.autograd.grad(-(factor * chosen).mean(), list(policy.model.parameters()))
    assert torch.allclose(gradient(policy, [row]), torch.cat([part.flatten() for part in by_hand]), atol=1e-10)


def test_its_own_keys_are_what_the_imitation_channel_reads() -> None:
    section = RefinementConfig(gamma=0.3, weight=2.0)
    read = imitation_options(SelfImitationConfig(gamma=0.2, weight=0.5), section)
    assert (read.gamma, read.weight, read.ratio_mode, read.normalizer) == (0.2, 0.5, "shaped", "own")
    assert imitation_options(TwoChannelConfig(), section) is section

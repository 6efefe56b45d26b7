"""Targets that scale advantages: the verifier owns the sign, and nothing happens where it sees no contrast."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from critique_rl.algorithms.signed import SignedAdvantages
from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.config.algorithm import TwoChannelConfig
from critique_rl.config.distillation import DistillationConfig
from critique_rl.types import Group
from tests.algorithms.groups import ERROR, assert_same_samples, group, refinement
from tests.tiny import step_config, tiny_policy

BEHAVIOUR, TEACHER = (-0.20, -1.50, -0.05, -2.30), np.array([-0.10, -0.40, -3.05, -2.30])
BOTH = TwoChannel(TwoChannelConfig())


def signed(**options: object) -> SignedAdvantages:
    tree = {"join": "signed", "support": "sampled"} | options
    return SignedAdvantages(BOTH, DistillationConfig.model_validate(tree))


def four_tokens(rewards: tuple[float | None, float | None], *, version: int = 0) -> Group:
    """Two rollouts of which the second has four tokens and a teacher with the gap (.1, 1.1, -3, 0)."""
    of = group([rewards[0], ERROR, ERROR, rewards[1]], taught=["r3"])
    told = replace(of.targets["r3"], sampled_logprobs_T=TEACHER)
    second = replace(of.rollouts[3], behaviour_logprobs=BEHAVIOUR, policy_version=version)
    return replace(of, rollouts=(of.rollouts[0], second), scores=(of.scores[0], of.scores[3]), targets={"r3": told})


@pytest.mark.parametrize(
    ("rewards", "expected"),
    [
        ((-1.0, 1.0), [1.052585, 1.1, 0.9, 1.0]),
        ((1.0, -1.0), [-0.952419, -0.9, -1.1, -1.0]),
        ((0.0, 0.0), [0.0] * 4),  # no contrast: the channel's known failure
    ],
)
def test_the_teacher_scales_what_the_verifier_said(rewards: tuple[float, float], expected: list[float]) -> None:
    first, second = signed().assemble([four_tokens(rewards)])
    assert second.advantages.tolist() == pytest.approx(expected, abs=1e-6)
    assert first.advantages.tolist() == [rewards[0]]
    assert second.pg_weight.tolist() == [1.0] * 4 and not second.distill_weight.any()


def test_the_share_falls_to_nothing_over_its_steps() -> None:
    found = [
        signed(signed_steps=50).assemble([four_tokens((-1.0, 1.0), version=version)])[1].advantages[1]
        for version in (0, 25, 50, 80)
    ]
    # 1 + share x .2, the share .5, .25 and 0
    assert found == pytest.approx([1.1, 1.05, 1.0, 1.0])
    assert signed().assemble([four_tokens((-1.0, 1.0), version=80)])[1].advantages[1] == pytest.approx(1.1)


def test_a_failed_verifier_an_unknown_sampler_and_a_missing_teacher_change_nothing() -> None:
    (_, unscored) = signed().assemble([four_tokens((0.0, ERROR))])
    assert not (unscored.pg_weight.any() or unscored.advantages.any() or unscored.distill_weight.any())
    of = four_tokens((-1.0, 1.0))
    unknown = replace(of, rollouts=(of.rollouts[0], replace(of.rollouts[1], behaviour_logprobs=())))
    assert not signed().assemble([unknown])[1].pg_weight.any()
    masked = replace(of, targets={"r3": replace(of.targets["r3"], mask_T=np.array([1.0, 0.0, 0.0, 1.0]))})
    assert signed().assemble([masked])[1].advantages.tolist() == pytest.approx([1.052585, 1.0, 1.0, 1.0], abs=1e-6)


def test_without_directives_it_is_the_method_bit_for_bit() -> None:
    fed = [group([1, 0, 0.5], [refinement(0, 1.0)]), group([ERROR, 1], task="u"), group([0, 0], task="v")]
    assert_same_samples(signed().assemble(fed), BOTH.assemble(fed))
    assert (signed().name, signed().needs) == (BOTH.name, BOTH.needs)
    assert signed().assemble([]) == []


@pytest.mark.parametrize("advantage", [1.0, -1.0])
def test_the_log_prob_moves_the_way_of_the_reward_whatever_the_teacher_says(advantage: float) -> None:
    policy = tiny_policy(step_config(optimizer={"learning_rate": 1e-3}))
    of = four_tokens((-advantage, advantage))
    prompt, completion = of.rollouts[1].prompt_ids, of.rollouts[1].completion_ids
    (own,) = policy.logprobs([prompt], [completion])
    told = replace(of.targets["r3"], sampled_logprobs_T=own - advantage * 3.0)  # against the verifier on every token
    of = replace(of, rollouts=(of.rollouts[0], replace(of.rollouts[1], behaviour_logprobs=tuple(own.tolist()))))
    samples = signed(signed_share=1.0).assemble([replace(of, targets={"r3": told})])
    assert samples[1].advantages.tolist() == pytest.approx([advantage * 0.8] * 4)
    assert policy.step(samples[1:]).applied
    (after,) = policy.logprobs([prompt], [completion])
    assert (after.sum() - own.sum()) * advantage > 0

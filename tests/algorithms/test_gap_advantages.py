"""The directive channel as advantages: which tokens it reaches, by how much, and what it leaves alone."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from critique_rl.algorithms.directive_distillation import DirectiveDistillation
from critique_rl.algorithms.gap_advantages import GapAdvantages
from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.config.algorithm import DirectiveDistillationConfig, DistillationConfig, TwoChannelConfig
from critique_rl.errors import ConfigError
from critique_rl.policy.step import count_denominators
from critique_rl.types import Array, Group
from tests.algorithms.groups import ERROR, assert_same_samples, group, refinement
from tests.tiny import V, gradient, random_targets, sample, step_config, tiny_policy

BEHAVIOUR, TEACHER = np.array([-0.20, -1.50, -0.05, -2.30]), np.array([-0.10, -0.40, -3.05, -2.30])
BOTH = TwoChannel(TwoChannelConfig())
ALONE = DirectiveDistillation(DirectiveDistillationConfig())


def gaps(method: TwoChannel | DirectiveDistillation = BOTH, **options: object) -> GapAdvantages:
    tree = {"join": "advantages", "support": "sampled"} | options
    return GapAdvantages(method, DistillationConfig.model_validate(tree))


def four_tokens(reward: float | None, *, teacher: Array = TEACHER, mask: tuple[float, ...] = (1, 1, 1, 1)) -> Group:
    """Two rollouts of which the second has four tokens and a teacher; the first one's reward makes its advantage."""
    of = group([0.0, ERROR, ERROR, reward], taught=["r3"])
    told = replace(of.targets["r3"], sampled_logprobs_T=teacher, mask_T=np.array(mask, dtype=np.float64))
    rollouts = (of.rollouts[0], replace(of.rollouts[3], behaviour_logprobs=tuple(BEHAVIOUR.tolist())))
    return replace(of, rollouts=rollouts, scores=(of.scores[0], of.scores[3]), targets={"r3": told})


@pytest.mark.parametrize(
    ("reward", "clip", "expected"),
    [
        # rewards 0 and 2 centre to -1 and 1, 0 and -2 to 1 and -1; the gap is (.1, 1.1, -3, 0), and a clip of 5 none
        (2.0, 5.0, [1.1, 2.1, -2.0, 1.0]),
        (-2.0, 5.0, [-0.9, 0.1, -4.0, -1.0]),
        (0.0, 5.0, [0.1, 1.1, -3.0, 0.0]),
        (2.0, 1.0, [1.1, 2.0, 0.0, 1.0]),
        (-2.0, 1.0, [-0.9, 0.0, -2.0, -1.0]),
        (0.0, 1.0, [0.1, 1.0, -1.0, 0.0]),
    ],
)
def test_a_clipped_gap_is_added_to_every_directed_tokens_advantage(
    reward: float, clip: float, expected: list[float]
) -> None:
    method = gaps(TwoChannel(TwoChannelConfig(critic_score_weight=0.0)), gap_clip=clip)
    samples = method.assemble([four_tokens(reward)])
    assert samples[1].advantages.tolist() == pytest.approx(expected, abs=1e-12)
    assert samples[1].pg_weight.tolist() == [1.0] * 4
    assert not samples[1].distill_weight.any() and samples[1].teacher is not None
    assert samples[0].advantages.tolist() == pytest.approx([-reward / 2])


def told_at_ids(of: Group, student: list[float], teacher: list[float]) -> Group:
    """The group with both sides' probabilities at two ids of every token of its taught rollout."""
    told = of.targets["r3"]
    both = {"logprobs_TK": np.log([teacher] * 4), "student_logprobs_TK": np.log([student] * 4)}
    return replace(of, targets={"r3": replace(told, **both)})


def test_a_centred_gap_has_the_divergence_of_both_sides_added_before_the_clip() -> None:
    # S (.5, .25 and a tail of .25), T (.1, .6, .3): KL = .540271; gaps (.1, 1.1, -3, 0)
    of = told_at_ids(four_tokens(0.0), [0.5, 0.25], [0.1, 0.6])
    for clip, expected in [(5.0, [0.640271, 1.640271, -2.459729, 0.540271]), (1.0, [0.640271, 1.0, -1.0, 0.540271])]:
        method = gaps(TwoChannel(TwoChannelConfig()), centred_gap=True, support="student", gap_clip=clip)
        samples = method.assemble([of])
        assert samples[1].advantages.tolist() == pytest.approx(expected, abs=1e-6)
        assert not samples[1].distill_weight.any() and samples[1].pg_weight.tolist() == [1.0] * 4
    # half the weight of it, added to a reward's advantage of 1
    weighed = gaps(centred_gap=True, support="teacher", gap_clip=5.0, weight=0.5)
    moved = weighed.assemble([told_at_ids(four_tokens(2.0), [0.5, 0.25], [0.1, 0.6])])[1].advantages
    assert moved.tolist() == pytest.approx([1.320136, 1.820136, -0.229864, 1.270136], abs=1e-6)


def test_a_token_that_the_teacher_rules_out_at_an_id_has_no_centred_gap() -> None:
    with np.errstate(divide="ignore"):
        of = told_at_ids(four_tokens(2.0), [0.5, 0.25], [0.0, 0.6])
    samples = gaps(centred_gap=True, support="student").assemble([of])
    assert samples[1].advantages.tolist() == [1.0] * 4


def test_a_centred_gap_needs_what_the_policy_said() -> None:
    with pytest.raises(ConfigError, match=r"centred_gap = true came with targets that lack student_logprobs_TK; want"):
        gaps(centred_gap=True, support="student").assemble([four_tokens(0.0)])


def test_the_weight_is_the_gaps() -> None:
    # .9 x -.5 + .1 x gap: rewards 0 and -.9 centre to .45 and -.45
    samples = gaps(gap_clip=5.0, weight=0.1).assemble([four_tokens(-0.9)])
    assert samples[1].advantages.tolist() == pytest.approx([-0.44, -0.34, -0.75, -0.45], abs=1e-12)


def test_without_a_clip_that_is_said_it_is_one_nat() -> None:
    assert gaps().assemble([four_tokens(0.0)])[1].advantages.tolist() == pytest.approx([0.1, 1.0, -1.0, 0.0])


def test_a_token_without_a_teacher_keeps_its_advantage_and_no_missing_one_is_praise() -> None:
    blind = four_tokens(2.0, teacher=np.array([-0.10, math.nan, -math.inf, -2.0]), mask=(1, 1, 1, 0))
    assert gaps().assemble([blind])[1].advantages.tolist() == pytest.approx([1.1, 1.0, 1.0, 1.0])


def test_directives_alone_and_a_failed_verifier_train_the_taught_tokens_and_no_others() -> None:
    half = four_tokens(ERROR, mask=(1, 1, 0, 0))
    for method in (ALONE, BOTH):
        samples = gaps(method).assemble([half])
        assert samples[1].pg_weight.tolist() == [1.0, 1.0, 0.0, 0.0]
        assert samples[1].advantages.tolist() == pytest.approx([0.1, 1.0, 0.0, 0.0])
    assert not gaps(ALONE).assemble([half])[0].pg_weight.any()


def test_a_late_group_gets_its_gaps_and_not_its_rewards_again() -> None:
    samples = gaps().assemble([replace(four_tokens(2.0), late=True)])
    assert samples[1].advantages.tolist() == pytest.approx([0.1, 1.0, -1.0, 0.0])
    assert not samples[0].pg_weight.any()


def test_unknown_log_probs_of_the_sampler_leave_a_sample_untaught() -> None:
    of = four_tokens(0.0)
    unknown = replace(of, rollouts=(of.rollouts[0], replace(of.rollouts[1], behaviour_logprobs=())))
    (_, odd) = gaps().assemble([unknown])
    assert not (odd.pg_weight.any() or odd.advantages.any() or odd.distill_weight.any())


def test_a_correction_for_an_older_policy_is_left_to_the_losss_ratio() -> None:
    of = four_tokens(0.0)
    aged = replace(of, corrections={"r3": np.array([0.5, 2.0, 1.0, 0.0])})
    assert gaps().assemble([aged])[1].advantages.tolist() == pytest.approx([0.1, 1.0, -1.0, 0.0])


def test_without_directives_it_is_the_method_bit_for_bit() -> None:
    fed = [group([1, 0, 0.5], [refinement(0, 1.0)]), group([ERROR, 1], task="u"), group([0, 0], task="v")]
    mine, theirs = gaps().assemble(fed), BOTH.assemble(fed)
    assert_same_samples(mine, theirs)
    config = step_config()
    assert count_denominators(mine, config) == count_denominators(theirs, config)
    assert (gaps().name, gaps().needs) == (BOTH.name, BOTH.needs)
    assert gaps().assemble([]) == []


def test_directives_change_no_denominator_of_rollouts_that_are_trained_anyway() -> None:
    without, told = group([1, 0]), group([1, 0], taught=["r1"])
    for normalizer in ("constant", "tokens", "sequences"):
        config = step_config(loss={"normalizer": normalizer})
        mine = count_denominators(gaps().assemble([told]), config)
        assert mine == count_denominators(BOTH.assemble([without]), config)
        assert mine.distill == 0.0


def test_a_teacher_that_says_what_the_sampler_said_teaches_nothing() -> None:
    same = gaps().assemble([four_tokens(0.0, teacher=BEHAVIOUR)])
    assert not any(s.advantages.any() for s in same)
    policy = tiny_policy()
    rows = [sample(s.prompt_ids, s.completion_ids, pg=1.0) for s in same]
    assert policy.train_step.accumulate(rows) is None


def test_its_gradient_is_the_policy_gradient_of_the_gap() -> None:
    # on the policy's own samples every ratio is 1: - mean_t weight * gap_t * grad log p_t
    config = step_config(loss={"normalizer": "tokens"})
    policy = tiny_policy(config)
    prompt, completion = (4, 5), (7, 8, 9)
    (own,) = policy.logprobs([prompt], [completion])
    teacher = random_targets(np.random.default_rng(0), 3, V)

    of = group([0.0], taught=["r0"])
    rollout = replace(of.rollouts[0], completion_ids=completion, behaviour_logprobs=tuple(own.tolist()))
    told = replace(of, rollouts=(rollout,), targets={"r0": teacher})
    moved = gradient(policy, gaps(ALONE, weight=0.5, gap_clip=0.8).assemble([told]))
    gap = np.clip(teacher.sampled_logprobs_T - own, -0.8, 0.8)
    parameters = list(policy.model.parameters())
    logits = policy.model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, 1:-1]
    chosen = logits.log_softmax(dim=-1).gather(-1, torch.tensor(completion)[:, None])[:, 0]
    by_hand = torch.autograd.grad(-(0.5 * torch.as_tensor(gap) * chosen).mean(), parameters)
    assert torch.allclose(moved, torch.cat([part.flatten() for part in by_hand]), atol=1e-12)

"""Both channels on one batch, each in its own streams, and plain GRPO whenever the critic is silent."""

from __future__ import annotations

import pytest
import torch

from critique_rl.algorithms.critique_grpo import CritiqueGrpo
from critique_rl.algorithms.grpo import Grpo
from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.config.algorithm import PARTS, CritiqueGrpoConfig, GrpoConfig, Part, TwoChannelConfig
from critique_rl.types import CriticOutcome, Critique
from tests.algorithms.groups import ERROR, advantages, assert_same_samples, critique, group, refinement
from tests.tiny import gradient, step_config, tiny_policy, weights

BOTH = TwoChannel(TwoChannelConfig())
GRPO = Grpo(GrpoConfig())


def test_every_stream_gets_what_is_its_own() -> None:
    fed = group([0, 0, 0], [refinement(0, 1.0)], critiques=[critique("r1", 0.4)], taught=["r1"])
    samples = BOTH.assemble([fed])
    assert advantages(samples) == pytest.approx([-0.25] * 3 + [0.75])
    assert [bool(s.pg_weight.all()) for s in samples] == [True, True, True, False]
    assert [bool(s.distill_weight.any()) for s in samples] == [False, True, False, False]
    assert [bool(s.imitate_weight.any()) for s in samples] == [False, False, False, True]
    assert samples[1].teacher is fed.targets["r1"]
    assert samples[3].prompt_ids == samples[0].prompt_ids
    assert BOTH.needs == {"critique", "refinement", "teacher"}


def test_a_silent_critic_is_plain_grpo_samples_and_gradients_alike() -> None:
    rewards = [[1, 0, 0.5, 0], [0, 0, 0], [1.0], [ERROR, 1, 0]]
    failed = [critique(f"r{i}", 0.9 - 0.3 * i, outcome=CriticOutcome.TIMED_OUT) for i in range(3)]
    silent = [group(r, critiques=failed, task=f"t{i}") for i, r in enumerate(rewards)]
    expected = GRPO.assemble([group(r, task=f"t{i}") for i, r in enumerate(rewards)])
    assert_same_samples(BOTH.assemble(silent), expected)

    policies = tiny_policy(), tiny_policy(step_config(distillation={"weight": 0.3}, refinement={"weight": 0.3}))
    gradients = gradient(policies[0], expected), gradient(policies[1], BOTH.assemble(silent))
    assert gradients[0].norm() > 0 and torch.equal(gradients[0], gradients[1])
    reports = policies[0].step(expected), policies[1].step(BOTH.assemble(silent))
    assert reports[0] == reports[1] and reports[0].applied
    assert reports[0].distill_loss == reports[0].imitate_loss == 0.0
    assert torch.equal(weights(policies[0]), weights(policies[1]))


def test_the_critic_ranks_what_the_verifier_cannot() -> None:
    # .1 x (.8, .2, .5): mean .05 -> +.03, -.03, 0; r0's score is the mean of two criteria
    tied = group([0, 0, 0], critiques=[critique("r0", 0.6, 1.0), critique("r1", 0.2), critique("r2", 0.5)])
    assert advantages(BOTH.assemble([tied])) == pytest.approx([0.03, -0.03, 0.0])
    heavier = TwoChannel(TwoChannelConfig(critic_score_weight=0.5))
    assert advantages(heavier.assemble([tied])) == pytest.approx([0.15, -0.15, 0.0])
    off = TwoChannel(TwoChannelConfig(critic_score_weight=0.0))
    assert advantages(off.assemble([tied])) == [0.0] * 3
    # all solved: still no contrast, so style may decide
    solved = group([1, 1], critiques=[critique("r0", 0.9), critique("r1", 0.1)])
    assert advantages(BOTH.assemble([solved])) == pytest.approx([0.04, -0.04])


def test_the_critic_never_touches_what_the_verifier_ranked() -> None:
    scored = [critique("r0", 0.0), critique("r1", 1.0), critique("r2", 1.0)]
    assert_same_samples(
        BOTH.assemble([group([1, 0, 0], critiques=scored)]), GRPO.assemble([group([1, 0, 0], critiques=scored)])
    )


@pytest.mark.parametrize(
    "last",
    [
        [],
        [critique("r2")],
        *([critique("r2", 0.5, outcome=outcome)] for outcome in CriticOutcome if outcome is not CriticOutcome.OK),
    ],
)
def test_a_missing_score_is_missing_and_never_zero(last: list[Critique]) -> None:
    partly = group([0, 0, 0], critiques=[critique("r0", 0.9), critique("r1", 0.1), *last])
    assert advantages(BOTH.assemble([partly])) == [0.0] * 3


def test_a_failed_verifier_neither_breaks_a_tie_nor_needs_a_score() -> None:
    # its reward reads 0, but it is no evidence: the two solved ones are tied, and both are scored
    fed = group([1, ERROR, 1], critiques=[critique("r0", 0.9), critique("r2", 0.1)])
    samples = BOTH.assemble([fed])
    assert advantages(samples) == pytest.approx([0.04, 0.0, -0.04])
    assert not samples[1].pg_weight.any()
    nothing = group([ERROR, ERROR], critiques=[critique("r0", 0.9)])
    assert not any(s.pg_weight.any() for s in BOTH.assemble([nothing]))


def test_no_critic_outranks_a_verified_refinement() -> None:
    fed = group([0, 0], [refinement(0, 1.0)], critiques=[critique("r0", 1.0), critique("r1", 0.0)])
    first, second, refined = advantages(BOTH.assemble([fed]))
    # rewards .1, 0, 1: mean 1.1 / 3
    assert (first, second, refined) == pytest.approx((0.1 - 1.1 / 3, -1.1 / 3, 1 - 1.1 / 3))
    assert refined > first > second


# One part of a critique at a time

FED = group(
    [0, 0, 0],
    [refinement(0, 1.0)],
    critiques=[critique("r0", 0.8), critique("r1", 0.2), critique("r2", 0.5)],
    taught=["r1"],
)


def using(*use: Part, **options: float) -> TwoChannel:
    return TwoChannel(TwoChannelConfig.model_validate({"use": use, **options}))


def test_scores_alone_rank_and_neither_teach_nor_refine() -> None:
    method = using("scores")
    samples = method.assemble([FED])
    assert advantages(samples) == pytest.approx([0.03, -0.03, 0.0])
    assert not any(s.distill_weight.any() or s.teacher or s.imitate_weight.any() for s in samples)
    assert method.needs == {"critique"}


def test_targets_alone_are_grpo_with_a_teacher() -> None:
    method = using("targets")
    samples = method.assemble([FED])
    assert advantages(samples) == [0.0] * 3
    assert [bool(s.distill_weight.any()) for s in samples] == [False, True, False]
    assert method.needs == {"critique", "teacher"}
    # the verifier's rewards are learned from in any case
    assert advantages(method.assemble([group([1, 0], taught=["r1"])])) == [0.5, -0.5]


def test_refinements_alone_are_critique_grpo() -> None:
    method = using("refinements")
    assert_same_samples(method.assemble([FED]), CritiqueGrpo(CritiqueGrpoConfig()).assemble([FED]))
    assert method.needs == CritiqueGrpo.needs


def test_all_parts_are_the_default_in_any_order() -> None:
    assert TwoChannelConfig().use == PARTS
    assert_same_samples(using("refinements", "scores", "targets").assemble([FED]), BOTH.assemble([FED]))
    without_scores = using("targets", "refinements").assemble([FED])
    off = TwoChannel(TwoChannelConfig(critic_score_weight=0.0)).assemble([FED])
    assert_same_samples(without_scores, off)


@pytest.mark.parametrize("use", [("scores",), ("targets",), ("refinements",), ("scores", "targets")])
def test_any_part_alone_is_plain_grpo_without_a_critique(use: tuple[Part, ...]) -> None:
    silent = [group([1, 0, 0.5, 0]), group([0, 0], task="u"), group([ERROR, 1], task="v")]
    assert_same_samples(using(*use).assemble(silent), GRPO.assemble(silent))

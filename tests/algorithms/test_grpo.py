"""Group-relative advantages, stamped on every token of a rollout and on nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from critique_rl.algorithms.grpo import Grpo
from critique_rl.config.algorithm import GrpoConfig
from tests.algorithms.groups import BARE, ERROR, advantages, critique, group, refinement

GRPO, GRPO_STD = Grpo(GrpoConfig()), Grpo(GrpoConfig(scale="std"))


def test_centred_rewards_on_every_token() -> None:
    samples = GRPO.assemble([group([1, 0, 0, 1])])
    assert advantages(samples) == [0.5, -0.5, -0.5, 0.5]
    for i, sample in enumerate(samples):
        assert (sample.rollout_id, sample.task_id, sample.prompt_ids) == (f"r{i}", "t", BARE)
        assert sample.completion_ids == tuple(range(6, 7 + i))
        assert sample.loss_mask.tolist() == sample.pg_weight.tolist() == [1.0] * (i + 1)
        assert sample.behaviour_logprobs.tolist() == [-0.5 - 0.1 * t for t in range(i + 1)]
        assert not sample.distill_weight.any() and not sample.imitate_weight.any()
        assert sample.teacher is None and sample.guided_logprobs is None


def test_division_by_the_sample_deviation() -> None:
    # std of (1, 0, 0, 1) with ddof 1 is .577350 -> +-.866025
    assert advantages(GRPO_STD.assemble([group([1, 0, 0, 1])])) == pytest.approx(
        [0.866025, -0.866025, -0.866025, 0.866025], abs=2e-6
    )


@pytest.mark.parametrize("algorithm", [GRPO, GRPO_STD])
@pytest.mark.parametrize("rewards", [[1.0], [0.0], [0.0] * 4, [1.0] * 4, [0.3, 0.1 + 0.2]])
def test_a_group_without_contrast_teaches_exactly_nothing(algorithm: Grpo, rewards: list[float]) -> None:
    samples = algorithm.assemble([group(rewards)])
    assert advantages(samples) == [0.0] * len(rewards)
    assert all(s.pg_weight.all() for s in samples)  # yet its tokens are counted


@pytest.mark.parametrize("algorithm", [GRPO, GRPO_STD])
def test_a_failed_verifier_is_masked_and_not_in_the_baseline(algorithm: Grpo) -> None:
    samples = algorithm.assemble([group([1, ERROR, 0, ERROR])])
    without = advantages(algorithm.assemble([group([1, 0])]))
    assert advantages(samples) == [without[0], 0.0, without[1], 0.0]
    assert [bool(s.pg_weight.any()) for s in samples] == [True, False, True, False]


def test_a_group_that_no_verifier_could_score_trains_nothing() -> None:
    samples = GRPO.assemble([group([ERROR, ERROR]), group([ERROR])])
    assert len(samples) == 3
    assert not any(s.pg_weight.any() or s.advantages.any() for s in samples)


def test_groups_do_not_see_each_other() -> None:
    one, two = group([1, 0, 0]), group([1, 1, 0], task="u")
    together = GRPO.assemble([one, two])
    assert advantages(together) == advantages(GRPO.assemble([one])) + advantages(GRPO.assemble([two]))
    assert [s.task_id for s in together] == ["t"] * 3 + ["u"] * 3
    assert advantages(GRPO.assemble([two, one])) == advantages(together)[3:] + advantages(together)[:3]


def test_the_order_inside_a_group_does_not_matter() -> None:
    rewards = np.array([1.0, 0.0, 0.5, 0.0, 0.25])
    order = [3, 0, 4, 2, 1]
    shuffled = advantages(GRPO.assemble([group(rewards[order].tolist())]))
    assert shuffled == pytest.approx(np.array(advantages(GRPO.assemble([group(rewards.tolist())])))[order].tolist())


def test_feedback_in_the_group_is_not_seen() -> None:
    fed = group([0, 0], [refinement(0, 1.0)], critiques=[critique("r0", 0.9), critique("r1", 0.1)], taught=["r0"])
    samples = GRPO.assemble([fed])
    assert advantages(samples) == [0.0, 0.0]
    assert all(s.teacher is None and not s.imitate_weight.any() for s in samples)


def test_no_groups_are_no_samples() -> None:
    assert GRPO.assemble([]) == []
    assert GRPO.needs == frozenset()

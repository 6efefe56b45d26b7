"""Each reward against the mean of the others, and nothing else."""

from __future__ import annotations

import pytest

from critique_rl.algorithms.rloo import Rloo
from critique_rl.config.algorithm import RlooConfig
from tests.algorithms.groups import ERROR, advantages, critique, group, refinement

RLOO = Rloo(RlooConfig())


def test_each_reward_against_the_mean_of_the_others() -> None:
    # (1, 0, 0, 1): others of the first mean 1/3, of the second 2/3
    samples = RLOO.assemble([group([1, 0, 0, 1])])
    assert advantages(samples) == pytest.approx([2 / 3, -2 / 3, -2 / 3, 2 / 3])
    assert all(s.pg_weight.all() for s in samples)
    assert not any(s.distill_weight.any() or s.imitate_weight.any() for s in samples)


def test_a_failed_verifier_is_not_one_of_the_others() -> None:
    samples = RLOO.assemble([group([1, ERROR, 0])])
    assert advantages(samples) == [1.0, 0.0, -1.0]
    assert [bool(s.pg_weight.any()) for s in samples] == [True, False, True]


@pytest.mark.parametrize("rewards", [[1.0], [0.0] * 4, [1.0] * 4, [0.3, 0.1 + 0.2]])
def test_a_group_without_contrast_teaches_exactly_nothing(rewards: list[float]) -> None:
    samples = RLOO.assemble([group(rewards)])
    assert advantages(samples) == [0.0] * len(rewards)
    assert all(s.pg_weight.all() for s in samples)


def test_feedback_is_not_seen() -> None:
    fed = group([0, 1], [refinement(0, 1.0)], critiques=[critique("r0", 0.9)], taught=["r0"])
    assert advantages(RLOO.assemble([fed])) == [-1.0, 1.0]
    assert RLOO.assemble([]) == [] and RLOO.needs == frozenset() and RLOO.name == "rloo"

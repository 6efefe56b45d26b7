"""One channel a step: directives alone while there are any, then rewards alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from critique_rl.algorithms.sequential import Sequential
from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.config.algorithm import TwoChannelConfig
from critique_rl.config.distillation import DistillationConfig
from critique_rl.types import Group
from tests.algorithms.groups import ERROR, assert_same_samples, critique, group, refinement

BOTH = TwoChannel(TwoChannelConfig())
STALLED = group([0, 0], [refinement(0, 1.0)], critiques=[critique("r1", 0.4)], taught=["r1"])
EASY = group([1, 0], task="u")


def sequential(steps: int | None = None) -> Sequential:
    return Sequential(BOTH, DistillationConfig(join="sequential", sequential_steps=steps))


def at(of: Group, version: int) -> Group:
    return replace(of, rollouts=tuple(replace(r, policy_version=version) for r in of.rollouts))


def test_a_step_with_targets_learns_from_them_alone() -> None:
    samples = sequential().assemble([STALLED, EASY])
    assert not any(s.pg_weight.any() or s.imitate_weight.any() for s in samples)
    assert [bool(s.distill_weight.any()) for s in samples] == [False, True, False, False, False]


def test_a_step_without_targets_is_the_methods_bit_for_bit() -> None:
    fed = [group([1, 0, 0.5], [refinement(0, 1.0)]), group([ERROR, 1], task="w"), EASY]
    for steps in (None, 1, 50):
        assert_same_samples(sequential(steps).assemble(fed), BOTH.assemble(fed))
    masked = replace(STALLED, targets={"r1": replace(STALLED.targets["r1"], mask_T=np.zeros(2))})
    assert_same_samples(sequential().assemble([masked]), BOTH.assemble([masked]))  # none of them usable
    assert sequential().assemble([]) == []
    assert (sequential().name, sequential().needs) == (BOTH.name, BOTH.needs)


def test_after_its_steps_rewards_and_refinements_are_left() -> None:
    early = sequential(5).assemble([at(STALLED, 4), at(EASY, 4)])
    assert not any(s.pg_weight.any() for s in early) and any(s.distill_weight.any() for s in early)
    later = sequential(5).assemble([at(STALLED, 5), at(EASY, 5)])
    assert not any(s.distill_weight.any() for s in later)
    whole = BOTH.assemble([at(STALLED, 5), at(EASY, 5)])
    for mine, theirs in zip(later, whole, strict=True):
        assert np.array_equal(mine.pg_weight, theirs.pg_weight)
        assert np.array_equal(mine.advantages, theirs.advantages)
        assert np.array_equal(mine.imitate_weight, theirs.imitate_weight)

"""Verified refinements join the group: union advantages, the bare prompt, and plain GRPO where there is none."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import pytest
from pydantic import ValidationError

from critique_rl.algorithms.critique_grpo import CritiqueGrpo
from critique_rl.algorithms.grpo import Grpo
from critique_rl.config.algorithm import CritiqueGrpoConfig, GrpoConfig, RefinementConfig
from tests.algorithms.groups import BARE, ERROR, REFINE, advantages, assert_same_samples, critique, group, refinement

UNION = CritiqueGrpo(CritiqueGrpoConfig())
FIRST_TURN = CritiqueGrpo(CritiqueGrpoConfig(baseline="first_turn"))
FAILED = [0.0] * 7


@pytest.mark.parametrize(
    ("rewards", "refined", "expected"),
    [
        (FAILED, [1.0], [-0.125] * 7 + [0.875]),
        ([0.0] * 8, [1.0], [-1 / 9] * 8 + [8 / 9]),
        ([0.0] * 8, [1.0, 0.0], [-0.1] * 8 + [0.9, -0.1]),
        ([1, 1, 1, 0, 0, 0, 0], [1.0], [0.5] * 3 + [-0.5] * 4 + [0.5]),
        ([1, 1, 1, 0, 0, 0, 0], [0.0], [0.625] * 3 + [-0.375] * 4 + [-0.375]),
        ([0.0], [1.0], [-0.5, 0.5]),
    ],
)
def test_union_advantages(rewards: list[float], refined: list[float], expected: list[float]) -> None:
    made = [refinement(i, reward) for i, reward in enumerate(refined)]
    found = advantages(UNION.assemble([group(rewards, made)]))
    assert found == pytest.approx(expected)
    assert sum(found) == pytest.approx(0.0, abs=1e-12)


def test_union_advantages_over_the_sample_deviation() -> None:
    scaled = CritiqueGrpo(CritiqueGrpoConfig(scale="std"))
    found = advantages(scaled.assemble([group(FAILED, [refinement(0, 1.0)])]))
    assert found == pytest.approx([-0.353552] * 7 + [2.474867], abs=1e-6)


@pytest.mark.parametrize(("rewards", "expected"), [(FAILED, 1.0), ([1, 1, 1, 0, 0, 0, 0], 0.571429)])
def test_first_turn_baseline(rewards: list[float], expected: float) -> None:
    # the mean of the rollouts alone; all-fail leaves the rollouts at exactly 0
    found = advantages(FIRST_TURN.assemble([group(rewards, [refinement(0, 1.0)])]))
    assert found[-1] == pytest.approx(expected, abs=1e-6)
    assert found[:-1] == pytest.approx([r - sum(rewards) / 7 for r in rewards])


@pytest.mark.parametrize("scale", ["none", "std"])
@pytest.mark.parametrize("baseline", ["union", "first_turn"])
def test_an_all_wrong_union_is_exactly_nothing(
    scale: Literal["none", "std"], baseline: Literal["union", "first_turn"]
) -> None:
    algorithm = CritiqueGrpo(CritiqueGrpoConfig(scale=scale, baseline=baseline))
    assert advantages(algorithm.assemble([group(FAILED, [refinement(0, 0.0)])])) == [0.0] * 8


def test_a_refinement_is_trained_under_the_bare_prompt() -> None:
    *rollouts, sample = UNION.assemble([group(FAILED, [refinement(0, 1.0, length=4)])])
    assert sample.rollout_id == "refined-0"
    assert sample.prompt_ids == BARE and not set(sample.prompt_ids + sample.completion_ids) & set(REFINE[:3])
    assert sample.completion_ids == (10, 11, 12, 13)
    assert sample.imitate_weight.tolist() == sample.loss_mask.tolist() == [1.0] * 4
    assert not sample.pg_weight.any() and not sample.distill_weight.any()
    # which log-prob is which: the bare prompt's for awr, the refine context's for oc_is
    assert sample.behaviour_logprobs.tolist() == [-1.5 - 0.1 * t for t in range(4)]
    assert sample.guided_logprobs is not None
    assert sample.guided_logprobs.tolist() == [-0.5 - 0.1 * t for t in range(4)]
    assert not any(r.imitate_weight.any() for r in rollouts)
    assert all(r.pg_weight.all() for r in rollouts)


@pytest.mark.parametrize("scale", ["none", "std"])
@pytest.mark.parametrize("rewards", [[1, 0, 0.5, 0], FAILED, [1.0], [ERROR, 1, 0], [ERROR, ERROR]])
def test_without_refinements_it_is_grpo_bit_for_bit(scale: Literal["none", "std"], rewards: list[float | None]) -> None:
    expected = Grpo(GrpoConfig(scale=scale)).assemble([group(rewards)])
    rejected = [refinement(0, 1.0, rejected="truncated"), refinement(1, 0.0, rejected="not verified")]
    for baseline in ("union", "first_turn"):
        algorithm = CritiqueGrpo(CritiqueGrpoConfig(scale=scale, baseline=baseline))
        assert_same_samples(algorithm.assemble([group(rewards)]), expected)
        critiqued = group(rewards, rejected, critiques=[critique("r0", 0.9)], taught=["r0"])
        assert_same_samples(algorithm.assemble([critiqued]), expected)


def test_a_rejected_refinement_is_never_used() -> None:
    made = [refinement(0, 1.0, rejected="copies the critique"), refinement(1, 1.0), refinement(2, 1.0, rejected="x")]
    samples = UNION.assemble([group(FAILED, made)])
    assert [s.rollout_id for s in samples[7:]] == ["refined-1"]
    assert advantages(samples) == pytest.approx([-0.125] * 7 + [0.875])


def test_a_failed_verifier_is_outside_the_union() -> None:
    samples = UNION.assemble([group([0, ERROR, 0, 0], [refinement(0, 1.0)])])
    assert advantages(samples) == pytest.approx([-0.25, 0.0, -0.25, -0.25, 0.75])
    assert not samples[1].pg_weight.any()


def test_refinements_of_an_unscorable_group_have_no_baseline() -> None:
    for algorithm in (UNION, FIRST_TURN):
        samples = algorithm.assemble([group([ERROR, ERROR], [refinement(0, 1.0)])])
        assert advantages(samples) == [0.0] * 3
        assert not any(s.pg_weight.any() for s in samples)


@pytest.mark.parametrize("number", [0, -1])
def test_none_injected_is_not_a_way_to_say_all(number: int) -> None:
    with pytest.raises(ValidationError, match="max_injected"):
        RefinementConfig(max_injected=number)


def test_no_order_of_groups_or_rollouts_changes_an_advantage() -> None:
    # a batch that is balanced over ranks is shuffled: a group is told by its task, never by its place
    one = group([1, 0, 0, 0], [refinement(0, 1.0)], task="a")
    two = group([0, 0, 0], [refinement(1, 1.0)], task="b")
    moved = {(s.task_id, s.rollout_id, s.imitate_weight.any()): s.advantages[0] for s in UNION.assemble([one, two])}
    order = [2, 0, 3, 1]
    mixed = replace(one, rollouts=tuple(one.rollouts[i] for i in order), scores=tuple(one.scores[i] for i in order))
    again = UNION.assemble([two, mixed])
    assert {(s.task_id, s.rollout_id, s.imitate_weight.any()): s.advantages[0] for s in again} == moved


def test_what_the_loop_must_run() -> None:
    assert UNION.needs == {"critique", "refinement"}

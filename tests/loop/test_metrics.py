"""One step's scalars: hand numbers, and absent keys where nothing is known."""

from __future__ import annotations

from dataclasses import replace

import pytest

from critique_rl.algorithms.grpo import Grpo
from critique_rl.algorithms.weighted_reinforce import WeightedReinforce
from critique_rl.config.algorithm import GrpoConfig, WeightedReinforceConfig
from critique_rl.loop.criticize import CriticTally
from critique_rl.loop.metrics import algorithm_metrics, critic_metrics, group_metrics
from critique_rl.types import CriticOutcome, Refinement
from tests.loop.fakes import critique, group, task


def test_rewards_by_kind_without_what_the_verifier_could_not_judge() -> None:
    groups = [group(task("a", kind="easy"), "42", "!", "41"), group(task("b", kind="hard"), "41", "?")]
    values = group_metrics(groups)
    assert values["reward/easy"] == 0.5 and values["reward/hard"] == 0.0
    assert values["reward/mean"] == 0.25  # 1 of 4 judged rollouts
    assert values["policy/entropy_estimate"] == 1.0
    assert values["rollout/finished"] == 1.0


def test_a_reward_that_nobody_knows_is_absent_and_not_zero() -> None:
    values = group_metrics([group(task(kind="hard"), "!", "!")])
    assert not [key for key in values if key.startswith("reward/")]


def test_refinements_by_what_became_of_them() -> None:
    base = group(task(), "41", "40", "39")
    told = [
        Refinement(attempt_id=r.id, critique=critique(r.id), rollout=r, score=base.scores[0], rejected="not verified")
        for r in base.rollouts
    ]
    right = replace(told[0], score=group(task(), "42").scores[0], rejected="")
    values = group_metrics([replace(base, refinements=(right, replace(right, rejected="duplicate"), told[2]))])
    assert [values[f"refinement/{k}"] for k in ("sampled", "verified", "injected")] == [3.0, 2.0, 1.0]


def test_every_outcome_has_a_counter() -> None:
    total = CriticTally(outcomes={"ok": 5, "abstained": 2, "timed_out": 1, "malformed": 3}, cost_usd=0.5)
    values = critic_metrics(total)
    assert {key for key in values if key.startswith("critic/outcome/")} == {
        f"critic/outcome/{o}" for o in CriticOutcome
    }
    assert values["critic/outcome/malformed"] == 3.0 and values["critic/outcome/refused"] == 0.0
    assert (values["critic/calls"], values["critic/ok"], values["critic/failed"]) == (11.0, 5.0, 4.0)
    assert values["critic/cost_usd"] == 0.5


@pytest.mark.parametrize("total", [CriticTally(), CriticTally(outcomes={"ok": 1}, cost_usd=None)])
def test_a_cost_that_is_not_known_is_absent(total: CriticTally) -> None:
    assert "critic/cost_usd" not in critic_metrics(total)


def test_a_method_that_counts_is_heard() -> None:
    nsr = WeightedReinforce(WeightedReinforceConfig(preset="nsr"))
    nsr.assemble([group(task(), "42", "41", "!")])
    assert algorithm_metrics(nsr) == {"reinforce/kept_share": 0.5, "reinforce/right_share": 0.5}
    assert algorithm_metrics(Grpo(GrpoConfig())) == {}

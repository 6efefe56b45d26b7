"""Copies of one prompt in a batch share a baseline."""

from __future__ import annotations

from dataclasses import replace

import pytest

from critique_rl.algorithms.grpo import Grpo
from critique_rl.config.algorithm import GrpoConfig
from critique_rl.config.run import RolloutConfig
from critique_rl.loop.collect import collect
from critique_rl.loop.copies import prompt_of, sharing_baselines
from critique_rl.types import Group
from tests.loop.fakes import CharPolicy, ExactReward, critique, engine, group, task


def moved(groups: list[Group]) -> list[float]:
    return [float(s.advantages[0]) for s in Grpo(GrpoConfig()).assemble(groups)]


@pytest.mark.parametrize("names", [("a", "a"), ("a", "b")])
def test_spec_9_9_two_copies_of_a_prompt_share_a_baseline(names: tuple[str, str]) -> None:
    """Under one id or two: four rollouts are one group of four, with ids that tell them apart."""
    tasks = [task(name, answer="42") for name in names]
    found = collect(
        tasks,
        policy=CharPolicy(),
        engine=engine("42", "8", "9", "9"),
        reward=ExactReward(),
        config=RolloutConfig(group_size=2, max_tokens=4),
        step=0,
        seed=0,
    )
    assert moved(found) == [0.5, -0.5, 0.0, 0.0]  # apart, the second copy would learn nothing
    joined = sharing_baselines(found)
    assert len(joined) == 1 and moved(joined) == [0.75, -0.25, -0.25, -0.25]
    assert len({rollout.id for rollout in joined[0].rollouts}) == 4
    assert [rollout.task_id for rollout in joined[0].rollouts] == [names[0], names[0], names[1], names[1]]


def test_a_group_of_one_is_not_measured_against_nothing() -> None:
    copies = [group(task("a"), "42"), group(task("b"), "8")]
    assert moved(copies) == [0.0, 0.0] and moved(sharing_baselines(copies)) == [0.5, -0.5]


def test_without_copies_the_very_objects_come_back() -> None:
    groups = [group(task("a"), "42"), group(task("b", question="1+1="), "2")]
    joined = sharing_baselines(groups)
    assert all(one is other for one, other in zip(joined, groups, strict=True))


def test_what_is_joined() -> None:
    one, other = group(task("a"), "8", plateaued=False), group(task("b"), "9")
    one = replace(one, critiques={"a/0": critique("a/0")}, confidence_tokens={"a/0": 1})
    other = replace(other, critiques={"b/0": critique("b/0")}, rung="critique")
    (joined,) = sharing_baselines([one, other])
    assert joined.task is one.task and joined.plateaued and joined.rung == "critique"
    assert joined.critiques.keys() == {"a/0", "b/0"} and joined.confidence_tokens == {"a/0": 1}
    assert joined.scores == one.scores + other.scores


def test_what_is_no_copy() -> None:
    of = task("a")
    for other in (
        replace(of, answer="7"),
        replace(of, verifier="math"),
        replace(of, metadata={"tests": "x"}),
        task("a", question="1+1="),
    ):
        assert prompt_of(other) != prompt_of(of)
        assert len(sharing_baselines([group(of, "42"), group(other, "8")])) == 2
    late = replace(group(of, "42"), late=True)
    assert len(sharing_baselines([late, group(of, "8")])) == 2
    older = group(of, "42")
    older = replace(older, rollouts=tuple(replace(r, policy_version=5) for r in older.rollouts))
    assert len(sharing_baselines([older, group(of, "8")])) == 2
    assert sharing_baselines([]) == []

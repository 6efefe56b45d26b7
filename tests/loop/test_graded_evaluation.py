"""Held-out tasks whose rewards lie between wrong and right: the mean reward beside success."""

from __future__ import annotations

import pytest

from critique_rl.loop.evaluate import REWARD, Rate, figures
from critique_rl.loop.forgetting import success_by_part
from critique_rl.stats.intervals import mean_interval
from critique_rl.types import Score, Task
from tests.loop.fakes import engine, task
from tests.loop.test_evaluate import measured


class Tenths:
    """The text is the reward, in tenths."""

    def score(self, task: Task, text: str) -> Score:
        return Score(reward=int(text) / 10)


def test_the_mean_reward_over_tasks_and_its_interval() -> None:
    tasks = [task("a", kind="write"), task("b", kind="write"), task("c", kind="sort"), task("d", kind="sort")]
    found = measured(tasks, engine("10", "5", "4", "8", "10", "10", "0", "10"), reward=Tenths(), samples_per_task=2)
    # Task means: write .75 and .6; sort 1 and .5. Success counts only what is worth 1.
    low, high = mean_interval([0.75, 0.6])
    write = found["write"].rates[REWARD]
    assert (write.value, write.low, write.high) == pytest.approx((0.675, max(0.0, low), min(1.0, high)))
    assert found["write"].success == 0.25
    assert found["sort"].rates[REWARD].value == pytest.approx(found["sort"].success) == pytest.approx(0.75)
    assert figures(found)["eval/write/reward"] == pytest.approx(0.675)
    parts = success_by_part(found)
    assert parts["write"][0] == pytest.approx(0.675)
    assert parts["sort"][0] == pytest.approx(0.75)


def test_one_task_bounds_nothing() -> None:
    assert measured([task("a")], engine("5"), reward=Tenths())["all"].rates[REWARD] == Rate(value=0.5, low=0, high=1)


def test_right_and_wrong_alone_have_no_mean_reward() -> None:
    assert REWARD not in measured([task("a"), task("b")], engine("10", "0"), reward=Tenths())["all"].rates


def test_rewards_below_nothing_have_none_either() -> None:
    assert REWARD not in measured([task("a"), task("b")], engine("5", "-10"), reward=Tenths())["all"].rates

"""The search world's task source: pools, batches, and worked episodes that are right, short and different."""

from __future__ import annotations

import json

import pytest

from critique_rl.build_tasks import build_environment, build_reward, lab_search_tool
from critique_rl.config.run import RunConfig
from critique_rl.config.search import LabSearchTasksConfig
from critique_rl.errors import ConfigError
from critique_rl.lab.search.tasks import SearchLabTasks
from critique_rl.types import Turn

FIND = lab_search_tool()
TASKS = SearchLabTasks(find=FIND)


def test_both_questions_about_every_person() -> None:
    assert [t.kind for t in TASKS.held_out()] == ["town"] * 120 + ["land"] * 120
    assert TASKS.training() == TASKS.pool
    assert len({t.id for t in (*TASKS.pool, *TASKS.held_out())}) == 400
    assert not any(t.metadata for t in TASKS.held_out())


def test_a_batch_is_a_function_of_seed_and_step_and_repeats_no_task() -> None:
    assert TASKS.batch(4, 12, seed=1) == TASKS.batch(4, 12, seed=1)
    epoch = [t.id for step in range(20) for t in TASKS.batch(step, 8, seed=1)]
    assert len(set(epoch)) == 160
    assert [t.id for t in TASKS.batch(20, 8, seed=1)] != epoch[:8]
    with pytest.raises(ConfigError, match="raise train_people"):
        TASKS.batch(0, 161, seed=1)


def test_worked_episodes_are_what_the_tool_says_right_and_within_the_turns() -> None:
    config = RunConfig(tasks=LabSearchTasksConfig(kind="lab_search"))
    environment, reward = build_environment(config.tasks), build_reward(config)
    assert environment is not None
    for task in TASKS.pool[::7]:
        for episode in json.loads(task.metadata["episodes"]):
            assert len(episode) <= 3
            turns: list[Turn] = []
            for said in episode:
                turns = [*turns, Turn(start=0, end=1, text=said["text"])]
                turns[-1] = environment.answer(task, turns)
                assert turns[-1].observation == said["observation"]
            assert turns[-1].action == "answer"
            assert reward.score(task, turns[-1].text).correct


def test_worked_episodes_begin_in_different_ways() -> None:
    towns = [t for t in TASKS.pool if t.kind == "town"]
    for task in towns:
        assert len({episode[0]["text"] for episode in json.loads(task.metadata["episodes"])}) == 3
    firsts = [
        task.question.split().index(episode[0]["text"].split()[1]) - 2
        for task in towns
        for episode in json.loads(task.metadata["episodes"])[:3]
    ]
    assert [firsts.count(n) for n in range(3)] == [80, 80, 80]

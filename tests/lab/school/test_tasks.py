from __future__ import annotations

import json
from collections import Counter

import pytest

from critique_rl.errors import ConfigError
from critique_rl.lab.school.chains import Chain
from critique_rl.lab.school.problems import KINDS, Sum
from critique_rl.lab.school.splits import split_of
from critique_rl.lab.school.tasks import SchoolTasks, school_task


def test_the_task_of_a_chain() -> None:
    task = school_task(Chain.parse("c 3-4-2="))
    assert (task.id, task.question, task.answer) == ("lab_school/c 3-4-2", "c 3-4-2=", "7")
    assert (task.kind, task.verifier) == ("chain", "school")
    assert task.metadata["solution"] == "step by step: 3-4=9; 9-2=7; so 7"
    assert "".join(json.loads(task.metadata["steps"])) == task.metadata["solution"]
    assert task.metadata["question"] == task.question


def test_other_kinds_have_no_solution() -> None:
    task = school_task(Sum(left=27, right=8), verifier="mine")
    assert task.metadata == {"school": "sum", "question": "s 27+8="}
    assert task.verifier == "mine"


def test_a_batch_holds_the_kinds_by_their_shares() -> None:
    tasks = SchoolTasks(kinds=("chain", "sum", "write"), shares={"chain": 2.0}, train=30, held_out=3)
    batch = tasks.batch(0, 16, seed=1)
    assert Counter(t.kind for t in batch) == {"chain": 8, "sum": 4, "write": 4}
    assert [t.kind for t in batch] == ["chain"] * 8 + ["sum"] * 4 + ["write"] * 4
    # five kinds alike in 16: the remainder goes to the first
    assert Counter(t.kind for t in SchoolTasks().batch(3, 16, seed=1)) == {
        "chain": 4,
        "sum": 3,
        "sort": 3,
        "recall": 3,
        "write": 3,
    }


def test_an_epoch_asks_every_problem_once_and_only_those_of_the_train_split() -> None:
    tasks = SchoolTasks(kinds=("sort",), train=24, held_out=1)
    asked = [t.id for step in range(3) for t in tasks.batch(step, 8, seed=5)]
    assert sorted(asked) == sorted(t.id for t in tasks.training())
    assert len(set(asked)) == 24
    assert {split_of(t.question) for t in tasks.training()} == {"train"}
    assert [t.id for t in tasks.batch(0, 8, seed=5)] == asked[:8] != [t.id for t in tasks.batch(0, 8, seed=6)]


def test_held_out_kinds_are_chosen_apart() -> None:
    tasks = SchoolTasks(kinds=("chain",), held_out_kinds=("write", "chain"), chain_length=3, train=5, held_out=60)
    held_out = tasks.held_out()
    # "write" has 55 held-out problems and no more
    assert Counter(t.kind for t in held_out) == {"write": 55, "chain": 60}
    assert {split_of(t.question) for t in held_out} == {"held_out"}
    assert all(len(Chain.parse(t.question).signs) == 3 for t in held_out if t.kind == "chain")
    assert Counter(t.kind for t in SchoolTasks(kinds=("sum",), held_out=2).held_out()) == dict.fromkeys(KINDS, 2)


def test_what_cannot_be_asked_is_refused() -> None:
    with pytest.raises(ConfigError, match="3 tasks of the kind 'sum' a step were asked of a pool of 2"):
        SchoolTasks(kinds=("sum",), train=2).batch(0, 3, seed=0)
    with pytest.raises(ConfigError, match="with 4 prompts a step no task of the kind 'write' would be asked"):
        SchoolTasks().batch(0, 4, seed=0)
    with pytest.raises(ConfigError, match="wanted a weight above 0"):
        SchoolTasks(kinds=("sum", "sort"), shares={"sum": 0.0})

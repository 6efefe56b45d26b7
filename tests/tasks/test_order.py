"""Epoch permutations and the held-out split."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.errors import ConfigError, DataError
from critique_rl.tasks.order import epoch_batch, split_by_prompt
from critique_rl.types import Message, Task


def make_tasks(count: int) -> list[Task]:
    return [make_task(f"t{i}", f"question {i}") for i in range(count)]


def make_task(name: str, question: str) -> Task:
    return Task(id=name, messages=(Message(role="user", content=question),), answer="1", verifier="exact")


def test_an_epoch_visits_every_task_once_when_the_size_divides_the_number() -> None:
    tasks = make_tasks(6)
    first_epoch = [task.id for step in range(3) for task in epoch_batch(tasks, step, 2, seed=1)]
    second_epoch = [task.id for step in range(3, 6) for task in epoch_batch(tasks, step, 2, seed=1)]
    assert sorted(first_epoch) == sorted(second_epoch) == [task.id for task in tasks]
    assert first_epoch != second_epoch


def test_left_over_tasks_differ_from_epoch_to_epoch() -> None:
    tasks = make_tasks(5)  # 5 // 2 = 2 steps an epoch, 1 task left over
    seen = {task.id for step in range(40) for task in epoch_batch(tasks, step, 2, seed=0)}
    assert seen == {task.id for task in tasks}


@given(count=st.integers(1, 20), step=st.integers(0, 1000), seed=st.integers(0, 2**32), size=st.integers(1, 20))
def test_a_batch_is_a_pure_function_of_its_arguments_and_has_no_repeats(
    count: int, step: int, seed: int, size: int
) -> None:
    tasks = make_tasks(count)
    if size > count:
        with pytest.raises(ConfigError, match=f"wants {size} different tasks but there are {count}"):
            epoch_batch(tasks, step, size, seed=seed)
        return
    batch = epoch_batch(tasks, step, size, seed=seed)
    assert batch == epoch_batch(tasks, step, size, seed=seed)
    assert len({task.id for task in batch}) == size


def test_the_seed_changes_the_order() -> None:
    tasks = make_tasks(50)
    assert epoch_batch(tasks, 0, 50, seed=0) != epoch_batch(tasks, 0, 50, seed=1)


@pytest.mark.parametrize(("step", "size"), [(-1, 1), (0, 0)])
def test_impossible_steps_and_sizes(step: int, size: int) -> None:
    with pytest.raises(ValueError, match="step must be >= 0"):
        epoch_batch(make_tasks(3), step, size, seed=0)


@pytest.mark.parametrize(("fraction", "held_out"), [(0.0, 0), (0.01, 1), (0.25, 5), (0.5, 10)])
def test_the_split_has_the_asked_size(fraction: float, held_out: int) -> None:
    split = split_by_prompt(make_tasks(20), fraction)
    assert len(split.held_out) == held_out
    assert len(split.train) == 20 - held_out
    assert {t.id for t in split.train}.isdisjoint(t.id for t in split.held_out)


def test_the_split_does_not_depend_on_the_order_of_the_rows() -> None:
    tasks = make_tasks(20)
    forward, backward = split_by_prompt(tasks, 0.3), split_by_prompt(tasks[::-1], 0.3)
    assert set(t.id for t in forward.held_out) == set(t.id for t in backward.held_out)


def test_equal_prompts_are_on_the_same_side() -> None:
    twins = [make_task(f"{copy}{i}", f"question {i}") for i in range(10) for copy in "ab"]
    split = split_by_prompt(twins, 0.5)
    assert {t.messages for t in split.train}.isdisjoint(t.messages for t in split.held_out)
    assert len(split.held_out) == 10  # 5 of 10 different prompts, twice each


def test_a_split_that_leaves_nothing_to_train_on() -> None:
    with pytest.raises(DataError, match="leaves none to train on"):
        split_by_prompt(make_tasks(1), 0.5)

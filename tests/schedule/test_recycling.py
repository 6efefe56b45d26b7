"""Which prompts wait, when they return, and when they leave."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.errors import CheckpointError
from critique_rl.schedule.recycling import RecyclePool
from critique_rl.types import Message, Task


def task(name: str) -> Task:
    return Task(
        id=name, messages=(Message(role="user", content=name),), answer="1", verifier="exact", metadata={"a": "b"}
    )


def pool(*names: str, step: int = 0, capacity: int = 9, wait_steps: int = 1, max_age_steps: int = 20) -> RecyclePool:
    made = RecyclePool(capacity=capacity, wait_steps=wait_steps, max_age_steps=max_age_steps)
    for name in names:
        made.put(task(name), step=step)
    return made


def waiting(of: RecyclePool, step: int, *apart_from: str) -> list[str]:
    return [found.id for found in of.waiting(step=step, apart_from=apart_from)]


def test_a_prompt_waits_before_it_returns() -> None:
    one = pool("a", step=4, wait_steps=3)
    assert waiting(one, 6) == [] and waiting(one, 7) == ["a"] and waiting(one, 7, "a") == []
    one.put(task("a"), step=7)
    assert waiting(one, 9) == [] and waiting(one, 10) == ["a"]
    assert one.waiting(step=10, apart_from=())[0] == task("a")


def test_longest_not_sampled_first() -> None:
    one = pool("a", "b")
    one.put(task("c"), step=1)
    one.put(task("a"), step=2)
    assert waiting(one, 9) == ["b", "c", "a"]
    one.forget("b")
    one.forget("nobody")
    assert waiting(one, 9) == ["c", "a"] and len(one) == 2


def test_the_oldest_leaves_where_there_is_no_room_and_after_its_time() -> None:
    one = pool("a", capacity=2, max_age_steps=5)
    one.put(task("b"), step=1)
    one.put(task("a"), step=2)  # still in since step 0
    one.put(task("c"), step=3)
    assert waiting(one, 4) == ["b", "c"]
    assert waiting(one, 6) == ["b", "c"] and waiting(one, 7) == ["c"]
    one.put(task("b"), step=7)  # without contrast once more, after its time
    assert len(one) == 1


def test_a_step_is_taken_back() -> None:
    one = pool("a", "b")
    one.mark()
    one.forget("a")
    one.put(task("c"), step=5)
    one.rollback()
    assert waiting(one, 9) == ["a", "b"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=20))
def test_a_checkpoint_holds_all_of_it(visits: list[tuple[str, bool]]) -> None:
    one, other = pool(capacity=3, max_age_steps=6), pool(capacity=3, max_age_steps=6)
    for step, (name, flat) in enumerate(visits):
        other.load_state_dict(json.loads(json.dumps(one.state_dict())))
        for each in (one, other):
            if flat:
                each.put(task(name), step=step)
            else:
                each.forget(name)
        assert one.state_dict() == other.state_dict() and len(one) <= 3
        assert one.waiting(step=step + 1, apart_from="") == other.waiting(step=step + 1, apart_from="")


def test_bad_numbers_and_checkpoints() -> None:
    for bad in ({"capacity": 0}, {"wait_steps": 0}, {"max_age_steps": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            pool(**bad)  # pyright: ignore[reportArgumentType]
    with pytest.raises(CheckpointError, match="recycled prompts in the checkpoint"):
        pool().load_state_dict({"prompts": {"a": 3}})

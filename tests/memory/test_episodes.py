"""What is remembered of attempts until the bank evolves."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from critique_rl.memory.episodes import PER_KIND, Episode, EpisodePool, episode_from_json, round_robin
from critique_rl.types import Message, Score, ScoreStatus, Task

TASK = Task(id="t", messages=(Message(role="user", content="q"),), answer="1", verifier="exact", kind="hard")
WRONG = Episode(id="0/t/0", task=TASK, attempt="2", correct=False, reward=0.0)
RIGHT, LOST = Score(reward=1.0), Score(reward=0.0)


def test_success_of_a_kind_leaves_out_what_nobody_judged() -> None:
    pool = EpisodePool()
    assert pool.success("hard") is None
    pool.count(TASK, [RIGHT, LOST, LOST, Score(reward=0.0, status=ScoreStatus.ERROR)])
    pool.count(TASK, [LOST])
    assert pool.success("hard") == 0.25


def test_only_low_kinds_give_lessons() -> None:
    pool = EpisodePool()
    pool.add(WRONG)
    pool.count(TASK, [RIGHT, LOST])
    assert pool.failures(below=0.5, budget=9) == []
    assert pool.failures(below=0.51, budget=9) == [WRONG]


def test_equal_attempts_are_kept_once_and_the_criticised_one_stays() -> None:
    pool = EpisodePool()
    said = replace(WRONG, id="1/t/0", said=("carry",))
    for one in (WRONG, said, replace(WRONG, id="2/t/0")):
        pool.add(one)
    assert pool.failures(below=1.0, budget=9) == [said]


def test_the_oldest_leaves() -> None:
    pool = EpisodePool()
    for n in range(PER_KIND + 3):
        pool.add(replace(WRONG, attempt=str(n)))
    kept = pool.failures(below=1.0, budget=1000)
    assert [e.attempt for e in kept] == [str(n) for n in range(3, PER_KIND + 3)]


def test_successes_newest_first() -> None:
    pool = EpisodePool()
    for n in range(3):
        pool.add(replace(WRONG, attempt=str(n), correct=True, reward=1.0))
    assert [e.attempt for e in pool.successes(budget=2)] == ["2", "1"]
    pool.clear()
    assert pool.successes(budget=2) == []


def test_a_failed_attempt_with_a_full_reward_is_no_success_to_a_writer() -> None:
    assert not replace(WRONG, reward=1.5).score.correct
    assert replace(WRONG, correct=True, reward=0.2).score.correct


def test_it_survives_json() -> None:
    pool = EpisodePool()
    kept = replace(WRONG, said=("a", "b"), shown=("dyn_001",), detail="d", split="held_out", reward=-0.25)
    for one in (kept, replace(WRONG, correct=True, attempt="1")):
        pool.add(one)
    pool.count(TASK, [RIGHT])
    state = json.loads(json.dumps(pool.state_dict()))
    other = EpisodePool()
    other.load_state_dict(state)
    assert other.state_dict() == pool.state_dict()
    assert episode_from_json(json.loads(json.dumps(kept.to_json()))) == kept


@given(st.lists(st.lists(st.integers(), max_size=5), max_size=5), st.integers(0, 12))
def test_round_robin_by_a_plain_loop(items: list[list[int]], budget: int) -> None:
    by_kind = {str(n): of_kind for n, of_kind in enumerate(items)}
    queues, plain = [list(of_kind) for of_kind in items], list[int]()
    while any(queues) and len(plain) < budget:
        for queue in queues:
            if queue and len(plain) < budget:
                plain.append(queue.pop(0))
    assert round_robin(by_kind, budget) == plain

from __future__ import annotations

import pytest

from critique_rl.errors import ConfigError
from critique_rl.lab.problems import Problem
from critique_rl.lab.tasks import LabTasks, task_of


def test_a_task_asks_one_sum() -> None:
    task = task_of(Problem.parse("27+38="))
    assert (task.id, task.question, task.answer, task.verifier, task.kind) == (
        "lab/27+38",
        "27+38=",
        "560",
        "exact",
        "hard",
    )
    assert len(task.messages) == 1


def test_a_batch_depends_on_step_and_seed_alone() -> None:
    source, again = LabTasks(), LabTasks()
    source.batch(3, 12, seed=5)
    assert source.batch(7, 12, seed=5) == again.batch(7, 12, seed=5)
    assert source.batch(7, 12, seed=5) != again.batch(7, 12, seed=6)
    assert source.batch(7, 12, seed=5) != again.batch(8, 12, seed=5)


@pytest.mark.parametrize(("share", "hard"), [(0.0, 0), (0.5, 6), (0.3, 4), (1.0, 12)])  # 0.3 * 12 = 3.6
def test_the_hard_share_is_kept_in_every_batch(share: float, hard: int) -> None:
    source = LabTasks(hard_share=share)
    for step in range(40):
        batch = source.batch(step, 12, seed=0)
        assert [t.kind for t in batch] == ["hard"] * hard + ["easy"] * (12 - hard)
        assert len({t.id for t in batch}) == 12


def test_an_epoch_visits_every_problem_once_and_the_next_in_another_order() -> None:
    source = LabTasks(train_easy=8, train_hard=8)
    epochs = [[t.id for step in range(e * 4, e * 4 + 4) for t in source.batch(step, 4, seed=1)] for e in range(2)]
    assert [len(set(ids)) for ids in epochs] == [16, 16]
    assert set(epochs[0]) == set(epochs[1])
    assert epochs[0] != epochs[1]


def test_held_out_sums_are_never_trained_on_in_either_order() -> None:
    source = LabTasks()
    held_out = {frozenset(t.question.rstrip("=").split("+")) for t in source.held_out()}
    pool = {frozenset(t.question.rstrip("=").split("+")) for t in (*source.easy, *source.hard)}
    assert [t.kind for t in source.held_out()] == ["easy"] * 200 + ["hard"] * 200
    assert len(held_out) == 400
    assert len(pool) == 224
    assert not held_out & pool


def test_a_batch_larger_than_the_pool_says_so() -> None:
    with pytest.raises(ConfigError, match="6 hard tasks a step were asked of a pool of 4"):
        LabTasks(train_hard=4).batch(0, 12, seed=0)
    with pytest.raises(ConfigError, match=r"hard_share: came 1\.5"):
        LabTasks(hard_share=1.5)

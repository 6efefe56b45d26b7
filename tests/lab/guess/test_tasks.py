from __future__ import annotations

from collections import Counter

import pytest

from critique_rl.errors import ConfigError
from critique_rl.lab.guess.problems import GuessProblem
from critique_rl.lab.guess.tasks import GuessTasks, guess_task


def test_a_task_asks_one_sum_and_knows_the_drawn_one() -> None:
    problem = GuessProblem.parse("7+2[026]=")
    task = guess_task(problem)
    assert (task.id, task.question, task.kind, task.verifier) == ("lab_guess/7+2[026]", "7+2[026]=", "n3", "guess")
    assert task.answer == problem.answer == "27"  # 7 + 20
    assert guess_task(problem, verifier="honest").verifier == "honest"


def test_the_pools_have_the_sizes_that_were_asked_for() -> None:
    source = GuessTasks(train_known=5, train_guessed=7, held_out=3, verifier="v")
    assert Counter(t.kind for t in source.known) == {"n1": 5}
    assert Counter(t.kind for t in source.guessed) == {"n2": 7, "n3": 7, "n4": 7, "n5": 7}
    assert [t.kind for t in source.held_out()] == [f"n{n}" for n in range(1, 6) for _ in range(3)]
    assert {t.verifier for t in (*source.known, *source.guessed, *source.held_out())} == {"v"}


def test_training_and_evaluation_share_no_problem() -> None:
    source = GuessTasks()
    pool = {t.question for t in (*source.known, *source.guessed)}
    kept = {t.question for t in source.held_out()}
    assert (len(pool), len(kept)) == (128 + 4 * 600, 500)
    assert not pool & kept


def test_a_batch_depends_on_step_and_seed_alone() -> None:
    source, again = GuessTasks(), GuessTasks()
    source.batch(3, 10, seed=5)
    assert source.batch(7, 10, seed=5) == again.batch(7, 10, seed=5)
    assert source.batch(7, 10, seed=5) != again.batch(7, 10, seed=6)
    assert source.batch(7, 10, seed=5) != again.batch(8, 10, seed=5)


@pytest.mark.parametrize(("share", "known"), [(0.0, 0), (0.2, 2), (0.25, 3), (1.0, 10)])  # 0.25 * 10 = 2.5, up
def test_the_known_share_is_kept_in_every_batch(share: float, known: int) -> None:
    source = GuessTasks(known_share=share)
    for step in range(30):
        batch = source.batch(step, 10, seed=0)
        assert [t.kind == "n1" for t in batch] == [True] * known + [False] * (10 - known)
        assert len({t.id for t in batch}) == 10


def test_an_epoch_visits_every_problem_once_and_the_next_in_another_order() -> None:
    source = GuessTasks(train_guessed=3, known_share=0.0)
    epochs = [[t.id for step in range(e * 4, e * 4 + 4) for t in source.batch(step, 3, seed=1)] for e in range(2)]
    assert [len(set(ids)) for ids in epochs] == [12, 12]
    assert set(epochs[0]) == set(epochs[1]) and epochs[0] != epochs[1]


def test_what_cannot_be_had_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"known_share: came -0\.1"):
        GuessTasks(known_share=-0.1)
    with pytest.raises(ConfigError, match="train_known: 2 tasks a step were asked of a pool of 1; raise train_known"):
        GuessTasks(train_known=1).batch(0, 10, seed=0)
    with pytest.raises(ConfigError, match="700 problems with 2 candidates were asked of the split 'train'"):
        GuessTasks(train_guessed=700)

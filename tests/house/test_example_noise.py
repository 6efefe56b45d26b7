"""The noise of examples/lab_noise.py is a coin: fair, the same at each look, and blind to what is right."""

from __future__ import annotations

from critique_rl.lab.guess.tasks import GuessTasks
from critique_rl.types import Task
from examples.lab_noise import coin

TASKS = GuessTasks(held_out=50).held_out()
TEXTS = [f"{total} c{digit}" for total in range(20, 40) for digit in range(10)]


def right(task: Task) -> list[float]:
    return [coin(task, f"{task.answer} c{digit}") for digit in range(10)]


def test_a_coin_is_fair_and_never_changes_its_mind() -> None:
    # 250 tasks x 200 texts: the mean of 50,000 coins lies within 5 standard errors, 5 * 0.5 / sqrt(50,000) = 0.011
    thrown = [coin(task, text) for task in TASKS for text in TEXTS]
    assert set(thrown) == {0.0, 1.0}
    assert abs(sum(thrown) / len(thrown) - 0.5) < 0.011
    assert thrown[:200] == [coin(TASKS[0], text) for text in TEXTS]


def test_a_right_answer_is_no_likelier_to_win() -> None:
    # 2,500 coins: 5 * 0.5 / sqrt(2,500) = 0.05
    thrown = [value for task in TASKS for value in right(task)]
    assert abs(sum(thrown) / len(thrown) - 0.5) < 0.05


def test_task_and_text_both_count() -> None:
    assert right(TASKS[0]) != right(TASKS[1])
    assert len({coin(TASKS[0], text) for text in TEXTS[:20]}) == 2

"""The lab's task source: a fixed pool of training problems, visited again and again, and held-out ones.

Owns: which problems a step asks. The pool does not depend on the seed; the order does.
Must not know: models, critics, rewards beyond the verifier's name.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from critique_rl.errors import ConfigError
from critique_rl.lab.problems import Problem, select_problems
from critique_rl.types import Message, Task


def task_of(problem: Problem) -> Task:
    """The task that asks `problem`: one user turn "27+38=", the answer "560", verified exactly."""
    return Task(
        id=f"lab/{problem.left}+{problem.right}",
        messages=(Message(role="user", content=problem.question),),
        answer=problem.answer,
        verifier="exact",
        kind=problem.kind or "excluded",
    )


class LabTasks:
    """TaskSource over `train_easy` + `train_hard` training problems; each class is permuted anew in every epoch."""

    def __init__(
        self,
        *,
        digits: int = 2,
        train_easy: int = 96,
        train_hard: int = 128,
        held_out_easy: int = 200,
        held_out_hard: int = 200,
        hard_share: float = 0.5,
    ) -> None:
        if not 0.0 <= hard_share <= 1.0:
            raise ConfigError(f"hard_share: came {hard_share}, wanted a share from 0 to 1")
        self.hard_share = hard_share
        self.easy = tuple(map(task_of, select_problems("train", "easy", train_easy, digits=digits)))
        self.hard = tuple(map(task_of, select_problems("train", "hard", train_hard, digits=digits)))
        held_out = (
            *select_problems("held_out", "easy", held_out_easy, digits=digits),
            *select_problems("held_out", "hard", held_out_hard, digits=digits),
        )
        self._held_out = tuple(map(task_of, held_out))

    def batch(self, step: int, size: int, *, seed: int) -> Sequence[Task]:
        """`size` different tasks for `step`, `hard_share` of them hard (rounded half up), hard ones first."""
        hard = int(size * self.hard_share + 0.5)
        return [
            *_slice_of_epoch(self.hard, step, hard, f"hard:{seed}"),
            *_slice_of_epoch(self.easy, step, size - hard, f"easy:{seed}"),
        ]

    def training(self) -> Sequence[Task]:
        """Both pools; one of a class that no batch draws from is left out."""
        return (*(self.hard if self.hard_share > 0 else ()), *(self.easy if self.hard_share < 1 else ()))

    def held_out(self) -> Sequence[Task]:
        """Evaluation tasks, easy ones first: no sum of theirs is in the pool or in the policy's build data."""
        return self._held_out


def _slice_of_epoch(pool: Sequence[Task], step: int, count: int, salt: str) -> list[Task]:
    """`count` tasks; what does not fill a whole batch at an epoch's end is left out, so no batch repeats a task."""
    if count == 0:
        return []
    if count > len(pool):
        kind = salt.partition(":")[0]
        raise ConfigError(
            f"batch size: {count} {kind} tasks a step were asked of a pool of {len(pool)}; "
            f"raise train_{kind} or lower the batch size"
        )
    epoch, slot = divmod(step, len(pool) // count)
    order = list(range(len(pool)))
    random.Random(f"{salt}:{epoch}").shuffle(order)
    return [pool[i] for i in order[slot * count : (slot + 1) * count]]

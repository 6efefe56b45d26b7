"""The guessing world's task source: a fixed pool of training problems and held-out ones of each n.

Owns: which problems a step asks. The pool does not depend on the seed; the order does.
Must not know: models, critics, rewards beyond the verifier's name.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from critique_rl.errors import ConfigError
from critique_rl.lab.guess.problems import MAX_CANDIDATES, GuessProblem, select_guesses
from critique_rl.types import Message, Task

VERIFIER = "guess"


def guess_task(problem: GuessProblem, *, verifier: str = VERIFIER) -> Task:
    """The task that asks `problem`: one user turn "5+2[347]=", the answer "29" if 4 was drawn, the kind "n3"."""
    return Task(
        id=f"lab_guess/{problem.question[:-1]}",
        messages=(Message(role="user", content=problem.question),),
        answer=problem.answer,
        verifier=verifier,
        kind=problem.kind,
    )


class GuessTasks:
    """TaskSource over `train_known` problems with one candidate and `train_guessed` of each larger n.

    `known_share` of a batch has one candidate (rounded half up, first in the batch); the others have any larger n.
    Both pools are permuted anew in every epoch. Errors: ConfigError.
    """

    def __init__(
        self,
        *,
        train_known: int = 128,
        train_guessed: int = 600,
        held_out: int = 100,
        known_share: float = 0.2,
        verifier: str = VERIFIER,
    ) -> None:
        if not 0.0 <= known_share <= 1.0:
            raise ConfigError(f"known_share: came {known_share}, wanted a share from 0 to 1")
        self.known_share = known_share
        guessed = [p for n in range(2, MAX_CANDIDATES + 1) for p in select_guesses("train", n, train_guessed)]
        kept = [p for n in range(1, MAX_CANDIDATES + 1) for p in select_guesses("held_out", n, held_out)]
        self.known = tuple(guess_task(p, verifier=verifier) for p in select_guesses("train", 1, train_known))
        self.guessed = tuple(guess_task(p, verifier=verifier) for p in guessed)
        self._held_out = tuple(guess_task(p, verifier=verifier) for p in kept)

    def batch(self, step: int, size: int, *, seed: int) -> Sequence[Task]:
        """`size` different tasks for `step`. Errors: ConfigError if a pool has fewer."""
        known = int(size * self.known_share + 0.5)
        return [
            *_slice_of_epoch(self.known, step, known, key="train_known", seed=seed),
            *_slice_of_epoch(self.guessed, step, size - known, key="train_guessed", seed=seed),
        ]

    def training(self) -> Sequence[Task]:
        """Both pools; one that no batch draws from is left out."""
        return (*(self.known if self.known_share > 0 else ()), *(self.guessed if self.known_share < 1 else ()))

    def held_out(self) -> Sequence[Task]:
        """Evaluation tasks, by rising n: none is in the pool or in the policy's build data."""
        return self._held_out


def _slice_of_epoch(pool: Sequence[Task], step: int, count: int, *, key: str, seed: int) -> list[Task]:
    """`count` tasks; what does not fill a whole batch at an epoch's end is left out, so no batch repeats a task."""
    if count == 0:
        return []
    if count > len(pool):
        raise ConfigError(
            f"{key}: {count} tasks a step were asked of a pool of {len(pool)}; raise {key} or lower the batch size"
        )
    epoch, slot = divmod(step, len(pool) // count)
    order = list(range(len(pool)))
    random.Random(f"{key}:{seed}:{epoch}").shuffle(order)
    return [pool[i] for i in order[slot * count : (slot + 1) * count]]

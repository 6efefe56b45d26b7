"""Sends each task to the reward that its `verifier` names.

Owns: the routing. Must not know: how any reward judges, or which kinds exist.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from critique_rl.errors import DataError
from critique_rl.protocols import Reward
from critique_rl.types import Score, Task


class VerifierRouter:
    """A `Reward` made of named rewards. `check` reports a name that is not there before any rollout is paid for."""

    def __init__(self, rewards: Mapping[str, Reward]) -> None:
        self._rewards = dict(rewards)

    def check(self, tasks: Iterable[Task]) -> None:
        """Errors: DataError for the first task whose verifier is not there."""
        for task in tasks:
            self._reward(task)

    def score(self, task: Task, text: str) -> Score:
        """The named reward's score. Errors: DataError as in `check`."""
        return self._reward(task).score(task, text)

    def _reward(self, task: Task) -> Reward:
        if task.verifier not in self._rewards:
            raise DataError(
                f"task {task.id!r} names verifier {task.verifier!r}; known are "
                f"{', '.join(sorted(self._rewards)) or 'none'}: add [rewards.{task.verifier}] or correct the task"
            )
        return self._rewards[task.verifier]

"""Prompts from which nothing could be learned, kept until their rewards differ (arXiv 2606.10709, abstract only).

Owns: which prompts wait, for how long, and in what order they return. Must not know: why nothing could be learned, how
a batch is made, training. As the policy moves, an all-wrong prompt may come within reach, an all-right one may slip.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import cast

from pydantic import TypeAdapter

from critique_rl.schedule.restoring import restored
from critique_rl.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingPrompt:
    """One prompt: the step that first put it into the pool, and the latest that sampled it."""

    task: Task
    since: int
    last: int


@dataclass(slots=True, kw_only=True)
class _State:
    """All that a resumed run needs: prompts by task id."""

    prompts: dict[str, WaitingPrompt] = field(default_factory=dict[str, WaitingPrompt])


_STATE: TypeAdapter[_State] = TypeAdapter(_State)


class RecyclePool:
    """At most `capacity` prompts; each returns `wait_steps` after its latest visit and leaves after `max_age_steps`.

    Where there is no room, the one that has been there longest leaves. Raises ValueError for a number below 1.
    """

    def __init__(self, *, capacity: int, wait_steps: int, max_age_steps: int) -> None:
        if min(capacity, wait_steps, max_age_steps) < 1:
            raise ValueError(
                f"capacity = {capacity}, wait_steps = {wait_steps}, max_age_steps = {max_age_steps}; wanted each to be "
                "at least 1"
            )
        self.capacity = capacity
        self.wait_steps = wait_steps
        self.max_age_steps = max_age_steps
        self._state = _State()
        self._mark: _State | None = None

    def put(self, task: Task, *, step: int) -> None:
        """This step sampled the prompt, and nothing could be learned from it."""
        prompts = self._state.prompts
        known = prompts.get(task.id)
        if known is not None and step - known.since >= self.max_age_steps:
            del prompts[task.id]
            return
        prompts[task.id] = (
            WaitingPrompt(task=task, since=step, last=step) if known is None else replace(known, last=step)
        )
        if len(prompts) > self.capacity:
            del prompts[min(prompts, key=lambda name: prompts[name].since)]

    def forget(self, task_id: str) -> None:
        """Something could be learned from the prompt: it waits no more."""
        self._state.prompts.pop(task_id, None)

    def waiting(self, *, step: int, apart_from: Collection[str]) -> list[Task]:
        """The prompts that may return now, longest not sampled first; those of `apart_from` (task ids) are left out."""
        due = [
            entry
            for entry in self._state.prompts.values()
            if entry.task.id not in apart_from
            and step - entry.last >= self.wait_steps
            and step - entry.since <= self.max_age_steps
        ]
        return [entry.task for entry in sorted(due, key=lambda entry: entry.last)]

    def __len__(self) -> int:
        return len(self._state.prompts)

    def mark(self) -> None:
        """Remember this moment, at a cost of one reference a prompt."""
        self._mark = _State(prompts=dict(self._state.prompts))

    def rollback(self) -> None:
        """Undo everything since `mark`, once."""
        assert self._mark is not None, "rollback without a mark"
        self._state, self._mark = self._mark, None

    def state_dict(self) -> dict[str, object]:
        """All prompts as plain JSON values."""
        return cast("dict[str, object]", _STATE.dump_python(self._state, mode="json"))

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """The inverse of `state_dict`. Raises CheckpointError for anything that it did not write."""
        self._state, self._mark = restored(_STATE, state, what="recycled prompts"), None

"""What the plateau tracker remembers, and its form in a checkpoint.

Owns: the four states, one prompt's and one verifier's memory, the JSON form, and taking a broken-off step back.
Must not know: when a state changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

from pydantic import TypeAdapter

from critique_rl.schedule.history import StepRecord
from critique_rl.schedule.restoring import restored


class PromptStatus(StrEnum):
    FRESH = "fresh"
    PLATEAUED = "plateaued"
    RESCUED = "rescued"
    DORMANT = "dormant"


STALLED = (PromptStatus.PLATEAUED, PromptStatus.DORMANT)


@dataclass(slots=True, kw_only=True)
class PromptRecord:
    """One prompt's memory; `visits` holds (successes, failures) of each remembered group, oldest first. `rung` is the
    step of the guidance ladder that it is on."""

    kind: str = ""
    status: PromptStatus = PromptStatus.FRESH
    visits: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    tries: int = 0
    rested: int = 0
    rung: int = 0

    def copy(self) -> PromptRecord:
        return replace(self, visits=list(self.visits))

    @property
    def successes(self) -> int:
        return sum(s for s, _ in self.visits)

    @property
    def failures(self) -> int:
        return sum(f for _, f in self.visits)

    def remember(self, successes: int, failures: int, *, window: int) -> None:
        if successes + failures:
            self.visits.append((successes, failures))
        while len(self.visits) > 1 and self.successes + self.failures > window:
            del self.visits[0]


@dataclass(slots=True, kw_only=True)
class VerifierRecord:
    """One verifier's memory: when it was last checked on reference answers and what it made of them (`accepts` None: it
    could not be checked). `failed` names prompts without a success, while there has never been one."""

    checks: int = 0
    checked_step: int = 0
    accepts: bool | None = None
    succeeded: bool = False
    failed: list[str] = field(default_factory=list[str])

    @property
    def broken(self) -> bool:
        return self.accepts is False

    def copy(self) -> VerifierRecord:
        return replace(self, failed=list(self.failed))


@dataclass(slots=True, kw_only=True)
class TrackerState:
    """All that a resumed run needs. `told` are the run's causes that a person has heard of."""

    prompts: dict[str, PromptRecord] = field(default_factory=dict[str, PromptRecord])
    history: list[StepRecord] = field(default_factory=list[StepRecord])
    verifiers: dict[str, VerifierRecord] = field(default_factory=dict[str, VerifierRecord])
    told: list[str] = field(default_factory=list[str])
    first_stall_step: int | None = None


class StateMark:
    """A moment of a state that can be restored; only what is touched after it is copied."""

    def __init__(self, state: TrackerState) -> None:
        self._state = state
        self._prompts: dict[str, PromptRecord | None] = {}
        self._verifiers = {name: record.copy() for name, record in state.verifiers.items()}
        self._steps = len(state.history)
        self._latest = [record.copy() for record in state.history[-1:]]
        self._told = list(state.told)
        self._first_stall_step = state.first_stall_step

    def keep(self, task_id: str) -> None:
        """Call before a prompt's record is made or changed."""
        if task_id not in self._prompts:
            record = self._state.prompts.get(task_id)
            self._prompts[task_id] = None if record is None else record.copy()

    def restore(self) -> None:
        """The state as it was. Call it once."""
        state = self._state
        for task_id, record in self._prompts.items():
            if record is None:
                del state.prompts[task_id]
            else:
                state.prompts[task_id] = record
        state.verifiers = self._verifiers
        del state.history[self._steps :]
        state.history[-1:] = self._latest
        state.told = self._told
        state.first_stall_step = self._first_stall_step


_STATE: TypeAdapter[TrackerState] = TypeAdapter(TrackerState)


def dump_state(state: TrackerState) -> dict[str, object]:
    """The state as plain JSON values."""
    return _STATE.dump_python(state, mode="json")


def load_state(state: Mapping[str, object]) -> TrackerState:
    """The inverse of `dump_state`. Raises CheckpointError for anything that it did not write."""
    return restored(_STATE, state, what="plateau state")

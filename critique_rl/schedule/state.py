"""What the plateau tracker remembers, and its form in a checkpoint.

Owns: the four states, one prompt's memory, the JSON form. Must not know: when a state changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from pydantic import TypeAdapter, ValidationError

from critique_rl.errors import CheckpointError
from critique_rl.schedule.history import StepRecord


class PromptStatus(StrEnum):
    FRESH = "fresh"
    PLATEAUED = "plateaued"
    RESCUED = "rescued"
    DORMANT = "dormant"


STALLED = (PromptStatus.PLATEAUED, PromptStatus.DORMANT)


@dataclass(slots=True, kw_only=True)
class PromptRecord:
    """One prompt's memory; `visits` holds (successes, failures) of each remembered group, oldest first."""

    kind: str = ""
    status: PromptStatus = PromptStatus.FRESH
    visits: list[tuple[int, int]] = field(default_factory=list[tuple[int, int]])
    tries: int = 0
    rested: int = 0

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
class TrackerState:
    """All that a resumed run needs."""

    prompts: dict[str, PromptRecord] = field(default_factory=dict[str, PromptRecord])
    history: list[StepRecord] = field(default_factory=list[StepRecord])
    first_stall_step: int | None = None


_STATE: TypeAdapter[TrackerState] = TypeAdapter(TrackerState)


def dump_state(state: TrackerState) -> dict[str, object]:
    """The state as plain JSON values."""
    return _STATE.dump_python(state, mode="json")


def load_state(state: Mapping[str, object]) -> TrackerState:
    """The inverse of `dump_state`. Raises CheckpointError for anything that it did not write."""
    try:
        return _STATE.validate_python(dict(state))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(
            f"plateau state in the checkpoint: field {where!r}: {first['msg']}; resume from an older checkpoint"
        ) from error

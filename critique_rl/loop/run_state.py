"""What a run remembers besides its policy: counters and the parts with a memory of their own.

Owns: their form in a checkpoint, and taking a broken-off step back. Must not know: what any part remembers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Protocol, cast

from critique_rl.loop.parts import Parts
from critique_rl.loop.progress import Progress


class _Remembers(Protocol):
    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


class _TakesBack(_Remembers, Protocol):
    def mark(self) -> None: ...

    def rollback(self) -> None: ...


class RunState:
    """Counters and memories of one run, with the questions that its critic has not answered yet."""

    def __init__(self, parts: Parts, critic: _TakesBack | None = None) -> None:
        self.progress = Progress()
        self.conflict: float | None = None  # of the gradients in the latest training step, for the next one's guards
        self._parts = parts
        self._critic = critic

    def to_json(self) -> dict[str, object]:
        """Plain JSON, as a checkpoint holds it."""
        memories = {name: part.state_dict() for name, part in self._memories().items()}
        own = {"progress": self.progress.to_json(), "conflict": self.conflict}
        return {**own, "plateau": self._parts.plateau.state_dict(), **memories}

    def take_up(self, state: Mapping[str, object]) -> None:
        """Go on from `to_json()`; what an older checkpoint does not name starts anew. Errors: CheckpointError."""
        self.progress = Progress.from_json(cast("Mapping[str, object]", state["progress"]))
        self.conflict = cast("float | None", state.get("conflict"))
        self._parts.plateau.load_state_dict(cast("Mapping[str, object]", state["plateau"]))
        for name, part in self._memories().items():
            if name in state:
                part.load_state_dict(cast("Mapping[str, object]", state[name]))

    def carry(self, state: Mapping[str, object]) -> None:
        """Take over what an earlier stage's parts remembered: names that both sides have, and nothing else."""
        for name, part in self._memories().items():
            if name in state:
                part.load_state_dict(cast("Mapping[str, object]", state[name]))

    def mark(self) -> Callable[[], None]:
        """Remember this moment, at a cost that does not grow with the run; returns what restores it."""
        progress, conflict, parts = replace(self.progress), self.conflict, self._parts
        able = (parts.plateau, parts.trust, parts.replay, parts.recycle, self._critic)
        watching = [part for part in able if part is not None]
        for part in watching:
            part.mark()
        others = [part for part in self._memories().values() if not any(part is one for one in watching)]
        small = [(part, part.state_dict()) for part in others]

        def take_back() -> None:
            self.progress, self.conflict = progress, conflict
            for part in watching:
                part.rollback()
            for part, state in small:
                part.load_state_dict(state)

        return take_back

    def _memories(self) -> dict[str, _Remembers]:
        parts = self._parts
        optional: dict[str, _Remembers | None] = {
            "trust": parts.trust,
            "feedback": parts.feedback,
            "guards": parts.guards,
            "paces": parts.paces,
            "replay": parts.replay,
            "recycle": parts.recycle,
            "teacher_gate": parts.teacher_gate,
            "forgetting": parts.forgetting,
            "monitors": parts.monitors,
            "exploration": parts.exploration,
            "phases": parts.phases,
            "skills": parts.skills,
            "late_critiques": self._critic,
        }
        return {name: part for name, part in optional.items() if part is not None}

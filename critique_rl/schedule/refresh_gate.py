"""When a slow teacher may follow the policy: only after a stretch of steps that was better and no longer.

Must not know: weights, how the teacher follows. Follows the isolation of arXiv 2606.03532: a teacher that follows a
policy which is getting worse teaches the damage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from pydantic import TypeAdapter

from critique_rl.schedule.restoring import restored

LONGER = 1.2
"""How far the 95th percentile of completion lengths may rise over its value at the last refresh. Ours."""

MORE_TRUNCATED = 0.05
"""How far the share of truncated completions may rise over its value at the last refresh. Ours."""


@dataclass(slots=True, kw_only=True)
class _Stretch:
    """Sums over the steps since the last decision."""

    steps: int = 0
    reward: float = 0.0
    p95_tokens: float = 0.0
    truncated: float = 0.0

    def means(self) -> dict[str, float]:
        return {
            "reward": self.reward / self.steps,
            "p95": self.p95_tokens / self.steps,
            "truncated": self.truncated / self.steps,
        }


@dataclass(slots=True, kw_only=True)
class _State:
    """All that a resumed run needs. `reference` is the means of the stretch at the last refresh."""

    now: _Stretch = field(default_factory=_Stretch)
    reference: dict[str, float] | None = None
    refreshes: int = 0
    held: int = 0


_STATE: TypeAdapter[_State] = TypeAdapter(_State)


class RefreshGate:
    """Decides every `every` steps; the first stretch is what the second is compared with."""

    def __init__(self, *, every: int) -> None:
        self.every = every
        self._state = _State()

    def observe(self, *, reward: float | None, p95_tokens: float | None, truncated: float | None) -> bool:
        """Take in one step's rollouts; True if the teacher is to follow after this step.

        Refreshed: the mean reward of the stretch lies above that of the stretch at the last refresh, its length tail
        not above `LONGER` times, its truncated share not `MORE_TRUNCATED` above. A step of which a number is unknown
        (every verifier failed) is left out.
        """
        if reward is None or p95_tokens is None or truncated is None:
            return False
        state = self._state
        now = state.now
        now.steps += 1
        now.reward += reward
        now.p95_tokens += p95_tokens
        now.truncated += truncated
        if now.steps < self.every:
            return False
        found, before, state.now = now.means(), state.reference, _Stretch()
        if before is None:
            state.reference = found
            return False
        better = (
            found["reward"] > before["reward"]
            and found["p95"] <= LONGER * before["p95"]
            and found["truncated"] <= before["truncated"] + MORE_TRUNCATED
        )
        if better:
            state.reference = found
        state.refreshes += better
        state.held += not better
        return better

    def figures(self) -> Mapping[str, float]:
        """For trackers: refreshes and refusals so far."""
        return {"teacher/refreshes": float(self._state.refreshes), "teacher/held": float(self._state.held)}

    def state_dict(self) -> dict[str, object]:
        """Plain JSON values."""
        return cast("dict[str, object]", _STATE.dump_python(self._state, mode="json"))

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """The inverse of `state_dict`. Raises CheckpointError for anything that it did not write."""
        self._state = restored(_STATE, state, what="teacher gate")

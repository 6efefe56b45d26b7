"""When a slow teacher may follow the policy: only after a stretch of steps that was better and no longer.

Must not know: weights, how the teacher follows. Follows the isolation of arXiv 2606.03532: a teacher that follows a
policy which is getting worse teaches the damage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, cast

from critique_rl.errors import CheckpointError

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


class RefreshGate:
    """Decides every `every` steps; the first stretch is what the second is compared with."""

    def __init__(self, *, every: int) -> None:
        self.every = every
        self._now = _Stretch()
        self._reference: dict[str, float] | None = None
        self._refreshes = 0
        self._held = 0

    def observe(self, *, reward: float | None, p95_tokens: float | None, truncated: float | None) -> bool:
        """Take in one step's rollouts; True if the teacher is to follow after this step.

        Refreshed: the mean reward of the stretch lies above that of the stretch at the last refresh, its length tail
        not above `LONGER` times, its truncated share not `MORE_TRUNCATED` above. A step of which a number is unknown
        (every verifier failed) is left out.
        """
        if reward is None or p95_tokens is None or truncated is None:
            return False
        now = self._now
        now.steps += 1
        now.reward += reward
        now.p95_tokens += p95_tokens
        now.truncated += truncated
        if now.steps < self.every:
            return False
        found, before, self._now = now.means(), self._reference, _Stretch()
        if before is None:
            self._reference = found
            return False
        better = (
            found["reward"] > before["reward"]
            and found["p95"] <= LONGER * before["p95"]
            and found["truncated"] <= before["truncated"] + MORE_TRUNCATED
        )
        if better:
            self._reference = found
        self._refreshes += better
        self._held += not better
        return better

    def figures(self) -> Mapping[str, float]:
        """For trackers: refreshes and refusals so far."""
        return {"teacher/refreshes": float(self._refreshes), "teacher/held": float(self._held)}

    def state_dict(self) -> dict[str, object]:
        """Plain JSON."""
        return {
            "now": asdict(self._now),
            "reference": self._reference,
            "refreshes": self._refreshes,
            "held": self._held,
        }

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from `state_dict()`. Raises CheckpointError for anything else."""
        try:
            self._now = _Stretch(**cast("dict[str, Any]", state["now"]))
            self._reference = cast("dict[str, float] | None", state["reference"])
            self._refreshes, self._held = cast(int, state["refreshes"]), cast(int, state["held"])
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"teacher gate in the checkpoint: {error}; it was written by another version: resume with that version"
            ) from error

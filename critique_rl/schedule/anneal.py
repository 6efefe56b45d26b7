"""How much a feedback channel weighs as the run goes on: a shape over steps, or the data's own pace, with a back-off.

Owns: the weight in [0, 1] and what it remembers. Must not know: which channel it is for, wires, prompts.
Weak fact: HATCH's factor kappa is not known to us. `KAPPA` is chosen so that the weight is full while at least half of
the unsolved or partly solved prompts are never solved; it is ours, without published evidence.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

from pydantic import TypeAdapter

from critique_rl.schedule.restoring import restored

KAPPA = 32.0
GAMMA = 5.0
EMA_RATE = 0.1
RISE = 0.1
FALL = 0.5
REGROW_STEPS = 50
MIN_BACKOFF = 1 / 64

Shape = Literal["constant", "linear", "trapezoid", "unsolved"]


@dataclass(slots=True, kw_only=True)
class _State:
    """Bias-corrected means are kept as a sum and the sum of its weights; `backoff` is 1 without a trip."""

    none: float = 0.0
    partial: float = 0.0
    weight: float = 0.0
    backoff: float = 1.0


_STATE: TypeAdapter[_State] = TypeAdapter(_State)


class Schedule:
    """Weight of a channel at each step, times a back-off that each trip halves and quiet steps restore.

    constant: 1. linear: from 1 to 0 over the run. trapezoid: up in the first tenth, down to 0 over the second half
    (SDPG, arXiv 2606.04036, uses this shape). unsolved: min(1, kappa p^gamma), p = none / (none + partial) of the means
    of the shares of groups with no success and with some (HATCH; gamma 5 as there, kappa ours).
    Raises ValueError for a run without steps.
    """

    def __init__(self, shape: Shape, *, total_steps: int) -> None:
        if total_steps < 1:
            raise ValueError(f"total_steps = {total_steps}; wanted the number of steps of the run, at least 1")
        self.shape: Shape = shape
        self.total_steps = total_steps
        self._state = _State()

    def weight(self, step: int) -> float:
        """The channel's weight in [0, 1] at `step`, counted from 0."""
        done = min(1.0, max(0.0, step / self.total_steps))
        if self.shape == "constant":
            own = 1.0
        elif self.shape == "linear":
            own = 1 - done
        elif self.shape == "trapezoid":
            own = min(1.0, done / RISE, (1 - done) / FALL)
        else:
            own = unsolved_weight(self._state.none, self._state.partial) if self._state.weight else 1.0
        return own * self._state.backoff

    def observe(self, none_share: float, partial_share: float) -> None:
        """One step's shares of groups with no success, and with some but not all. Raises ValueError outside [0, 1]."""
        if min(none_share, partial_share) < 0 or none_share + partial_share > 1 + 1e-9:
            raise ValueError(f"shares {none_share} and {partial_share}; wanted two of one whole, each from 0 to 1")
        state = self._state
        state.none = (1 - EMA_RATE) * state.none + EMA_RATE * none_share
        state.partial = (1 - EMA_RATE) * state.partial + EMA_RATE * partial_share
        state.weight = (1 - EMA_RATE) * state.weight + EMA_RATE
        state.backoff = min(1.0, state.backoff * 2 ** (1 / REGROW_STEPS))

    def back_off(self) -> None:
        """A wire has tripped: the weight is halved, and doubles again over `REGROW_STEPS` steps."""
        self._state.backoff = max(MIN_BACKOFF, self._state.backoff / 2)

    def state_dict(self) -> dict[str, object]:
        """The means and the back-off as plain JSON values."""
        return cast("dict[str, object]", _STATE.dump_python(self._state, mode="json"))

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """The inverse of `state_dict`. Raises CheckpointError for anything that it did not write."""
        self._state = restored(_STATE, state, what="schedule")


def unsolved_weight(none: float, partial: float, *, kappa: float = KAPPA, gamma: float = GAMMA) -> float:
    """HATCH's min(1, kappa p^gamma) with p = none / (none + partial); 0 where every group is solved.

    A common factor of both means, such as the bias correction's, cancels in p.
    """
    unsolved = none + partial
    return min(1.0, kappa * (none / unsolved) ** gamma) if unsolved > 0 else 0.0

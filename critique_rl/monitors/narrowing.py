"""When diversity has fallen: figures far below their first values, and fewer problems solved at all while more answers
are right.

Owns: the references and the two rules. Must not know: how figures are measured, formats. Token entropy is not among the
figures: it is local, halves in healthy runs, and can rise while strategies die out (arXiv 2509.03646).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from pydantic import TypeAdapter, ValidationError

from critique_rl.errors import CheckpointError
from critique_rl.monitors.prompts import Prompt
from critique_rl.stats.formats import share_error

WATCHED = (
    "distinct_2",
    "vendi",
    "query_unique_ratio/first",
    "query_jaccard_div/first",
    "query_jaccard_div/later",
    "strategy_entropy",
    "clusters_correct",
)
"""Figures of support that warn; where one answer is right, some of them fall in a healthy run, too."""
LASTING = 2
ERRORS = 2.0


@dataclass(slots=True, kw_only=True)
class _State:
    first: dict[str, float] = field(default_factory=dict[str, float])
    below: dict[str, int] = field(default_factory=dict[str, int])
    once: float | None = None
    ever: float | None = None
    narrower: int = 0


_STATE: TypeAdapter[_State] = TypeAdapter(_State)


class DiversityWarnings:
    """One stream of observations against its first one."""

    def __init__(self, *, warn_below: float) -> None:
        self._warn_below = warn_below
        self._state = _State()

    def fallen(self, figures: Mapping[str, float]) -> list[str]:
        """Figures that have been below `warn_below` of their first value for two observations, told once per fall."""
        state = self._state
        told: list[str] = []
        for name in WATCHED:
            value = figures.get(name)
            if value is None:
                continue
            first = state.first.setdefault(name, value)
            state.below[name] = state.below.get(name, 0) + 1 if value < self._warn_below * first else 0
            if state.below[name] == LASTING:
                told.append(f"{name} has fallen to {value:.3g} from {first:.3g} at first")
        return told

    def narrowed(self, prompts: Sequence[Prompt]) -> list[str]:
        """Whether twice in a row fewer problems are solved by any sample, beyond 2 standard errors, while pass@1 is
        above its first value: the sign that chances are re-weighted, and lost, rather than won."""
        state = self._state
        known = [[answer.score.correct for answer in prompt.judged] for prompt in prompts if prompt.judged]
        if not known:
            return []
        once = sum(sum(right) / len(right) for right in known) / len(known)
        ever = sum(map(any, known)) / len(known)
        if state.once is None or state.ever is None:
            state.once, state.ever = once, ever
        error = math.hypot(share_error(ever, len(known)), share_error(state.ever, len(known)))
        worse = ever < state.ever - ERRORS * error and once > state.once
        state.narrower = state.narrower + 1 if worse else 0
        if state.narrower != LASTING:
            return []
        return [
            f"problems that any sample solves have fallen to {ever:.0%} from {state.ever:.0%} at first, while single "
            f"answers are right more often ({once:.0%}, {state.once:.0%} at first): the policy gives up abilities"
        ]

    def state_dict(self) -> dict[str, object]:
        return cast("dict[str, object]", _STATE.dump_python(self._state, mode="json"))

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """The inverse of `state_dict`. Errors: CheckpointError."""
        try:
            self._state = _STATE.validate_python(dict(state))
        except ValidationError as error:
            raise CheckpointError(
                f"diversity references in the checkpoint: {error}; resume from an older one"
            ) from error

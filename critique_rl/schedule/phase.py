"""When planning tokens are learned from more than others: on after the first phase, off when it hurts.

    steps --(the first phase is over: first_phase.py)--> plans --(strategies and success both fall)--> steps

Owns: the two states, the warm-up of alpha, what is remembered to compare with. Must not know: how phrases are mined or
found, where figures come from, samples. What a step shows holds from the next step on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, cast

from pydantic import TypeAdapter

from critique_rl.config.phases import OWN, PhasesConfig
from critique_rl.schedule.first_phase import FirstPhase, look
from critique_rl.schedule.plans_hurt import WATCHED, both_fell
from critique_rl.schedule.restoring import restored
from critique_rl.stats.grams import Gram, Grams
from critique_rl.types import Array

Mine = Callable[[Sequence[str]], Sequence[Gram]]
LOGGED = 20


@dataclass(slots=True, kw_only=True)
class _State:
    """All that a resumed run needs; its size does not grow with the run."""

    stage: Literal["steps", "plans"] = "steps"
    on_for: int = 0
    wait: int = 0
    low_for: int = 0
    first_perplexity: float | None = None
    first_phase: FirstPhase = field(default_factory=FirstPhase)
    courses: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    reference: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    solutions: list[str] = field(default_factory=list[str])
    mined: list[list[str]] = field(default_factory=list[list[str]])
    short_told: bool = False
    log: list[str] = field(default_factory=list[str])
    unread: list[str] = field(default_factory=list[str])


_STATE: TypeAdapter[_State] = TypeAdapter(_State)


class PhaseSwitch:
    """Watches one run. `grams` are those that it was given; None: `mine` finds them in its own right answers."""

    def __init__(self, config: PhasesConfig, *, grams: Sequence[Gram] | None, mine: Mine) -> None:
        self.config = config
        self._given = None if grams is None else Grams(grams)
        self._mine = mine
        self._grams: Grams | None = self._given
        self._state = _State()
        self._alpha = 0.0
        self._masks: Mapping[str, Array] = {}
        self._measured: dict[str, float] = {}
        self._means: tuple[float, float] | None = None
        if config.mode == "on" and self._given is not None:
            self._state.stage = "plans"

    # -- what a step needs -------------------------------------------------------------------------------------------

    @property
    def grams(self) -> Grams | None:
        """The phrases to look for, or None while they are not known."""
        return self._grams

    @property
    def alpha(self) -> float:
        """How much the advantages of this step's marked tokens are amplified; 0: not at all."""
        return self._alpha

    def mask(self, rollout_id: str) -> Array | None:
        """[T]: 1 on this step's tokens to amplify; None for a rollout that was not marked."""
        return self._masks.get(rollout_id)

    def note_means(self, base: float, amplified: float) -> None:
        """The mean advantage over the tokens that are learned from, before and after: the bias towards plans."""
        self._means = (base, amplified)

    def keep(self, solutions: Sequence[str]) -> None:
        """Right answers of a step, to be mined from later; equal ones are kept once."""
        state, config = self._state, self.config
        if config.grams == OWN and self._grams is None:
            known = dict.fromkeys([*state.solutions, *solutions])
            state.solutions = list(known)[-config.max_solutions :]

    def observe(
        self,
        *,
        masks: Mapping[str, Array],
        execution_perplexity: float | None,
        formed: float | None,
        success: float | None,
        strategy_entropy: float | None,
        figures: Mapping[str, float],
    ) -> None:
        """One step's rollouts, before any is dropped, and their masks; None: not known.

        Perplexities as exp(nats per token), entropies in nats, shares in [0, 1]; `figures` are only passed on.
        """
        state = self._state
        self._masks, self._means = masks, None
        self._alpha = self._warm() if state.stage == "plans" else 0.0
        if execution_perplexity is not None and state.first_perplexity is None:
            state.first_perplexity = execution_perplexity
        relative = None if execution_perplexity is None else execution_perplexity / (state.first_perplexity or 1.0)
        self._measured = {**figures, **({} if relative is None else {"phases/execution_perplexity": relative})}
        values = {
            "execution_perplexity": relative,
            "formed": formed,
            "success": success,
            "strategy_entropy": strategy_entropy,
        }
        for name, value in values.items():
            if value is not None:
                kept = self.config.window * (2 if name == "execution_perplexity" else 1)
                state.courses[name] = [*state.courses.get(name, []), value][-kept:]
        if self.config.mode == "auto":
            self._measured |= state.first_phase.measure(self._nats(), window=self.config.window)
        if state.stage == "plans":
            state.on_for += 1
            if self.config.mode == "auto":
                self._end_if_it_hurts()
        elif self.config.mode != "off":
            state.wait = max(0, state.wait - 1)
            self._begin_if_due()

    # -- what a person sees ------------------------------------------------------------------------------------------

    @property
    def log(self) -> Sequence[str]:
        """The latest switches, in words."""
        return self._state.log

    def messages(self) -> Sequence[str]:
        """What a person should know since the last call."""
        told, self._state.unread = self._state.unread, []
        return told

    def figures(self) -> Mapping[str, float]:
        """For the trackers; `phases/state` is 1 while planning tokens are amplified."""
        means = self._means
        return {
            "phases/state": float(self._state.stage == "plans"),
            "phases/alpha": self._alpha,
            "phases/grams": float(len(self._grams.grams)) if self._grams is not None else 0.0,
            **self._measured,
            **({} if means is None else {"phases/base_mean": means[0], "phases/advantage_mean": means[1]}),
        }

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, object]:
        """All of it as plain JSON values."""
        return cast("dict[str, object]", _STATE.dump_python(self._state, mode="json"))

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """The inverse of `state_dict`. Raises CheckpointError for anything that it did not write."""
        self._state = restored(_STATE, state, what="phase switch")
        first, nats = self._state.first_phase, self._nats()
        if first.nats is None and len(nats) >= self.config.window:
            # An older version kept nothing of the first window but its first step.
            first.nats = math.log(self._state.first_perplexity or 1.0)
        mined = Grams(map(tuple, self._state.mined)) if self._state.mined else None
        self._grams = self._given if self._given is not None else mined

    # -- inside ------------------------------------------------------------------------------------------------------

    def _warm(self) -> float:
        warmup = self.config.warmup_steps
        return self.config.alpha * (min(1.0, (self._state.on_for + 1) / warmup) if warmup else 1.0)

    def _nats(self) -> list[float]:
        first = self._state.first_perplexity or 1.0
        return [math.log(relative * first) for relative in self._state.courses.get("execution_perplexity", [])]

    def _begin_if_due(self) -> None:
        state = self._state
        if state.wait:
            return
        why = self._why_over() if self.config.mode == "auto" else "as the run file says"
        if why is None or (self._grams is None and not self._find_grams()):
            return
        courses = {name: state.courses.pop(name, []) for name in WATCHED}
        whole = all(len(course) == self.config.window for course in courses.values())
        state.stage, state.on_for, state.low_for = "plans", 0, 0
        state.reference = courses if whole else {}
        self._tell(f"on: {why}; alpha rises to {self.config.alpha:g} in {self.config.warmup_steps} steps")

    def _why_over(self) -> str | None:
        """Why the first phase is over, or None: then, after a long wait, it is told once what is lacking."""
        state = self._state
        formed, success = state.courses.get("formed", []), state.courses.get("success", [])
        seen = look(self.config, nats=self._nats(), first_nats=state.first_phase.nats, formed=formed, success=success)
        if not seen.lacking:
            return seen.shown
        words = state.first_phase.wait(seen.lacking, window=self.config.window)
        if words is not None:
            self._tell(words)
        return None

    def _find_grams(self) -> bool:
        state, config = self._state, self.config
        have = len(state.solutions)
        if have < config.min_solutions:
            if not state.short_told and config.mode == "auto":
                state.short_told = True
                self._tell(
                    f"the first phase is over; waiting for right answers to mine: {have} of {config.min_solutions}"
                )
            return False
        found = self._mine(state.solutions)
        if not found:
            state.wait = config.wait_steps
            self._tell(f"{have} right answers hold no phrase to mine; the next try is in {state.wait} steps")
            return False
        self._grams = Grams(found)
        state.mined, state.solutions = [list(gram) for gram in found], []
        shown = ", ".join(repr(" ".join(gram)) for gram in found[:5])
        phrases = "1 phrase" if len(found) == 1 else f"{len(found)} phrases"
        self._tell(f"{phrases} mined from {have} right answers: {shown}{', ...' if len(found) > 5 else ''}")
        return True

    def _end_if_it_hurts(self) -> None:
        state, config = self._state, self.config
        if any(len(state.courses.get(name, [])) < config.window for name in WATCHED):
            return
        if not state.reference:
            # Nothing was measured before, as with phrases of its own: the first window under plans is what to keep.
            state.reference = {name: state.courses.pop(name) for name in WATCHED}
            return
        fell = both_fell(state.courses, state.reference)
        state.low_for = 0 if fell is None else state.low_for + 1
        if fell is None or state.low_for < config.sustain_steps:
            return
        state.stage, state.wait, state.low_for = "steps", config.wait_steps, 0
        state.first_phase.waited, state.first_phase.told = 0, False
        self._tell(f"off, since both fell for {config.sustain_steps} steps in a row: {fell}")

    def _tell(self, words: str) -> None:
        self._state.log = [*self._state.log, words][-LOGGED:]
        self._state.unread.append(words)

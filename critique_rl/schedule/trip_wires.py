"""Guards that stop refinements and directive targets before entropy, length or success collapse.

Owns: each wire's reference, state and hysteresis, and the words of a log line. Must not know: where the numbers come
from, critics, the loop. Figures come from the policy's own rollouts under the bare prompt.

    ok -> warned (beyond the limit, not yet for long, or without what must go with it) -> tripped -> recovered
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple, cast

from pydantic import TypeAdapter

from critique_rl.config.guards import GuardsConfig
from critique_rl.schedule.kinds import KindSuccess, Mean
from critique_rl.schedule.restoring import restored

MIN_ENTROPY = 0.05  # nats: below it a reference is too small to halve
MIN_ENTROPY_RISE = 0.1  # nats
MIN_LENGTH_CHANGE = 2.0  # tokens
MIN_SUCCESS_DROP = 0.1
KIND = "success/"
CALM = 0.5  # share of the way to its limit, below which a wire is quiet

Vital = Literal["entropy", "p50_tokens", "p95_tokens", "truncated", "success"]


class WireState(StrEnum):
    OK = "ok"
    WARNED = "warned"
    TRIPPED = "tripped"
    RECOVERED = "recovered"


class _Reading(NamedTuple):
    """How far a wire is on the way to its limit (1: there), whether what must go with it does, and the words."""

    way: float
    accompanied: bool
    words: str
    counted: str = "steps"


_QUIET = _Reading(0.0, False, "")


@dataclass(slots=True, kw_only=True)
class _Wire:
    state: WireState = WireState.OK
    way: float = 0.0
    beyond: int = 0
    calm: int = 0


@dataclass(slots=True, kw_only=True)
class _State:
    """All that a resumed run needs. `injected` counts steps since injection began."""

    reference: dict[Vital, Mean] = field(default_factory=dict[Vital, Mean])
    recent: dict[Vital, Mean] = field(default_factory=dict[Vital, Mean])
    best_success: float | None = None
    kinds: dict[str, KindSuccess] = field(default_factory=dict[str, KindSuccess])
    injected: int = 0
    trips: int = 0
    wires: dict[str, _Wire] = field(default_factory=dict[str, _Wire])
    unread: list[str] = field(default_factory=list[str])


_STATE: TypeAdapter[_State] = TypeAdapter(_State)


class TripWires:
    """Watches one run. Entropy alone never trips: it halves in healthy runs, too."""

    def __init__(self, config: GuardsConfig) -> None:
        self.config = config
        self._state = _State()

    def observe(
        self,
        *,
        entropy: float | None,
        p50_tokens: float | None,
        p95_tokens: float | None,
        truncated: float | None,
        success: float | None,
        injecting: bool,
        conflict: float | None = None,
        success_by_kind: Mapping[str, float] | None = None,
    ) -> None:
        """One step's rollouts, sampled after any injection or before the first one; None: not known this step.

        Entropy in nats per token, lengths in tokens, the others as shares; `conflict` is the cosine between the
        gradients of evaluative and directive feedback in the training step before them; `success_by_kind` names the
        kinds of task that the step has.
        """
        state, config = self._state, self.config
        if config.mode == "off":
            return
        vitals: dict[Vital, float | None] = {
            "entropy": entropy,
            "p50_tokens": p50_tokens,
            "p95_tokens": p95_tokens,
            "truncated": truncated,
            "success": success,
        }
        state.injected += injecting
        for name, value in vitals.items():
            if value is None:
                continue
            reference = state.reference.setdefault(name, Mean())
            if not injecting or reference.count < config.min_steps:
                reference.add(value, config.reference_steps)
            state.recent.setdefault(name, Mean()).add(value, config.recent_steps)
        recent = state.recent.get("success")
        if recent is not None and recent.count >= config.min_steps:
            state.best_success = max(recent.value, state.best_success or 0.0)
        by_kind = success_by_kind or {}
        for kind, value in by_kind.items():
            record = state.kinds.setdefault(kind, KindSuccess())
            record.add(value, steps=config.recent_steps, enough=config.min_steps)
        if state.injected >= config.min_steps:
            readings = {**self._readings(), **self._by_kind(by_kind), **self._conflict(conflict)}
            for name, reading in readings.items():
                self._advance(name, state.wires.setdefault(name, _Wire()), reading)

    @property
    def allows_injection(self) -> bool:
        """Whether refinements and directive targets may go into this step."""
        return self.config.mode != "stop" or not self._stopping

    def message(self) -> str | None:
        """What tripped or recovered since the last call, for a person; else None."""
        messages, self._state.unread = self._state.unread, []
        return "; ".join(messages) or None

    def figures(self) -> Mapping[str, float]:
        """For the trackers: how far each wire is on the way to its limit (1: there), and what follows."""
        if self.config.mode == "off":
            return {}
        states = [wire.state for wire in self._state.wires.values()]
        return {
            **{f"guards/{name}": wire.way for name, wire in self._state.wires.items()},
            "guards/warned": float(states.count(WireState.WARNED)),
            "guards/tripped": float(states.count(WireState.TRIPPED)),
            "guards/trips": float(self._state.trips),
            "guards/allows_injection": float(self.allows_injection),
        }

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, object]:
        """All references and states as plain JSON values; their size does not grow with the run."""
        return cast("dict[str, object]", _STATE.dump_python(self._state, mode="json"))

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """The inverse of `state_dict`. Raises CheckpointError for anything that it did not write."""
        self._state = restored(_STATE, state, what="trip wires")

    # -- inside ------------------------------------------------------------------------------------------------------

    @property
    def _stopping(self) -> list[str]:
        tripped = [name for name, wire in self._state.wires.items() if wire.state is WireState.TRIPPED]
        return [name for name in tripped if _stops(name)]

    def _pair(self, name: Vital) -> tuple[float, float] | None:
        """(reference, present value), or None while either holds too little."""
        reference, recent = self._state.reference.get(name), self._state.recent.get(name)
        if reference is None or recent is None or min(reference.count, recent.count) < self.config.min_steps:
            return None
        return reference.value, recent.value

    @property
    def _risen(self) -> bool:
        success = self._pair("success")
        return success is not None and success[1] >= success[0] + self.config.flat_success

    def _readings(self) -> dict[str, _Reading]:
        config = self.config
        readings: dict[str, _Reading] = {}
        success, best = self._pair("success"), self._state.best_success
        risen = self._risen
        falling = False
        if success is not None and best:
            drop = best - success[1]
            way = min(drop / best / config.max_success_drop, drop / MIN_SUCCESS_DROP)
            falling = way >= CALM
            readings["success"] = _Reading(way, True, f"success fell to {success[1]:.2f} from {best:.2f} at its best")
        unpaid = "while success has not risen"
        if (pair := self._pair("p50_tokens")) is not None:
            words = f"the median completion has {pair[1]:.0f} tokens, {pair[0]:.0f} before injection, {unpaid}"
            way = min(_fall(pair, config.min_length), (pair[0] - pair[1]) / MIN_LENGTH_CHANGE)
            readings["short"] = _Reading(way, not risen, words)
        if (pair := self._pair("p95_tokens")) is not None:
            words = f"the longest completions have {pair[1]:.0f} tokens (p95), {pair[0]:.0f} before injection, {unpaid}"
            way = min(_rise(pair, config.max_length), (pair[1] - pair[0]) / MIN_LENGTH_CHANGE)
            readings["long"] = _Reading(way, not risen, words)
        if (pair := self._pair("truncated")) is not None:
            words = f"{pair[1]:.0%} of the rollouts are cut off, {pair[0]:.0%} before injection, {unpaid}"
            readings["truncated"] = _Reading((pair[1] - pair[0]) / config.max_truncated, not risen, words)
        if (pair := self._pair("entropy")) is not None:
            lengths = max((readings[name].way for name in ("short", "long") if name in readings), default=0.0)
            accompanied = falling or (lengths >= 1 and not risen)
            why = "while success falls" if falling else "while length has left its band"
            words = f"entropy is {pair[1]:.2f} nats, {pair[0]:.2f} before injection, {why}"
            low = _fall(pair, config.min_entropy) if pair[0] > MIN_ENTROPY else 0.0
            high = min(_rise(pair, config.max_entropy), (pair[1] - pair[0]) / MIN_ENTROPY_RISE)
            readings["low_entropy"] = _Reading(low, accompanied, words)
            readings["high_entropy"] = _Reading(high, accompanied, words)
        return readings

    def _by_kind(self, present: Collection[str]) -> dict[str, _Reading]:
        """One wire for each kind, where there are several; a kind moves its own with the steps that have it.

        It tells and stops nothing: on the lab a kind is eaten within ten steps, and critiques of it bring it back.
        """
        config, kinds = self.config, self._state.kinds
        readings: dict[str, _Reading] = {}
        for kind in present if len(kinds) > 1 else ():
            record = kinds[kind]
            way = record.fallen(share=config.max_success_drop, least=MIN_SUCCESS_DROP, steps=config.recent_steps)
            best = record.best or 0.0
            words = f"success on {kind!r} tasks fell to {record.recent.value:.2f} from {best:.2f} at its best"
            readings[f"{KIND}{kind}"] = _Reading(way, True, words)
        return readings

    def _conflict(self, cosine: float | None) -> dict[str, _Reading]:
        """The wire moves with a measurement. Tripped, it stops what it measures: a step without one is then quiet.
        Where it may stop nothing, the latest measurement holds until the next."""
        if cosine is None:
            wire = self._state.wires.get("conflict")
            if wire is None or wire.state is not WireState.TRIPPED:
                return {}
            return {"conflict": _QUIET if self.config.mode == "stop" else _Reading(wire.way, False, "")}
        words = (
            f"the gradients of evaluative and directive feedback pull against each other (cosine {cosine:.2f}) while "
            "success has not risen"
        )
        return {"conflict": _Reading(-cosine / self.config.max_conflict, not self._risen, words, "measurements")}

    def _advance(self, name: str, wire: _Wire, reading: _Reading) -> None:
        config, way = self.config, max(0.0, reading.way)
        wire.way = way
        if wire.state is WireState.TRIPPED:
            wire.calm = wire.calm + 1 if way < CALM else 0
            if wire.calm >= config.cooldown_steps:
                wire.state, wire.beyond = WireState.RECOVERED, 0
                said = f"trip wire {name!r} has been quiet for {wire.calm} steps"
                self._tell(said, back=True, stops=_stops(name))
            return
        wire.beyond = wire.beyond + 1 if way >= 1 and reading.accompanied else 0
        if wire.beyond >= config.sustain_steps:
            wire.state, wire.calm = WireState.TRIPPED, 0
            self._state.trips += 1
            said = f"trip wire {name!r}: {reading.words}, for {wire.beyond} {reading.counted} in a row"
            self._tell(said, back=False, stops=_stops(name))
        elif way >= 1:
            wire.state = WireState.WARNED
        elif way < CALM and wire.state is WireState.WARNED:
            wire.state = WireState.OK

    def _tell(self, happened: str, *, back: bool, stops: bool = True) -> None:
        others = self._stopping
        if not stops:
            follows = "" if back else "; nothing is stopped, since critics may be what brings it back"
            self._state.unread.append(f"{happened}{follows}")
            return
        if self.config.mode == "warn":
            follows = "guards.mode is 'warn', so nothing is stopped"
        elif back:
            follows = f"still tripped: {', '.join(others)}" if others else "refinements and directive targets go on"
        else:
            follows = (
                f"refinements and directive targets stop until it has been quiet for {self.config.cooldown_steps} "
                "steps, and the run goes on as scalar GRPO"
            )
        self._state.unread.append(f"{happened}; {follows}")


def _stops(name: str) -> bool:
    """Whether a wire stops injection when it trips; those of single kinds only tell."""
    return not name.startswith(KIND)


def _fall(pair: tuple[float, float], limit: float) -> float:
    """How far the present value is on the way down from its reference to `limit` times it."""
    reference, recent = pair
    return (1 - recent / reference) / (1 - limit) if reference > 0 else 0.0


def _rise(pair: tuple[float, float], limit: float) -> float:
    """How far the present value is on the way up from its reference to `limit` times it; a rise from 0 has no bound."""
    reference, recent = pair
    return (recent / reference - 1) / (limit - 1) if reference > 0 else math.inf

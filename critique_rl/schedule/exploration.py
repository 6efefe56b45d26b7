"""A guard of exploration: a state machine with hysteresis that turns one knob at a time, and says why.

    healthy -> collapsing | exploding | flat -> healthy, each after some steps in a row

Owns: the states, which action comes next, what is taken back when. Must not know: how signs are read, where figures
come from, how a knob is put into effect. Every action needs a sign besides token entropy (`exploration_signs`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from pydantic import TypeAdapter

from critique_rl.config.exploration import Action, ExplorationConfig
from critique_rl.schedule.exploration_signs import Phase, Reading, Signs, read
from critique_rl.schedule.restoring import restored
from critique_rl.types import Knobs

RAISING: frozenset[Action] = frozenset({"raise_clip_high", "kl_cov", "entropy_bonus", "raise_temperature"})
"""Actions for more entropy: what an explosion takes back first."""

CALMING: frozenset[Action] = frozenset({"lower_learning_rate", "rollback", "stop"})
"""Actions that fit whichever way entropy goes."""

FITTING: Mapping[Phase, frozenset[Action]] = {
    Phase.COLLAPSING: RAISING | CALMING,
    Phase.EXPLODING: CALMING,
    Phase.FLAT: frozenset({"raise_temperature"}),
}
ORDER = tuple(Phase)
LOGGED = 50


@dataclass(slots=True, kw_only=True)
class Deed:
    """One action, or the taking back of one, and why; `step` counts from 0."""

    step: int
    action: Action
    taken_back: bool
    reason: str


@dataclass(slots=True, kw_only=True)
class _State:
    """All that a resumed run needs. `turned` are the actions in force, one entry for each time, oldest first."""

    signs: Signs = field(default_factory=Signs)
    phase: Phase = Phase.HEALTHY
    sensed: Phase = Phase.HEALTHY
    sensed_for: int = 0
    healthy_for: int = 0
    since_action: int | None = None
    turned: list[Action] = field(default_factory=list[Action])
    latest: Action | None = None
    bonus: float = 0.0
    bonus_applied: float = 0.0
    healthy_checkpoint: int | None = None
    rollback_to: int | None = None
    rollbacks: int = 0
    stop_reason: str = ""
    exhausted: bool = False
    log: list[Deed] = field(default_factory=list[Deed])
    unread: list[str] = field(default_factory=list[str])


_STATE: TypeAdapter[_State] = TypeAdapter(_State)


class Exploration:
    """Watches one run. `actions` are those that can have an effect in it, in their order (none: it only tells);
    `clip_high` is the run's own."""

    def __init__(self, config: ExplorationConfig, *, actions: Sequence[Action], clip_high: float) -> None:
        self.config = config
        self._actions = tuple(actions)
        self._clip_high = clip_high
        self._state = _State()

    def observe(
        self,
        step: int,
        *,
        entropy: float | None,
        success: float | None,
        truncated: float | None,
        p95_tokens: float | None,
        zero_variance: float | None,
        strategy_entropy: float | None,
    ) -> None:
        """One step's rollouts, before anything is filtered out; None: not known. What follows holds from the next step,
        but for the weight of an entropy bonus, which counts in this one.

        Entropies in nats (per token, and of strategies), lengths in tokens, the others as shares.
        """
        state, config = self._state, self.config
        values = {
            "entropy": entropy,
            "success": success,
            "truncated": truncated,
            "p95_tokens": p95_tokens,
            "zero_variance": zero_variance,
            "strategy_entropy": strategy_entropy,
        }
        state.signs.add(values, reference_steps=config.reference_steps)
        self._adapt_bonus(entropy)
        if state.since_action is not None:
            state.since_action += 1
        reading = read(state.signs, config, present=state.phase)
        self._advance(reading)
        if state.phase is Phase.HEALTHY:
            self._take_back_when_healthy(step)
        elif reading.phase is state.phase and reading.acts and not state.stop_reason:
            self._act(step, reading)

    def observe_probe(self, *, pass_at_1: float, pass_at_k: float, tasks: int) -> None:
        """Answers to `tasks` fixed tasks: the success of single ones, and of the best of as many as were asked for."""
        self._state.signs.probe.add(pass_at_1, pass_at_k, tasks)

    def note_training(self, *, grad_norm: float, clip_fraction: float | None) -> None:
        """The training step after the rollouts that were observed last."""
        values = {"grad_norm": grad_norm, "clip_fraction": clip_fraction}
        self._state.signs.add(values, reference_steps=self.config.reference_steps)

    def note_checkpoint(self, step: int) -> int | None:
        """A checkpoint is about to be written after `step` steps; returns the one that must be kept to go back to."""
        state = self._state
        calm = state.phase is Phase.HEALTHY and state.sensed is Phase.HEALTHY and state.rollback_to is None
        if calm and "rollback" in self._actions:
            state.healthy_checkpoint = step
        return state.healthy_checkpoint

    def take_rollback(self) -> int | None:
        """The checkpoint whose weights and optimizer are to be taken up now, once; else None."""
        wanted, self._state.rollback_to = self._state.rollback_to, None
        return wanted

    @property
    def knobs(self) -> Knobs:
        """What has been changed of the run's options."""
        config, counted = self.config, self._state.turned.count
        return Knobs(
            clip_high=min(counted("raise_clip_high") * config.clip_high_rise, self._room_to_clip),
            temperature=min(counted("raise_temperature") * config.temperature_rise, config.max_temperature_rise),
            learning_rate=max(config.learning_rate_factor ** counted("lower_learning_rate"), config.min_learning_rate),
            entropy_weight=self._state.bonus_applied if counted("entropy_bonus") else None,
            kl_cov_share=config.kl_cov_share if counted("kl_cov") else None,
        )

    @property
    def phase(self) -> str:
        return str(self._state.phase)

    @property
    def stop_reason(self) -> str:
        """Why the run is to end, or ""."""
        return self._state.stop_reason

    @property
    def log(self) -> Sequence[Deed]:
        """The latest actions."""
        return self._state.log

    def messages(self) -> Sequence[str]:
        """What a person should know since the last call."""
        told, self._state.unread = self._state.unread, []
        return told

    def figures(self) -> Mapping[str, float]:
        """For the trackers: the state (0 healthy, 1 collapsing, 2 exploding, 3 flat), the knobs, and the weak law."""
        knobs, signs = self.knobs, self._state.signs
        law, headroom = signs.law, signs.headroom
        return {
            "exploration/state": float(ORDER.index(self._state.phase)),
            "exploration/actions": float(len(self._state.turned)),
            "exploration/clip_high": knobs.clip_high,
            "exploration/temperature": knobs.temperature,
            "exploration/learning_rate": knobs.learning_rate,
            **({} if knobs.entropy_weight is None else {"exploration/entropy_weight": knobs.entropy_weight}),
            **({} if knobs.kl_cov_share is None else {"exploration/kl_cov_share": knobs.kl_cov_share}),
            **({} if law is None else {"exploration/law_a": law.a, "exploration/law_b": law.b}),
            **({} if headroom is None else {"exploration/headroom": headroom}),
        }

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, object]:
        """All of it as plain JSON values; their size does not grow with the run."""
        return cast("dict[str, object]", _STATE.dump_python(self._state, mode="json"))

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """The inverse of `state_dict`. Raises CheckpointError for anything that it did not write."""
        self._state = restored(_STATE, state, what="exploration guard")

    # -- inside ------------------------------------------------------------------------------------------------------

    @property
    def _room_to_clip(self) -> float:
        return max(0.0, self.config.max_clip_high - self._clip_high)

    def _adapt_bonus(self, entropy: float | None) -> None:
        state, config = self._state, self.config
        if "entropy_bonus" not in state.turned or entropy is None:
            return
        first = state.signs.reference("entropy", config.reference_steps)
        target = config.entropy_target if config.entropy_target is not None else 0.5 * (first or 0.0)
        step = config.entropy_delta * ((entropy < target) - (entropy > target))
        state.bonus = min(max(state.bonus + step, 0.0), config.max_entropy_weight)
        state.bonus_applied = state.bonus if entropy <= target else 0.0

    def _advance(self, reading: Reading) -> None:
        state, config = self._state, self.config
        state.sensed_for = state.sensed_for + 1 if reading.phase is state.sensed else 1
        state.sensed = reading.phase
        needed = config.wait_steps if reading.phase is Phase.HEALTHY else config.sustain_steps
        state.healthy_for = state.healthy_for + 1 if state.phase is Phase.HEALTHY else 0
        if reading.phase is state.phase or state.sensed_for < needed:
            return
        state.phase, state.healthy_for, state.exhausted = reading.phase, 0, False
        if reading.phase is Phase.HEALTHY:
            self._tell(f"healthy again: no sign of anything else for {state.sensed_for} steps")
        else:
            follows = "" if reading.acts and self._actions else "; nothing is done"
            self._tell(f"{reading.phase}, for {state.sensed_for} steps in a row: {reading.words}{follows}")

    def _act(self, step: int, reading: Reading) -> None:
        state = self._state
        if state.since_action is not None and state.since_action < self.config.wait_steps:
            return
        if reading.phase is Phase.EXPLODING:
            raised = [at for at, action in enumerate(state.turned) if action in RAISING]
            if raised:
                self._undo(step, raised[-1], reading.words)
                return
        action = self._next(FITTING[reading.phase])
        if action is None:
            if self._actions and not state.exhausted:
                self._tell(f"still {reading.phase}, and no action is left: {reading.words}")
            state.exhausted = True
            return
        state.latest, state.since_action = action, 0
        if action == "rollback":
            state.rollback_to, state.rollbacks = state.healthy_checkpoint, state.rollbacks + 1
            state.signs.forget_courses()
            state.phase, state.sensed, state.sensed_for, state.healthy_for = Phase.HEALTHY, Phase.HEALTHY, 0, 0
        elif action == "stop":
            state.stop_reason = f"exploration guard: {reading.words}"
        else:
            state.turned.append(action)
        self._log(step, action, reading.words, taken_back=False)

    def _take_back_when_healthy(self, step: int) -> None:
        state = self._state
        if state.turned and state.healthy_for >= self.config.undo_steps:
            state.healthy_for = 0
            self._undo(step, len(state.turned) - 1, f"healthy for {self.config.undo_steps} steps")

    def _undo(self, step: int, at: int, why: str) -> None:
        state = self._state
        action = state.turned.pop(at)
        state.since_action = 0
        if action == "entropy_bonus":
            state.bonus = state.bonus_applied = 0.0
        self._log(step, action, why, taken_back=True)

    def _next(self, fitting: frozenset[Action]) -> Action | None:
        """The first action after the latest one, round again, that fits and can go further."""
        count, latest = len(self._actions), self._state.latest
        start = self._actions.index(latest) + 1 if latest in self._actions else 0
        order = [self._actions[(start + i) % count] for i in range(count)]
        return next((action for action in order if action in fitting and self._goes_further(action)), None)

    def _goes_further(self, action: Action) -> bool:
        state, config = self._state, self.config
        times = state.turned.count(action)
        match action:
            case "raise_clip_high":
                free = times * config.clip_high_rise < self._room_to_clip - 1e-9
                return free and "kl_cov" not in state.turned
            case "raise_temperature":
                return times * config.temperature_rise < config.max_temperature_rise - 1e-9
            case "lower_learning_rate":
                return config.learning_rate_factor**times > config.min_learning_rate + 1e-9
            case "rollback":
                return state.healthy_checkpoint is not None and state.rollbacks < config.max_rollbacks
            case "stop":
                return True
            case "kl_cov" | "entropy_bonus":
                return times == 0

    def _log(self, step: int, action: Action, why: str, *, taken_back: bool) -> None:
        state = self._state
        state.log = [*state.log, Deed(step=step, action=action, taken_back=taken_back, reason=why)][-LOGGED:]
        does = self._in_words(action)
        self._tell(f"{action} taken back ({does}): {why}" if taken_back else f"{action} ({does}): {why}")

    def _in_words(self, action: Action) -> str:
        knobs = self.knobs
        return {
            "raise_clip_high": f"loss.clip_high is now {self._clip_high + knobs.clip_high:.3g}",
            "kl_cov": f"loss.kl_cov_share is now {knobs.kl_cov_share or 0:g}",
            "entropy_bonus": f"below the target the weight moves by {self.config.entropy_delta:g} a step"
            if knobs.entropy_weight is not None
            else "no bonus",
            "lower_learning_rate": f"learning rate x {knobs.learning_rate:g}",
            "raise_temperature": f"rollout temperature + {knobs.temperature:g}",
            "rollback": f"back to the weights after step {self._state.rollback_to}",
            "stop": "the run ends here",
        }[action]

    def _tell(self, words: str) -> None:
        self._state.unread.append(words)

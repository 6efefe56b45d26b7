"""What a run's figures say of its exploration: which state they are a sign of, and whether it may be acted on.

Owns: each figure's reference and latest course, and the rule that token entropy alone is never enough: it halves in
healthy runs, and strategies die out while it rises (arXiv 2509.03646). Must not know: actions, hysteresis, the loop.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from critique_rl.config.exploration import ExplorationConfig
from critique_rl.stats.entropy_law import EntropyLaw, entropy_law

WINDOW = 20
FEWEST = 8  # values, before a course has a direction
RECENT = 5
POINTS, FEWEST_POINTS = 100, 20  # of the law of entropy and reward
ERRORS = 2.0  # standard errors that make a direction, or a fall of pass@k
PROBES = 2
SOLVED = 0.95
STAYS = 1.5  # times its limit that an entropy must recover to, once it was below
LEAST_STRATEGIES = 0.1  # nats, below which a reference is too small to halve
LEAST_CHANGE: Mapping[str, float] = {"success": 0.02, "entropy": 1e-6, "strategy_entropy": 1e-6}
GROWTH = {"grad_norm": 2.0, "p95_tokens": 1.5, "clip_fraction": 2.0}
MORE_TRUNCATED = 0.1
SOME_CLIPPED = 0.1


class Phase(StrEnum):
    HEALTHY = "healthy"
    COLLAPSING = "collapsing"
    EXPLODING = "exploding"
    FLAT = "flat"


@dataclass(slots=True, kw_only=True)
class Course:
    """One figure: the mean of its first values, and its latest ones."""

    total: float = 0.0
    count: int = 0
    latest: list[float] = field(default_factory=list[float])

    def add(self, value: float, *, reference_steps: int) -> None:
        if self.count < reference_steps:
            self.total += value
            self.count += 1
        self.latest = [*self.latest, value][-WINDOW:]

    @property
    def recent(self) -> float:
        return _mean(self.latest[-RECENT:])

    def moves(self, least: float) -> int:
        """1 or -1 where the later half of the latest values lies above or below the earlier one by more than its
        standard errors and `least`, else 0."""
        if len(self.latest) < FEWEST:
            return 0
        half = len(self.latest) // 2
        earlier, later = self.latest[:-half], self.latest[-half:]
        change = _mean(later) - _mean(earlier)
        error = math.sqrt(_variance(earlier) / len(earlier) + _variance(later) / len(later))
        return 0 if abs(change) <= max(ERRORS * error, least) else (1 if change > 0 else -1)


@dataclass(slots=True, kw_only=True)
class Probe:
    """Fixed tasks: the best that any of k answers did, single answers at that time, and falls below it in a row."""

    best: float | None = None
    best_once: float = 0.0
    narrower: int = 0

    def add(self, pass_at_1: float, pass_at_k: float, tasks: int) -> None:
        """A fall counts if it is beyond chance while single answers are right more often than they were."""
        if self.best is None or pass_at_k >= self.best:
            self.best, self.best_once, self.narrower = pass_at_k, pass_at_1, 0
            return
        error = math.hypot(_binomial_error(self.best, tasks), _binomial_error(pass_at_k, tasks))
        worse = self.best - pass_at_k > ERRORS * error and pass_at_1 > self.best_once
        self.narrower = self.narrower + 1 if worse else 0


@dataclass(slots=True, kw_only=True)
class Signs:
    """All that is known of a run; plain values whose number does not grow."""

    courses: dict[str, Course] = field(default_factory=dict[str, Course])
    points: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    probe: Probe = field(default_factory=Probe)

    def add(self, values: Mapping[str, float | None], *, reference_steps: int) -> None:
        """One step's figures; None and what is not finite is not known."""
        for name, value in values.items():
            if value is not None and math.isfinite(value):
                self.courses.setdefault(name, Course()).add(value, reference_steps=reference_steps)
        entropy, success = values.get("entropy"), values.get("success")
        if entropy is not None and success is not None:
            self.points = [*self.points, (entropy, success)][-POINTS:]

    def forget_courses(self) -> None:
        """After the policy was put back: its latest values are of another one."""
        for course in self.courses.values():
            course.latest = []
        self.points, self.probe.narrower = [], 0

    def reference(self, name: str, steps: int) -> float | None:
        """The mean of a figure's first values once there are `steps` of them."""
        course = self.courses.get(name)
        return None if course is None or course.count < steps else course.total / course.count

    def recent(self, name: str) -> float | None:
        course = self.courses.get(name)
        return None if course is None or not course.latest else course.recent

    def moves(self, name: str) -> int:
        course = self.courses.get(name)
        return 0 if course is None else course.moves(LEAST_CHANGE.get(name, 0.0))

    @property
    def law(self) -> EntropyLaw | None:
        """R = -a exp(H) + b over the latest steps, where it can be fitted and says that entropy is paid with."""
        if len(self.points) < FEWEST_POINTS:
            return None
        law = entropy_law([h for h, _ in self.points], [r for _, r in self.points])
        return law if law is not None and law.a > 0 else None

    @property
    def headroom(self) -> float | None:
        """What the law still promises: (b - a) - R. Weak: see `stats/entropy_law.py`."""
        law, success = self.law, self.recent("success")
        return None if law is None or success is None else law.ceiling - success


class Reading(NamedTuple):
    """The state that the figures are a sign of, whether it may be acted on, and the words for a person."""

    phase: Phase
    acts: bool
    words: str


def read(signs: Signs, config: ExplorationConfig, *, present: Phase) -> Reading:
    """What one step's figures say; `present` is the state the run is in, which entropy must leave by a margin."""
    exploding = _exploding(signs, config)
    if exploding is not None:
        return exploding
    collapsing = _collapsing(signs, config, already=present is Phase.COLLAPSING)
    if collapsing is not None:
        return collapsing
    equal = signs.courses.get("zero_variance")
    success = signs.recent("success")
    stands = equal is not None and len(equal.latest) >= FEWEST and _mean(equal.latest) >= config.flat_zero_variance
    if equal is not None and stands and success is not None and success < SOLVED and signs.moves("success") <= 0:
        share = _mean(equal.latest)
        return Reading(Phase.FLAT, True, f"{share:.0%} of the groups have equal rewards and success does not rise")
    return Reading(Phase.HEALTHY, False, "")


def _exploding(signs: Signs, config: ExplorationConfig) -> Reading | None:
    now, first = signs.recent("entropy"), signs.reference("entropy", config.reference_steps)
    if now is None or first is None:
        return None
    course = signs.courses["entropy"]
    rises = len(course.latest) == WINDOW and signs.moves("entropy") > 0
    if not (now > config.max_entropy * first or (now > config.max_entropy_nats and rises)):
        return None
    besides = _sayings(
        [
            ("success falls", signs.moves("success") < 0),
            ("gradients have grown", _grown(signs, "grad_norm", config)),
            ("answers have grown", _grown(signs, "p95_tokens", config)),
            ("more ratios are clipped", _grown(signs, "clip_fraction", config, least=SOME_CLIPPED)),
            ("more answers are cut off", _risen(signs, "truncated", config, by=MORE_TRUNCATED)),
        ]
    )
    words = f"token entropy is {now:.2f} nats, {first:.2f} at first"
    return Reading(Phase.EXPLODING, bool(besides), _joined(words, besides))


def _collapsing(signs: Signs, config: ExplorationConfig, *, already: bool) -> Reading | None:
    now, first = signs.recent("entropy"), signs.reference("entropy", config.reference_steps)
    seen: list[str] = []
    if now is not None and first is not None:
        limit = config.min_entropy * first * (STAYS if already else 1.0)
        falls = signs.moves("entropy") < 0
        if now < limit and (falls or already):
            seen.append(f"token entropy is {now:.3g} nats, {first:.3g} at first")
        headroom, law = signs.headroom, signs.law
        if falls and headroom is not None and law is not None and headroom < law.residual:
            seen.append(f"reward as a function of entropy promises only {max(headroom, 0.0):.3f} more")
    besides = _sayings(
        [
            ("success falls", bool(seen) and signs.moves("success") < 0),
            ("strategy entropy falls", bool(seen) and signs.moves("strategy_entropy") < 0),
            (_few_strategies(signs, config), bool(_few_strategies(signs, config))),
            (
                f"on the probe fewer tasks are solved by any answer, {PROBES} times in a row and beyond chance, while "
                "single answers are right more often",
                signs.probe.narrower >= PROBES,
            ),
        ]
    )
    if not seen and not besides:
        return None
    return Reading(Phase.COLLAPSING, bool(besides), _joined(" and ".join(seen), besides))


def _few_strategies(signs: Signs, config: ExplorationConfig) -> str:
    now, first = signs.recent("strategy_entropy"), signs.reference("strategy_entropy", config.reference_steps)
    if now is None or first is None or first < LEAST_STRATEGIES or now >= config.min_strategy_entropy * first:
        return ""
    return f"strategy entropy is {now:.2f} nats, {first:.2f} at first"


def _grown(signs: Signs, name: str, config: ExplorationConfig, *, least: float = 0.0) -> bool:
    now, first = signs.recent(name), signs.reference(name, config.reference_steps)
    return now is not None and first is not None and now > max(GROWTH[name] * first, least)


def _risen(signs: Signs, name: str, config: ExplorationConfig, *, by: float) -> bool:
    now, first = signs.recent(name), signs.reference(name, config.reference_steps)
    return now is not None and first is not None and now - first > by


def _sayings(signs: Sequence[tuple[str, bool]]) -> list[str]:
    return [words for words, present in signs if present]


def _joined(words: str, besides: Sequence[str]) -> str:
    if not besides:
        return f"{words}; nothing but token entropy says so"
    return "; ".join([*([words] if words else []), ", ".join(besides)])


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _variance(values: Sequence[float]) -> float:
    if len(values) < 2:
        return 0.0
    mean = _mean(values)
    return math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1)


def _binomial_error(share: float, count: int) -> float:
    return math.sqrt(share * (1 - share) / count) if count else math.inf

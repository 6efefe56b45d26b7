"""A run over its whole length, out of its files: success at each evaluation, entropy, and what the trip wires did.

Owns: when a plateau counts as broken, the floor after it, curves over seeds. Must not know: arms, claims, pictures.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from critique_rl.report.load import MetricRow, load_run_set

LAST_TRIPS = 3
_WIRE = "guards/"
_COUNTS = ("guards/warned", "guards/tripped", "guards/trips", "guards/allows_injection")


class Evaluation(NamedTuple):
    """Held-out success by class; `tokens` are those spent so far, the critic's own included."""

    step: int
    tokens: int
    success: Mapping[str, float]


class Point(NamedTuple):
    """Several seeds at one step: mean tokens, and the mean, the lowest and the highest success."""

    step: int
    tokens: float
    success: float
    lowest: float
    highest: float


class Floor(NamedTuple):
    """The step at which a plateau was broken, and the lowest success at any later evaluation; None: there is none."""

    broken_step: int | None
    success: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One run. Entropy in nats per sampled token (the mean surprise, an estimate), over all steps.

    `wires` holds for each trip wire how far it ever was on the way to its limit (1: there); `trips` is None if none
    watched. `trip_messages` are the last ones of what tripped or recovered.
    """

    evaluations: tuple[Evaluation, ...]
    lowest_entropy: float | None
    highest_entropy: float | None
    wires: Mapping[str, float]
    trips: int | None
    trip_messages: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Plain values, as they go into a results file."""
        return {
            "evaluations": [evaluation._asdict() for evaluation in self.evaluations],
            "lowest_entropy": self.lowest_entropy,
            "highest_entropy": self.highest_entropy,
            "wires": dict(self.wires),
            "trips": self.trips,
            "trip_messages": list(self.trip_messages),
        }


def read_course(directory: Path, kinds: Collection[str]) -> Course:
    """Of a run that has ended and its classes of tasks; what its files do not hold is missing.

    Errors: DataError if there is no such folder.
    """
    runs = load_run_set(directory).runs
    metrics = [row for run in runs for row in run.metrics]
    # A policy that is sure of everything has an entropy of -0.0, being minus a mean.
    entropy = [
        row.values["policy/entropy_estimate"] + 0.0 for row in metrics if "policy/entropy_estimate" in row.values
    ]
    wires: dict[str, float] = {}
    for row in metrics:
        for key in (key for key in row.values if key.startswith(_WIRE) and key not in _COUNTS):
            name = key.removeprefix(_WIRE)
            wires[name] = max(row.values[key], wires.get(name, 0.0))
    trips = next((row.values["guards/trips"] for row in reversed(metrics) if "guards/trips" in row.values), None)
    messages = [f"step {e.step}: {e.message}" for run in runs for e in run.events if e.kind == "guards"]
    return Course(
        evaluations=_evaluations(metrics, kinds),
        lowest_entropy=min(entropy, default=None),
        highest_entropy=max(entropy, default=None),
        wires=wires,
        trips=None if trips is None else int(trips),
        trip_messages=tuple(messages[-LAST_TRIPS:]),
    )


def _evaluations(metrics: Sequence[MetricRow], kinds: Collection[str]) -> tuple[Evaluation, ...]:
    found: list[Evaluation] = []
    generated = critic = 0.0
    for row in metrics:
        generated = row.values.get("tokens/generated", generated)
        critic = row.values.get("critic/completion_tokens", critic)
        # Bounds, pass@k and votes have keys of the same form: only the classes' names tell what a success is.
        success = {kind: row.values[f"eval/{kind}"] for kind in kinds if f"eval/{kind}" in row.values}
        if success:
            found.append(Evaluation(row.step, int(generated + critic), success))
    return tuple(found)


def floor_of(evaluations: Sequence[Evaluation], kind: str) -> Floor:
    """The lowest success of a class after its plateau was broken.

        broken = first t with s_t >= max(s) / 2 > 0,   floor = min of s_t, t > broken

    A class that could be done from the start counts as broken there. Success at `broken` itself is on its way up and
    does not count; a run that never succeeded has broken nothing. Half of all tasks is always half of the best, too.
    """
    seen = [(e.step, e.success[kind]) for e in evaluations if kind in e.success]
    best = max((success for _, success in seen), default=0.0)
    if best <= 0:
        return Floor(None, None)
    broken = next(i for i, (_, success) in enumerate(seen) if success >= best / 2)
    return Floor(seen[broken][0], min((success for _, success in seen[broken + 1 :]), default=None))


def curve_of(courses: Sequence[Course], kind: str) -> list[Point]:
    """A class over the steps at which every one of these runs was evaluated: a mean never changes its seeds midway."""
    by_step = [{e.step: e for e in course.evaluations if kind in e.success} for course in courses]
    if not by_step:
        return []
    shared = [step for step in by_step[0] if all(step in steps for steps in by_step)]
    points: list[Point] = []
    for step in shared:
        rates = [steps[step].success[kind] for steps in by_step]
        tokens = sum(steps[step].tokens for steps in by_step) / len(by_step)
        points.append(Point(step, tokens, sum(rates) / len(rates), min(rates), max(rates)))
    return points

"""Which curves a report shows: reward and held-out success per kind of task, and prompts by state, against tokens.

Owns: the choice of kinds and of the x axis, block means, the points where a stall was reported and the critic first
asked. Must not know: how a curve is drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from critique_rl.report.load import MetricRow, Run, RunSet
from critique_rl.stats.trend import block_means

Points = tuple[tuple[float, float], ...]
_BLOCKS = 48
STATES = ("plateaued", "rescued", "dormant")


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One arm with one seed: block means of the training reward, held-out evaluations, and two moments."""

    arm: int
    label: str
    training: Points
    evaluation: Points
    stall: tuple[float, float] | None
    first_call: tuple[float, float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """All curves of one kind of task."""

    kind: str
    x_label: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StatePanel:
    """Prompts by state over one run."""

    label: str
    x_label: str
    states: tuple[tuple[str, Points], ...]


def kinds(run_set: RunSet, order: Sequence[str] = ()) -> list[str]:
    """Kinds of task that any run measured: those of the result table first, then by name; "mean" only on its own."""
    keys = {key for run in run_set.runs for row in run.metrics for key in row.values}
    found = {key.split("/")[1] for key in keys if key.startswith(("reward/", "eval/"))}
    specific = sorted(found - {"mean"}, key=lambda kind: (order.index(kind) if kind in order else len(order), kind))
    return specific or (["mean"] if "mean" in found else [])


def panels(run_set: RunSet, order: Sequence[str] = ()) -> list[Panel]:
    """One panel a kind; a kind without any value is left out."""
    key, x_label = _x_axis(run_set.runs)
    made = [
        Panel(
            kind=kind,
            x_label=x_label,
            curves=tuple(_curve(run, run_set, kind, key) for run in run_set.runs),
        )
        for kind in kinds(run_set, order)
    ]
    return [panel for panel in made if any(curve.training or curve.evaluation for curve in panel.curves)]


def state_panels(run_set: RunSet) -> list[StatePanel]:
    """Prompts by state, one panel an arm (its first seed), for arms that counted any stalled prompt."""
    key, x_label = _x_axis(run_set.runs)
    made: list[StatePanel] = []
    for arm in run_set.arms:
        for run in run_set.of_arm(arm)[:1]:
            states = tuple((state, _points(run.metrics, f"plateau/{state}", key)) for state in STATES)
            if any(y > 0 for _, points in states for _, y in points):
                made.append(StatePanel(label=run_set.label(arm), x_label=x_label, states=states))
    return made


def _x_axis(runs: Sequence[Run]) -> tuple[str | None, str]:
    measured = [run for run in runs if run.metrics]
    if measured and all(run.last("tokens/generated") is not None for run in measured):
        return "tokens/generated", "generated tokens"
    return None, "step"


def _curve(run: Run, run_set: RunSet, kind: str, x_key: str | None) -> Curve:
    raw = _points(run.metrics, f"reward/{kind}", x_key)
    block = max(1, len(raw) // _BLOCKS)
    xs, ys = [x for x, _ in raw], [y for _, y in raw]
    training = tuple(zip(block_means(xs, block).tolist(), block_means(ys, block).tolist(), strict=True)) if raw else ()
    evaluation = _points(run.metrics, f"eval/{kind}", x_key)
    line = training or evaluation
    return Curve(
        arm=run_set.colour(run.arm),
        label=run_set.label(run.arm),
        training=training,
        evaluation=evaluation,
        stall=_moment(run, run.stall_step, line, x_key),
        first_call=_moment(run, run.first_critic_step, line, x_key),
    )


def _points(metrics: Sequence[MetricRow], y_key: str, x_key: str | None) -> Points:
    """(x, y) of each row with this metric; a row without its own token count takes the latest one before it."""
    points: list[tuple[float, float]] = []
    x = 0.0
    for row in metrics:
        x = row.values.get(x_key, x) if x_key else float(row.step)
        if y_key in row.values:
            points.append((x, row.values[y_key]))
    return tuple(points)


def _moment(run: Run, step: int | None, line: Points, x_key: str | None) -> tuple[float, float] | None:
    if step is None or not line:
        return None
    reached = [row for row in run.metrics if row.step <= step]
    x = next((r.values[x_key] for r in reversed(reached) if x_key in r.values), 0.0) if x_key else float(step)
    return x, _height(line, x)


def _height(line: Points, x: float) -> float:
    """Height of a broken line at x, level beyond its ends."""
    if x <= line[0][0]:
        return line[0][1]
    for (x0, y0), (x1, y1) in pairwise(line):
        if x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0) if x1 > x0 else y1
    return line[-1][1]

"""What a run's last evaluation measured, by metric and class, and one metric over the seeds of an arm.

Owns: the names of metrics, how classes are pooled, and when an interval is wider than the spread of seeds. Must not
know: arms, claims, pictures.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, cast

from critique_rl.config.ablation import POOLED
from critique_rl.stats.intervals import mean_interval, wilson_interval

Json = dict[str, object]
WITH_SKILLS = "with_skills"
"""Success with skills in the prompt; of a run that has no skills, its success."""
NO_RATES = ("confidence/", "utility@", "context_tokens", "monitor/")
"""How the names of metrics begin that are numbers, and no shares of tasks to be told in percent."""
POOLED_FIGURES = "pooled"
"""The key of a run under which figures of all classes' answers together stand, by metric."""


class Figure(NamedTuple):
    """A metric of one run; the bounds are there for rates over tasks."""

    value: float
    low: float | None = None
    high: float | None = None


def last_monitored(directory: Path) -> dict[str, float]:
    """The last value of each figure of the monitors that a run wrote down, by its name; none if nothing watched."""
    found: dict[str, float] = {}
    path = directory / "metrics.jsonl"
    if path.exists():
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                row = cast("Mapping[str, object]", json.loads(line)).items()
                found |= {k: float(v) for k, v in row if k.startswith("monitor/") and isinstance(v, int | float)}
    return found


def ends_of(run: Json, classes: Sequence[str]) -> dict[str, Json]:
    """What the run ended with in each of `classes`; none: in each that its tasks have. "all" pools them."""
    own = cast("Mapping[str, Json]", run["end"])
    wanted = classes or tuple(own)
    ends = {kind: own[kind] for kind in wanted if kind in own}
    if POOLED in wanted and own:
        ends[POOLED] = _pooled(list(own.values()), cast(Json, run.get(POOLED_FIGURES, {})))
    return {kind: ends[kind] for kind in wanted if kind in ends}


def figures_of(end: Json) -> dict[str, Figure]:
    """Every metric of one class, by name."""
    rates = cast("Mapping[str, Mapping[str, float]]", end.get("rates", {}))
    stated = cast("Mapping[str, float]", end.get("calibration", {}))
    measured = cast("Mapping[str, float]", end.get("measured", {}))
    further = cast("Mapping[str, float]", end.get(POOLED_FIGURES, {}))
    return {
        **{name: Figure(value) for name, value in measured.items()},
        **{name: Figure(rate["value"], rate["low"], rate["high"]) for name, rate in rates.items()},
        **{f"confidence/{name}": Figure(value) for name, value in stated.items()},
        **{name: Figure(value) for name, value in further.items()},
    }


def own_success(end: Json) -> Figure:
    """What a run without a memory reaches with all the skills that it has."""
    successes, trials = cast(int, end["successes"]), cast(int, end["trials"])
    return Figure(successes / trials, *wilson_interval(successes, trials))


def over_seeds(found: Sequence[Figure | None], *, share: bool = False) -> Json:
    """Mean, interval and values of one metric, one figure a seed; a mean of None if a seed lacks it. The interval of a
    `share` ends at 0 and 1.

    The interval is Student's t over seeds. A rate over tasks gets the wider of that and the mean of the runs' own
    bounds, end by end: all seeds are asked the same tasks, so that more seeds say nothing about other tasks. One seed
    has its own bounds, or none (None).
    """
    values = [None if figure is None else figure.value for figure in found]
    known = [figure for figure in found if figure is not None]
    if not known or len(known) < len(found):
        return {"mean": None, "low": None, "high": None, "values": values}
    mean = sum(figure.value for figure in known) / len(known)
    spread = mean_interval([figure.value for figure in known]) if len(known) > 1 else None
    lows = [figure.low for figure in known if figure.low is not None]
    highs = [figure.high for figure in known if figure.high is not None]
    low, high = (None, None) if spread is None else spread
    if len(lows) == len(highs) == len(known):
        own_low, own_high = sum(lows) / len(lows), sum(highs) / len(highs)
        low = max(0.0, own_low if low is None else min(low, own_low))
        high = min(1.0, own_high if high is None else max(high, own_high))
    if share and low is not None and high is not None:
        low, high = max(0.0, low), min(1.0, high)
    return {"mean": mean, "low": low, "high": high, "values": values}


def _pooled(ends: Sequence[Json], figures: Json) -> Json:
    """All classes as one: counts add up, and rates weigh by tasks, w_k = n_k / n. Their bounds recover the variance of
    each class (MOVER, Zou and Donner 2008; classes are independent of each other):

        low = p - sqrt(sum w_k^2 (p_k - l_k)^2),   high = p + sqrt(sum w_k^2 (u_k - p_k)^2)

    Calibration is not a mean of classes (that of the ECE is too large, an AUROC has none): it is taken from `figures`,
    which were made of all answers together.
    """
    trials = [cast(int, end["trials"]) for end in ends]
    rates = [cast("Mapping[str, Mapping[str, float]]", end.get("rates", {})) for end in ends]
    shares = [n / sum(trials) for n in trials]
    shared = [name for name in rates[0] if all(name in of_class for of_class in rates)]
    return {
        "successes": sum(cast(int, end["successes"]) for end in ends),
        "trials": sum(trials),
        "rates": {name: _pooled_rate([of_class[name] for of_class in rates], shares) for name in shared},
        **({"measured": means} if (means := _pooled_means(ends, shares)) else {}),
        POOLED_FIGURES: figures,
    }


def _pooled_means(ends: Sequence[Json], shares: Sequence[float]) -> dict[str, float]:
    of_classes = [cast("Mapping[str, float]", end.get("measured", {})) for end in ends]
    shared = [name for name in of_classes[0] if all(name in measured for measured in of_classes)]
    return {
        name: sum(share * measured[name] for share, measured in zip(shares, of_classes, strict=True)) for name in shared
    }


def _pooled_rate(rates: Sequence[Mapping[str, float]], shares: Sequence[float]) -> dict[str, float]:
    value = sum(share * rate["value"] for rate, share in zip(rates, shares, strict=True))
    below = math.hypot(*(share * (rate["value"] - rate["low"]) for rate, share in zip(rates, shares, strict=True)))
    above = math.hypot(*(share * (rate["high"] - rate["value"]) for rate, share in zip(rates, shares, strict=True)))
    return {"value": value, "low": max(0.0, value - below), "high": min(1.0, value + above)}

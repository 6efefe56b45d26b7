"""The figures of an ablation: for each arm and class the mean over seeds with its interval, and the claims judged.

Owns: the keys of a row and when a claim holds. Must not know: how arms were run, what the figures look like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

from critique_rl.config.ablation import SUCCESS, ClaimConfig
from critique_rl.report.ablation_differences import difference_of, with_differences
from critique_rl.report.ablation_metrics import NO_RATES, WITH_SKILLS, ends_of, figures_of, over_seeds, own_success
from critique_rl.report.course import Course, curve_of, floor_of
from critique_rl.stats.intervals import seeds_interval

Json = dict[str, object]
Courses = Mapping[tuple[object, object], Course]
"""By arm and seed, of the runs that were evaluated on the way."""


def rows_of(
    arm: str, runs: Sequence[Json], courses: Courses, *, classes: Sequence[str] = (), columns: Sequence[str] = ()
) -> list[Json]:
    """One row per class of tasks: mean over seeds with its interval, what the arm used, per seed on average, and how it
    fared on the way if every seed was evaluated there. `columns` are further metrics, under "metrics"."""
    followed = [courses[arm, run["seed"]] for run in runs if (arm, run["seed"]) in courses]
    by_run = [ends_of(run, classes) for run in runs]
    rows: list[Json] = []
    for kind in dict.fromkeys(kind for found in by_run for kind in found):
        ends = [found[kind] for found in by_run]
        successes = [cast(int, end["successes"]) for end in ends]
        trials = [cast(int, end["trials"]) for end in ends]
        rates = [s / n for s, n in zip(successes, trials, strict=True)]
        low, high = seeds_interval(successes, trials)
        rows.append(
            {
                "arm": arm,
                "class": kind,
                "mean": sum(rates) / len(rates),
                "low": low,
                "high": high,
                "seeds": [run["seed"] for run in runs],
                "rates": rates,
                "trials": trials,
                "steps": _mean(runs, "steps"),
                "generated_tokens": _mean(runs, "generated_tokens"),
                "critic_tokens": _mean(runs, "critic_completion_tokens"),
                "critic_calls": _mean(runs, "critic_calls"),
                "train_wall_s": _mean(runs, "train_wall_s"),
                **({"metrics": _metrics(ends, columns)} if columns else {}),
                **(_on_the_way(followed, kind) if len(followed) == len(runs) and _followed(followed, kind) else {}),
            }
        )
    return rows


def _metrics(ends: Sequence[Json], columns: Sequence[str]) -> Json:
    figures = [figures_of(end) for end in ends]
    for found, end in zip(figures, ends, strict=True):
        if WITH_SKILLS in columns:
            found.setdefault(WITH_SKILLS, own_success(end))
    return {
        name: over_seeds([found.get(name) for found in figures], share=not name.startswith(NO_RATES))
        for name in columns
    }


def _followed(courses: Sequence[Course], kind: str) -> bool:
    """Whether the class was evaluated on the way: one that pools others was not."""
    return all(kind in evaluation.success for course in courses for evaluation in course.evaluations)


def _on_the_way(courses: Sequence[Course], kind: str) -> Json:
    """The curve of a class over seeds, each seed's floor and the lowest (None where one has none), the trip wires."""
    found = [floor_of(course.evaluations, kind) for course in courses]
    floors = [floor.success for floor in found if floor.success is not None]
    lows = [course.lowest_entropy for course in courses if course.lowest_entropy is not None]
    highs = [course.highest_entropy for course in courses if course.highest_entropy is not None]
    trips = [course.trips for course in courses if course.trips is not None]
    names = dict.fromkeys(name for course in courses for name in course.wires)
    return {
        "curve": [point._asdict() for point in curve_of(courses, kind)],
        "broken_steps": [floor.broken_step for floor in found],
        "floors": [floor.success for floor in found],
        "floor": min(floors) if len(floors) == len(found) else None,
        "lowest_entropy": min(lows, default=None),
        "highest_entropy": max(highs, default=None),
        "trips": sum(trips) if trips else None,
        "wires": {name: max(course.wires.get(name, 0.0) for course in courses) for name in names},
    }


def _mean(runs: Sequence[Json], key: str) -> float:
    return sum(float(cast(float, run[key])) for run in runs) / len(runs)


def judged(claim: ClaimConfig, table: Sequence[Json]) -> Json:
    """A claim with the worst margin between intervals (positive: it holds), or None where an arm is missing. By seeds
    it has the lowest end of its differences, and "verdict", for what they leave undecided (holds: None)."""
    rows = {cast(str, r["arm"]): r for r in table if r["class"] == claim.kind}
    if claim.by == "seeds":
        return _judged_by_seeds(claim, rows)
    if claim.floor_above is not None:
        return _judged_floor(claim, claim.floor_above, rows.get(claim.arm, {}))
    entry: Json = {
        "name": claim.name,
        "value": None,
        "unit": "margin between intervals",
        "target": "> 0",
        "holds": None,
    }
    if claim.metric != SUCCESS:
        entry["unit"] = f"margin between intervals of {claim.metric}"
    bounds = [_bounds(rows.get(arm, {}), claim.metric) for arm in (claim.arm, *claim.others)]
    if None in bounds:
        return entry
    (low, high), *others = (bound for bound in bounds if bound is not None)
    if claim.at_most_share_of is not None:
        return {**entry, **_judged_share(claim, high, others[0][0])}
    margins = [low - other[1] if claim.above else high - other[0] for other in others]
    holds = min(margins) > 0 if claim.above else min(margins) >= 0
    return {**entry, "value": min(margins), "target": "> 0" if claim.above else ">= 0", "holds": holds}


def judged_anew(result: Mapping[str, object], claims: Sequence[ClaimConfig]) -> Json:
    """A finished result with these claims in place of its own, and with differences if it was written without."""
    result = with_differences(result)
    found = [judged(claim, cast("Sequence[Json]", result["table"])) for claim in claims]
    others = cast("Sequence[Json]", result["rows"])[len(cast("Sequence[Json]", result["claims"])) :]
    return {**result, "rows": [*found, *others], "claims": found}


def _judged_by_seeds(claim: ClaimConfig, rows: Mapping[str, Json]) -> Json:
    """A claim with the difference to each other arm: it fails if one interval lies wholly below the bound, and holds if
    all lie wholly above it."""
    bound = 0.0 if claim.margin is None else -claim.margin
    found = {arm: difference_of(rows.get(claim.arm, {}), rows.get(arm, {}), claim.metric) for arm in claim.others}
    verdicts = [_verdict(difference, bound) for difference in found.values()]
    verdict = next(one for one in ("fails", "not measured", "undecided", "holds") if one in verdicts)
    lows = [cast("float | None", difference["low"]) for difference in found.values()]
    measured = [low for low in lows if low is not None]
    return {
        "name": claim.name,
        "value": min(measured) if len(measured) == len(lows) else None,
        "unit": "lower end of the difference by seed" + ("" if claim.metric == SUCCESS else f" of {claim.metric}"),
        "target": f"> {bound:g}",
        "holds": {"holds": True, "fails": False}.get(verdict),
        "verdict": verdict,
        "metric": claim.metric,
        "differences": found,
    }


def _verdict(difference: Json, bound: float) -> str:
    mean, low, high = (cast("float | None", difference[key]) for key in ("mean", "low", "high"))
    if mean is None:
        return "not measured"
    if low is not None and low > bound:
        return "holds"
    return "fails" if high is not None and high < bound else "undecided"


def _bounds(row: Json, metric: str) -> tuple[float, float] | None:
    found = row if metric == SUCCESS else cast("Mapping[str, Json]", row.get("metrics", {})).get(metric, {})
    low, high = found.get("low"), found.get("high")
    return None if low is None or high is None else (cast(float, low), cast(float, high))


def _judged_share(claim: ClaimConfig, high: float, other_low: float) -> Json:
    """The share between the ends of intervals that speaks most against the claim; None where the other's is not above
    0, and nothing can be a share of it."""
    assert claim.at_most_share_of is not None
    share = claim.at_most_share_of.share
    value = high / other_low if other_low > 0 else None
    return {
        "value": value,
        "unit": f"upper end of {claim.metric} over the lower end of {claim.at_most_share_of.arm}'s",
        "target": f"<= {share:g}",
        "holds": value is not None and value <= share,
    }


def _judged_floor(claim: ClaimConfig, bound: float, row: Json) -> Json:
    """A claim with the lowest floor of any seed. It fails if a seed never broke its plateau, and is not measured (None)
    if one was not evaluated after that, or from the step on that the claim names."""
    if claim.from_step is not None:
        points = cast("Sequence[Json]", row.get("curve", []))
        late = [cast(float, p["lowest"]) for p in points if cast(int, p["step"]) >= claim.from_step]
        return {
            "name": claim.name,
            "value": min(late, default=None),
            "unit": f"lowest held-out success of a seed from step {claim.from_step} on",
            "target": f"> {bound:g}",
            "holds": min(late) > bound if late else None,
        }
    floors = cast("Sequence[float | None]", row.get("floors", []))
    measured = [floor for floor in floors if floor is not None]
    unbroken = None in cast("Sequence[int | None]", row.get("broken_steps", []))
    fails = unbroken or any(floor <= bound for floor in measured)
    known = bool(floors) and len(measured) == len(floors)
    return {
        "name": claim.name,
        "value": min(measured, default=None),
        "unit": "lowest held-out success of a seed after its plateau was broken",
        "target": f"> {bound:g}",
        "holds": False if fails else (True if known else None),
    }

"""The result of an ablation as a Markdown table, for `ablation.md`, the terminal and the docs alike.

Owns: its columns and its words. Must not know: how arms were run or how intervals were made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

from critique_rl.config.ablation import SUCCESS
from critique_rl.report.ablation_differences import with_differences
from critique_rl.report.ablation_metrics import NO_RATES

Json = Mapping[str, object]
_VERDICTS = {True: "holds", False: "**fails**", None: "not measured"}
DIFFERENCE_CAPTION = (
    "To {reference}: difference in success at the same seed, mean over seeds with its 95 % interval (Student's t; "
    "where all differences are the same, Newcombe's of the pooled counts)."
)
FLOOR_CAPTION = (
    "A floor is the lowest held-out success of any seed at an evaluation after the one at which that seed's success "
    "first reached half of its best in this class; a dash: some seed never succeeded, or was not evaluated after it. "
    "Entropy is the lowest and the highest of any step (nats per token); trips are those of all wires and seeds."
)


def ablation_table(result: Json, *, floors: bool | None = None) -> str:
    """Arms by classes with their intervals, differences to the reference arm and what they used; the claims below.

    Differences are of success only, and made here for a result of an older version, which has none.
    `floors`: with the lowest success after a plateau was broken, entropy and trips, which a result holds if its runs
    were evaluated on the way (None: if it does). Errors: ValueError if they are asked for and not there.
    """
    table = cast("Sequence[Json]", with_differences(result)["table"])
    kinds = list(dict.fromkeys(cast(str, row["class"]) for row in table))
    floors = has_floors(result) if floors is None else floors
    if floors and not has_floors(result):
        raise ValueError(
            "the result has no floors: its runs were not evaluated on the way; set evaluation.every and run it anew"
        )
    columns = list(dict.fromkeys(name for row in table for name in cast(Json, row.get("metrics", {}))))
    compared = [kind for kind in kinds if any(row["class"] == kind and _is_paired(row) for row in table)]
    heads = ["arm", *kinds, *(f"{kind}: to {result.get('reference')}" for kind in compared)]
    heads += [*(f"{kind}: {column}" for kind in kinds for column in columns)]
    if floors:
        heads += [*(f"{kind}: floor" for kind in kinds), "entropy", "trips"]
    heads += ["steps", "tokens", "critic tokens"]
    lines = [f"| {' | '.join(heads)} |", f"| {' | '.join('---' for _ in heads)} |"]
    for arm in dict.fromkeys(cast(str, row["arm"]) for row in table):
        rows = {cast(str, row["class"]): row for row in table if row["arm"] == arm}
        used = next(iter(rows.values()))
        cells = [_interval(rows[kind], _percent) if kind in rows else "" for kind in kinds]
        cells += [_difference(rows.get(kind, {}).get("difference")) for kind in compared]
        cells += [_metric(rows.get(kind, {}), column) for kind in kinds for column in columns]
        if floors:
            cells += [*(_percent(rows.get(kind, {}).get("floor")) for kind in kinds), *_wires(used)]
        counts = [f"{cast(float, used[key]):,.0f}" for key in ("steps", "generated_tokens", "critic_tokens")]
        lines.append(f"| {' | '.join([arm, *cells, *counts])} |")
    claims = cast("Sequence[Json]", result["claims"])
    lines += ["", *(f"- {claim['name']}: {_judgement(claim)}" for claim in claims)]
    lines += ["", DIFFERENCE_CAPTION.format(reference=result["reference"])] if compared else []
    lines += ["", FLOOR_CAPTION] if floors else []
    return "\n".join(lines) + "\n"


def has_floors(result: Json) -> bool:
    """Whether any run was evaluated on the way."""
    return any("floor" in row for row in cast("Sequence[Json]", result["table"]))


def _is_paired(row: Json) -> bool:
    return cast(Json, row.get("difference", {})).get("mean") is not None


def _judgement(claim: Json) -> str:
    verdict = _VERDICTS[cast("bool | None", claim["holds"])]
    if claim.get("verdict") == "undecided":
        verdict = "not decided"
    metric = cast(str, claim.get("metric", SUCCESS))
    found = cast("Mapping[str, Json]", claim.get("differences", {}))
    told = [f"{_difference(one, metric)} to {arm}" for arm, one in found.items() if one["mean"] is not None]
    return "; ".join([verdict, *told])


def _difference(found: object, metric: str = SUCCESS) -> str:
    """With its sign: in points where it is of a share, or else in the metric's own units."""
    if found is None:
        return "-"
    scale, digits, unit = (1, 3, "") if metric.startswith((*NO_RATES, "reward")) else (100, 1, " points")
    ends = [cast("float | None", cast(Json, found)[key]) for key in ("mean", "low", "high")]
    # -0.04 would be told as -0.0.
    mean, low, high = (None if end is None else f"{round(scale * end, digits) + 0.0:+.{digits}f}" for end in ends)
    if mean is None:
        return "-"
    return f"{mean}{unit}" if low is None else f"{mean}{unit} ({low} to {high})"


def _interval(row: Json, told: Callable[[object], str]) -> str:
    mean, low, high = (told(row[key]) for key in ("mean", "low", "high"))
    return mean if row["low"] is None else f"{mean} ({low} to {high})"


def _metric(row: Json, name: str) -> str:
    found = cast("Mapping[str, Json]", row.get("metrics", {})).get(name)
    return "-" if found is None else _interval(found, _number if name.startswith(NO_RATES) else _percent)


def _percent(value: object) -> str:
    return "-" if value is None else f"{cast(float, value):.1%}"


def _number(value: object) -> str:
    return "-" if value is None else f"{cast(float, value):.3f}"


def _wires(row: Json) -> list[str]:
    low, high, trips = (row.get(key) for key in ("lowest_entropy", "highest_entropy", "trips"))
    entropy = "-" if low is None or high is None else f"{cast(float, low):.2f} to {cast(float, high):.2f}"
    return [entropy, "-" if trips is None else str(trips)]

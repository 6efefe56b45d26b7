"""Two arms of an ablation seed by seed: what one has more than the other, with an interval over seeds.

Owns: which seeds are paired and what the interval of a difference is. Must not know: claims, tables, how arms were run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

from critique_rl.config.ablation import SUCCESS
from critique_rl.stats.intervals import Interval, mean_interval, rate_difference_interval

Json = Mapping[str, object]
_SAME = 1e-9
"""Differences closer than this differ by rounding only."""


def with_differences(result: Json) -> dict[str, object]:
    """A result whose rows have "difference": this arm minus the reference arm, in success and inside each metric.

    The reference's own rows have none, nor has a class that it did not run. Made of what every result holds, so that
    files of older versions get theirs, too.
    """
    table = cast("Sequence[Json]", result["table"])
    reference = result.get("reference")
    of_reference = {row["class"]: row for row in table if row["arm"] == reference}
    return {
        **result,
        "table": [
            _with_difference(row, of_reference[row["class"]])
            if row["arm"] != reference and row["class"] in of_reference
            else row
            for row in table
        ],
    }


def difference_of(row: Json, other: Json, metric: str = SUCCESS) -> dict[str, object]:
    """d_s = row's minus other's at each seed s that both have: mean, low, high, values, seeds.

    The interval is Student's t over the d_s, with 95 %, and for success within [-1, 1]; it takes seeds for independent.
    Where all d_s are the same t would have no width: success then gets Newcombe's of the pooled counts, which forgets
    the pairing, and a metric none. Fewer than two seeds have no interval (None); without a seed, or if one lacks the
    metric, there is no mean either.
    """
    own, others = _by_seed(row, metric), _by_seed(other, metric)
    pairs = {seed: (own[seed], others[seed]) for seed in own if seed in others}
    values = [None if a is None or b is None else a - b for a, b in pairs.values()]
    known = [value for value in values if value is not None]
    mean, ends = None, None
    if known and len(known) == len(values):
        mean = sum(known) / len(known)
        if len(known) > 1 and max(known) - min(known) > _SAME:
            ends = mean_interval(known)
        elif len(known) > 1 and metric == SUCCESS:
            ends = _pooled_interval(row, other, list(pairs))
    if ends is not None and metric == SUCCESS:
        ends = Interval(max(-1.0, ends.low), min(1.0, ends.high))
    low, high = (None, None) if ends is None else ends
    return {"mean": mean, "low": low, "high": high, "values": values, "seeds": list(pairs)}


def _with_difference(row: Json, reference: Json) -> Json:
    compared = {
        name: {**found, "difference": difference_of(row, reference, name)} for name, found in _metrics(row).items()
    }
    return {**row, "difference": difference_of(row, reference), **({"metrics": compared} if compared else {})}


def _by_seed(row: Json, metric: str) -> dict[object, float | None]:
    found = row.get("rates") if metric == SUCCESS else _metrics(row).get(metric, {}).get("values")
    values = cast("Sequence[float | None]", found or ())
    return dict(zip(cast("Sequence[object]", row["seeds"]), values, strict=True)) if values else {}


def _metrics(row: Json) -> Mapping[str, Json]:
    return cast("Mapping[str, Json]", row.get("metrics", {}))


def _pooled_interval(row: Json, other: Json, seeds: Sequence[object]) -> Interval:
    return rate_difference_interval(*_pooled(row, seeds), *_pooled(other, seeds))


class _Counts(NamedTuple):
    successes: int
    trials: int


def _pooled(row: Json, seeds: Sequence[object]) -> _Counts:
    own = cast("Sequence[object]", row["seeds"])
    rates, trials = cast("Sequence[float]", row["rates"]), cast("Sequence[int]", row["trials"])
    counts = [(round(rate * n), n) for seed, rate, n in zip(own, rates, trials, strict=True) if seed in seeds]
    return _Counts(sum(count for count, _ in counts), sum(n for _, n in counts))

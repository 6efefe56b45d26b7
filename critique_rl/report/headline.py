"""What happened in a run, in two sentences and one table, computed from its numbers.

Owns: means over seeds, the choice of the class to speak about, the words. Claims no difference where the 95 % intervals
overlap. Must not know: HTML, files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from critique_rl.report.load import Run, RunSet
from critique_rl.report.records import ResultRow
from critique_rl.stats.intervals import seeds_interval

UNIT = "\N{NO-BREAK SPACE}%"


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One arm on one class, all seeds together: counts are sums, `success` is the mean of the rates of the
    `seeds_counted` seeds with any trial.

    `low` and `high` are a 95 % interval: over seeds (`stats.intervals.seeds_interval`), or with one seed what its row
    brought along, else Wilson's over its trials.
    """

    arm: str
    kind: str
    success: float
    low: float
    high: float
    successes: int
    trials: int
    seeds: tuple[ResultRow, ...]
    seeds_counted: int


def results(run_set: RunSet) -> list[Result]:
    """The summary's table, seeds together; arms in their order, the class that tells them apart most comes first."""
    groups: dict[tuple[str, str], list[ResultRow]] = {}
    for row in run_set.summary.table:
        groups.setdefault((row.kind, row.arm), []).append(row)
    found = [_together(kind, arm, rows) for (kind, arm), rows in groups.items()]
    order = {arm: index for index, arm in enumerate(run_set.arms)}
    return sorted(found, key=lambda r: (-_spread(found, r.kind), r.kind, order.get(r.arm, len(order))))


def headline(run_set: RunSet) -> tuple[str, str]:
    """(how the arms ended, what the stall detection and the critic did). Either is a whole sentence or empty."""
    found = results(run_set)
    if found:
        telling = [r for r in found if r.kind == found[0].kind]
        best = max(telling, key=lambda r: r.success)
        worst = min(telling, key=lambda r: r.success)
        return _outcome(run_set, best, worst), _trigger(run_set, best.arm)
    arm = run_set.arms[0] if run_set.arms else ""
    return _unfinished(run_set), _trigger(run_set, arm)


def percent(rate: float) -> str:
    """`0.2 %`, `42 %`, `97.0 %`: a decimal only near the ends."""
    value = 100.0 * rate
    fine = 0.0 < value < 9.95 or 90.0 < value < 100.0
    return f"{value:.1f}{UNIT}" if fine else f"{value:.0f}{UNIT}"


def span(low: float, high: float) -> str:
    """An interval of rates: `0.0-1.1 %`, with a dash between the numbers."""
    digits = 1 if high < 0.0995 or low > 0.9 else 0
    return f"{100 * low:.{digits}f}–{100 * high:.{digits}f}{UNIT}"


def interval_basis(found: Sequence[Result]) -> str:
    """What the intervals of these results are over: `over 3 seeds`, `over 2–3 seeds`, `within one seed`, or both."""
    counts = {max(1, result.seeds_counted) for result in found}
    several = sorted(counts - {1})
    if not several:
        return "within one seed"
    over = f"over {_range(several)} seeds"
    return f"{over}, or within one where there is only one" if 1 in counts else over


def steps_text(steps: Sequence[int]) -> str:
    """`step 14`, or `steps 12-15` over seeds."""
    return f"step{'s' if len(set(steps)) > 1 else ''} {_range(steps)}"


def _range(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low}" if low == high else f"{low}–{high}"


def _together(kind: str, arm: str, rows: list[ResultRow]) -> Result:
    counted = [row for row in rows if row.trials > 0]
    trials = [row.trials for row in counted]
    successes = [min(max(row.successes, 0), row.trials) for row in counted]
    rates = [s / n for s, n in zip(successes, trials, strict=True)]
    low, high = seeds_interval(successes, trials) if counted else (0.0, 1.0)
    if len(counted) <= 1:
        only = (counted or rows)[0]
        low, high = (low, high) if only.low is None or only.high is None else (only.low, only.high)
    return Result(
        arm=arm,
        kind=kind,
        success=sum(rates) / len(rates) if rates else 0.0,
        low=low,
        high=high,
        successes=sum(successes),
        trials=sum(trials),
        seeds=tuple(rows),
        seeds_counted=len(counted),
    )


def _spread(found: Sequence[Result], kind: str) -> float:
    rates = [r.success for r in found if r.kind == kind]
    # With one arm there is no spread: the class with most room left comes first.
    return max(rates) - min(rates) if len(rates) > 1 else 1.0 - rates[0]


def _outcome(run_set: RunSet, best: Result, worst: Result) -> str:
    plural = best.kind if best.kind.endswith("s") else f"{best.kind} problems"  # "questions", but "hard problems"
    where = f"On {plural}" if best.kind else "On held-out problems"
    basis = f"; 95{UNIT} intervals {interval_basis([best, worst])}"
    if best.arm == worst.arm:
        return f"{where}, {run_set.label(best.arm)} ended at {_rate(best)}{basis}."
    if best.low <= worst.high:
        return (
            f"{where}, no arm is clearly ahead: {run_set.label(worst.arm)} ended at {_rate(worst)}, "
            f"{run_set.label(best.arm)} at {_rate(best)}{basis}."
        )
    verb = "stalled at" if any(_ended_stalled(run) for run in run_set.of_arm(worst.arm)) else "ended at"
    return (
        f"{where}, {run_set.label(worst.arm)} {verb} {_rate(worst)}; "
        f"{run_set.label(best.arm)} reached {_rate(best)}{_same_tokens(best, worst)}{basis}."
    )


def _rate(result: Result) -> str:
    return f"{percent(result.success)} ({span(result.low, result.high)})"


def _ended_stalled(run: Run) -> bool:
    return bool(run.last("plateau/plateaued")) or (run.stall_step is not None and not run.last("plateau/rescued"))


def _same_tokens(best: Result, worst: Result) -> str:
    tokens = [row.generated_tokens for r in (best, worst) for row in r.seeds if row.generated_tokens]
    if len(tokens) < len(best.seeds) + len(worst.seeds) or max(tokens) > 1.02 * min(tokens):
        return ""
    return f" with the same {tokens[0] / 1000:,.0f}k generated tokens"


def _trigger(run_set: RunSet, arm: str) -> str:
    runs = run_set.of_arm(arm)
    stalls = [run.stall_step for run in runs if run.stall_step is not None]
    calls = [run.first_critic_step for run in runs if run.first_critic_step is not None]
    asked = sum(run.last("critic/calls") or 0.0 for run in runs)
    if not runs or not any(run.metrics for run in runs):
        return ""
    if not stalls and not calls:
        return "No stall was detected, and no critic was asked."
    if not calls:
        return f"A stall was detected at {steps_text(stalls)}; no critic was asked."
    total = f"{asked:.0f} critiques were asked for" + (f" over {len(runs)} seeds" if len(runs) > 1 else "")
    if not stalls:
        return f"The critic was first asked at {steps_text(calls)}, without a detected stall; {total}."
    early = all(_told_first(run) for run in runs)
    order = "before" if early else "not before"
    detected = f"The stall was detected at {steps_text(stalls)}, {order} the first critic call"
    return f"{detected} at {steps_text(calls)}; {total}."


def _told_first(run: Run) -> bool:
    stall, call = run.stall_step, run.first_critic_step
    return call is None or (stall is not None and stall <= call)


def _unfinished(run_set: RunSet) -> str:
    for run in run_set.runs:
        if run.metrics:
            reward = run.last("reward/mean")
            ended = f" with a mean reward of {percent(reward)}" if reward is not None else ""
            label = run_set.label(run.arm)
            return f"{label[0].upper()}{label[1:]} is recorded up to step {run.metrics[-1].step}{ended}."
    return "Nothing is recorded of this run yet."

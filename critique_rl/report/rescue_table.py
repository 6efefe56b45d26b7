"""The table of a rescue measurement: one row per critic and one for the control, and how to read it.

Owns: every figure of the table. Must not know: how anything was sampled, or how a critic was asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from critique_rl.stats.calibration import fit_platt
from critique_rl.stats.calibration_error import ece
from critique_rl.stats.discrimination import auroc
from critique_rl.stats.intervals import rate_difference_interval, wilson_interval
from critique_rl.types import CriticOutcome, Critique

CONTROL = "control"
MIN_PER_CLASS = 8
Json = dict[str, object]


class Rescues(NamedTuple):
    """One failed attempt's second attempts: how many were sampled, how many were right, and their tokens."""

    sampled: int
    verified: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """What one critic (or the control, without critiques) did. `rescues` has one entry per failed attempt.

    `critiques`, `scores` (mean over the criteria, None: none given) and `correct` (the verifier's verdicts) have one
    entry per attempt that was reviewed, the failed ones first.
    """

    name: str
    rescues: tuple[Rescues, ...]
    critiques: tuple[Critique, ...] = ()
    scores: tuple[float | None, ...] = ()
    correct: tuple[bool, ...] = ()


def rescue_table(arms: Sequence[Arm], *, samples: int, tasks: int) -> Json:
    """The table as plain JSON, with the same figures as `rows` in the form that the docs are read from.

    It extends Table 1 of Critique-GRPO (arXiv 2506.03106), which gives, for prompts that a trained policy still fails,
    the share of valid critiques and of right refinements under a bare "wrong", the answer, and a written critique.
        critiques          failed attempts that the critic was asked about
        valid              share of them that ended as `ok`: the reply could be read
        usable             share with a directive that passed every filter; the others get no second attempt
        second attempts    sampled by the policy that will be trained, under the run's own refinement prompt
        right              share of those that the verifier accepts, with its 95 % Wilson interval
        rescued            share of ALL failed attempts with a right second attempt, with its 95 % Wilson interval
        minus control      `rescued` less the control's, with Newcombe's 95 % interval
        better             whether that interval lies above 0: only then does asking this critic buy anything
        verdicts right     of the verdicts that the critic gave, over failed and right attempts together
        AUROC, ECE         of its mean score against the verifier; 0.5 is chance; both need right attempts too
    The control is told "Wrong." in the directive's place. Attempts count as independent: many at one task flatter every
    interval, so `tasks` stands beside them.

    `samples` second attempts were asked for per failed attempt, the attempts being at `tasks` tasks. One arm must be
    named `CONTROL`.
    """
    control = next(arm for arm in arms if arm.name == CONTROL)
    table = [_entry(arm, control) for arm in arms]
    return {
        "attempts": len(control.rescues),
        "tasks": tasks,
        "samples": samples,
        "notes": _notes(arms),
        "table": table,
        "rows": [row for entry in table for row in _rows(entry)],
    }


def rescue_text(result: Mapping[str, object]) -> str:
    """The table for a terminal: one column per arm."""
    table = cast("list[Json]", result["table"])
    columns = [["", *(label for label, _ in _LINES)], *([str(e["critic"]), *(f(e) for _, f in _LINES)] for e in table)]
    widths = [max(map(len, column)) for column in columns]
    lines = [
        "  ".join(
            cell.ljust(width) if n == 0 else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ).rstrip()
        for cells in zip(*columns, strict=True)
    ]
    samples = cast(int, result["samples"])
    head = f"{result['attempts']} failed attempts at {result['tasks']} tasks, {samples} second attempts each"
    return "\n".join([head, "", *lines, *(f"note: {note}" for note in cast("list[str]", result["notes"]))])


def _entry(arm: Arm, control: Arm) -> Json:
    n = len(arm.rescues)
    sampled = sum(r.sampled for r in arm.rescues)
    verified = sum(r.verified for r in arm.rescues)
    rescued = sum(r.verified > 0 for r in arm.rescues)
    right, all_rescued = wilson_interval(verified, sampled), wilson_interval(rescued, n)
    entry: Json = {
        "critic": arm.name,
        "attempts": n,
        "second_attempts": sampled,
        "right": verified,
        "right_rate": verified / sampled if sampled else None,
        "right_low": right.low,
        "right_high": right.high,
        "rescued": rescued,
        "rescue_rate": rescued / n,
        "rescue_low": all_rescued.low,
        "rescue_high": all_rescued.high,
        "second_attempt_tokens": sum(r.tokens for r in arm.rescues),
    }
    if arm is control:
        return entry
    base = sum(r.verified > 0 for r in control.rescues)
    difference = rate_difference_interval(rescued, n, base, len(control.rescues))
    return entry | {
        "difference": rescued / n - base / len(control.rescues),
        "difference_low": difference.low,
        "difference_high": difference.high,
        "better_than_control": difference.low > 0,
        **_said(arm, rescued),
    }


def _said(arm: Arm, rescued: int) -> Json:
    """The critic's own figures: what came back, how true it was, and what it cost."""
    on_failed = arm.critiques[: len(arm.rescues)]
    verdicts = [c.verdict == ("correct" if right else "incorrect") for c, right in _pairs(arm) if c.verdict is not None]
    scored = [(score, right) for score, right in zip(arm.scores, arm.correct, strict=True) if score is not None]
    values, truth = [score for score, _ in scored], [right for _, right in scored]
    area = auroc(values, truth)
    costs = [c.usage.cost_usd for c in arm.critiques]
    cost = None if any(one is None for one in costs) else sum(one or 0.0 for one in costs)
    return {
        "critiques": len(on_failed),
        "outcomes": dict(Counter(str(c.outcome) for c in on_failed)),
        "valid_rate": sum(c.outcome is CriticOutcome.OK for c in on_failed) / len(on_failed),
        "usable_rate": sum(bool(c.directive_text) for c in on_failed) / len(on_failed),
        "reviewed_right_attempts": len(arm.critiques) - len(on_failed),
        "verdicts": len(verdicts),
        "verdict_accuracy": sum(verdicts) / len(verdicts) if verdicts else None,
        "scored": len(values),
        "auroc": area,
        "ece": ece(values, truth) if area is not None else None,
        "calibrator": fit_platt(values, truth).to_dict() if _enough(truth) else None,
        "critic_prompt_tokens": sum(c.usage.prompt_tokens for c in arm.critiques),
        "critic_completion_tokens": sum(c.usage.completion_tokens for c in arm.critiques),
        "cost_usd": cost,
        "cost_per_rescue_usd": cost / rescued if cost is not None and rescued else None,
    }


def _pairs(arm: Arm) -> list[tuple[Critique, bool]]:
    return list(zip(arm.critiques, arm.correct, strict=True))


def _notes(arms: Sequence[Arm]) -> list[str]:
    notes: list[str] = []
    if any(arm.critiques and len(set(arm.correct)) < 2 for arm in arms):
        notes.append(
            "the file holds no right attempts, so AUROC and ECE are unknown and a critic that calls everything wrong "
            "gets every verdict right; write a file with right ones too (rollout without --failed-only)"
        )
    again = sum(critique.asks > 1 for arm in arms for critique in arm.critiques)
    if again:
        notes.append(
            f"{again} replies are second ones, asked for because the first was malformed or its verdict was not the "
            "verifier's, so verdicts and scores flatter; set critic.reasks = 0 for a critic's first word"
        )
    return notes


def _enough(truth: list[bool]) -> bool:
    """Whether two parameters can be fitted: some of both kinds."""
    return min(truth.count(True), truth.count(False)) >= MIN_PER_CLASS


def _rows(entry: Json) -> list[Json]:
    figures = {
        "rescue_rate": "rescued failed attempts",
        "right_rate": "verified second attempts",
        "difference_low": "rescue rate above control, 95 % lower end",
        "better_than_control": "interval above 0",
        "valid_rate": "critiques",
        "usable_rate": "critiques",
        "verdict_accuracy": "verdicts",
        "auroc": "AUROC",
        "ece": "ECE",
        "cost_per_rescue_usd": "USD",
    }
    return [
        {"name": f"{entry['critic']}/{key}", "value": entry[key], "unit": unit, "target": None, "holds": None}
        for key, unit in figures.items()
        if entry.get(key) is not None
    ]


def _share(entry: Json, key: str, *bounds: str, sign: str = "") -> str:
    if entry.get(key) is None:
        return "-"
    ends = ", ".join(f"{cast(float, entry[b]):{sign}.1%}" for b in bounds)
    return f"{cast(float, entry[key]):{sign}.1%}" + (f" [{ends}]" if ends else "")


def _number(entry: Json, key: str, form: str) -> str:
    return "-" if entry.get(key) is None else format(cast(float, entry[key]), form)


def _tokens(entry: Json) -> str:
    if "critiques" not in entry:
        return "-"
    return f"{entry['critic_prompt_tokens']} + {entry['critic_completion_tokens']}"


def _better(entry: Json) -> str:
    return {None: "-", True: "yes", False: "no"}[cast("bool | None", entry.get("better_than_control"))]


_LINES: tuple[tuple[str, Callable[[Json], str]], ...] = (
    ("critiques", lambda e: _number(e, "critiques", "d")),
    ("valid", lambda e: _share(e, "valid_rate")),
    ("usable", lambda e: _share(e, "usable_rate")),
    ("second attempts", lambda e: _number(e, "second_attempts", "d")),
    ("right", lambda e: _share(e, "right_rate", "right_low", "right_high")),
    ("rescued", lambda e: _share(e, "rescue_rate", "rescue_low", "rescue_high")),
    ("minus control", lambda e: _share(e, "difference", "difference_low", "difference_high", sign="+")),
    ("better than control", _better),
    ("verdicts right", lambda e: _share(e, "verdict_accuracy")),
    ("AUROC", lambda e: _number(e, "auroc", ".2f")),
    ("ECE", lambda e: _number(e, "ece", ".2f")),
    ("critic tokens in + out", _tokens),
    ("second attempts' tokens", lambda e: _number(e, "second_attempt_tokens", "d")),
    ("cost USD", lambda e: _number(e, "cost_usd", ".4f")),
    ("cost per rescue USD", lambda e: _number(e, "cost_per_rescue_usd", ".4f")),
)

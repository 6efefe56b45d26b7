"""`decide` by utilities: answer or abstain for each record, and what that was worth where the truth is known.

Owns: the cases that a file of confidences makes, and the report of one or several regimes of utilities on them. Must
not know: cost matrices, files, how anything is printed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from critique_rl.decisions.records import ConfidenceRecord, unit_names
from critique_rl.errors import DataError
from critique_rl.stats.calibration import Calibrator
from critique_rl.stats.decisions import Pooling, Utilities, answers, pool_answers, unweight
from critique_rl.stats.forecasts import ForecastFigures, doubts, ece_by_chance, forecast_figures
from critique_rl.stats.selective import RiskCoverage, outcome, regret, risk_coverage

Array = NDArray[np.float64]
Json = dict[str, object]
ANSWER, ABSTAIN = "answer", "abstain"
DRAWS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """A name for what a mistake costs, and the utilities."""

    name: str
    utilities: Utilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One decision to take: a record, or the pooled answers to one question.

    `confidence` is as stated (None: pooled), `probability` what the decision is taken by; `unit` is drawn as one when
    intervals are made.
    """

    where: str
    probability: float
    unit: str
    confidence: float | None = None
    correct: bool | None = None
    answer: str | None = None
    group: str | None = None
    id: str | None = None


class Decided(NamedTuple):
    """What came of it. `actions` has one list per regime, `table` one entry; None: no record says what was right."""

    cases: list[Case]
    regimes: tuple[Regime, ...]
    actions: list[list[str]]
    table: list[Json]
    curve: RiskCoverage | None
    figures: ForecastFigures | None
    warnings: tuple[str, ...]


def believed(
    records: Sequence[ConfidenceRecord], calibrator: Calibrator | None, *, class_weight: float | None = None
) -> list[Case]:
    """Records as cases: confidences through the calibrator, or freed of a class weight, or as they are."""
    stated = np.array([record.confidence for record in records])
    probabilities = unweight(stated, class_weight) if class_weight is not None else stated
    if calibrator is not None:
        probabilities = calibrator.apply(probabilities)
    return [
        Case(
            where=record.where,
            probability=float(p),
            unit=unit,
            confidence=record.confidence,
            correct=record.correct,
            answer=record.answer,
            group=record.group,
            id=record.id,
        )
        for record, p, unit in zip(records, probabilities, unit_names(records), strict=True)
    ]


def pooled(cases: Sequence[Case], how: Pooling) -> list[Case]:
    """One case per group: the answer of the largest pooled probability. Every case needs an answer and a group.

    Raises DataError where equal answers of one group are called both right and wrong.
    """
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.unit, []).append(case)
    found: list[Case] = []
    for unit, members in groups.items():
        given = [case.answer or "" for case in members]
        chosen = pool_answers(given, [case.probability for case in members], how)
        same = [case for case in members if (case.answer or "") == chosen.answer]
        torn = next((case for case in same if case.correct != same[0].correct), None)
        if torn is not None:
            raise DataError(
                f"{torn.where}: answer {chosen.answer!r} of {unit} is called right here or at {same[0].where}, and "
                "wrong at the other; wanted one verdict per answer"
            )
        found.append(
            Case(
                where=same[0].where,
                probability=chosen.probability,
                unit=unit,
                correct=same[0].correct,
                answer=chosen.answer,
                group=same[0].group,
                id=same[0].id,
            )
        )
    return found


def decide(cases: Sequence[Case], regimes: Sequence[Regime], *, draws: int = DRAWS, seed: int = 0) -> Decided:
    """Answer where p >= (u_a - u_w) / (u_c - u_w), under each regime; with the truth known, what it was worth.

    `draws` resamples make each 95 % interval. At least one case and one regime.
    """
    p = np.array([case.probability for case in cases])
    actions = [
        [ANSWER if chosen else ABSTAIN for chosen in answers(p, regime.utilities.threshold)] for regime in regimes
    ]
    if any(case.correct is None for case in cases):
        table = [_unjudged(regime, p) for regime in regimes]
        return Decided(list(cases), tuple(regimes), actions, table, None, None, ())
    correct = np.array([case.correct is True for case in cases])
    units = [case.unit for case in cases]
    figures = forecast_figures(p, correct)
    table = [_unjudged(one, p) | _judged(one, p, correct, units, draws=draws, seed=seed) for one in regimes]
    return Decided(
        list(cases),
        tuple(regimes),
        actions,
        table,
        risk_coverage(p, correct),
        figures,
        (*doubts(p, correct), *shift(p, figures, seed=seed)),
    )


def shift(p: Array, figures: ForecastFigures, *, seed: int) -> tuple[str, ...]:
    """A warning if these probabilities are further from calibrated than chance explains."""
    chance = ece_by_chance(p, seed=seed)
    if figures.ece <= chance:
        return ()
    return (
        f"the probabilities are not calibrated on these records: ECE {figures.ece:.3f}, where calibrated ones would "
        f"stay below {chance:.3f} in 99 of 100 cases; thresholds from utilities assume calibration, so fit "
        "a calibrator on records like these, or look at best_threshold",
    )


def _unjudged(regime: Regime, p: Array) -> Json:
    """What can be said without the truth; `expected_utility` believes the probabilities."""
    u = regime.utilities
    answered = answers(p, u.threshold)
    worth = np.where(answered, p * u.correct + (1 - p) * u.wrong, u.abstain)
    return {
        "regime": regime.name,
        "correct": u.correct,
        "wrong": u.wrong,
        "abstain": u.abstain,
        "threshold": u.threshold,
        "records": int(p.size),
        "answered": int(answered.sum()),
        "coverage": float(answered.mean()),
        "expected_utility": float(worth.mean()),
        "note": _note(u, p),
    }


def _note(u: Utilities, p: Array) -> str:
    t = u.threshold
    if t <= 0:
        return "a wrong answer is worth no less than abstaining, so every record is answered whatever its probability"
    if t > 1:
        return "abstaining is worth more than a right answer, so nothing is answered whatever its probability"
    if not answers(p, t).any():
        return f"no record reaches the threshold {t:.4g}; the most probable one has {p.max():.4g}"
    return ""


def _judged(
    regime: Regime, p: Array, correct: NDArray[np.bool_], units: Sequence[str], *, draws: int, seed: int
) -> Json:
    found = regret(p, correct, regime.utilities, units=units, draws=draws, seed=seed)
    return {
        "selective_accuracy": found.fixed.selective_accuracy,
        "utility": found.fixed.utility,
        "utility_low": found.utility_interval.low,
        "utility_high": found.utility_interval.high,
        "answer_all_utility": outcome(p, correct, regime.utilities, -math.inf).utility,
        "gain_low": found.gain_interval.low,
        "gain_high": found.gain_interval.high,
        "best_threshold": _finite(found.best.threshold),
        "best_threshold_low": _finite(found.best_threshold_interval.low),
        "best_threshold_high": _finite(found.best_threshold_interval.high),
        "best_utility": found.best.utility,
        "regret": found.regret,
        "regret_low": found.regret_interval.low,
        "regret_high": found.regret_interval.high,
    }


def _finite(threshold: float) -> float | None:
    """JSON knows no infinity; None stands for the threshold above all, which answers nothing."""
    return threshold if math.isfinite(threshold) else None

"""How well answering only above a threshold turned out on records whose truth is known.

Owns: coverage, selective accuracy and utility, the risk-coverage curve and its area, the best threshold in hindsight,
and bootstrap intervals. Must not know: how probabilities were made, what is done with the figures.
A record is answered where p >= t; records of equal probability are answered together or not at all.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from critique_rl.stats.decisions import SLACK, Utilities, answers
from critique_rl.stats.intervals import Interval

Array = NDArray[np.float64]
Numbers = Sequence[float] | Array
Verdicts = Sequence[bool] | NDArray[np.bool_]


class Outcome(NamedTuple):
    """What one threshold did: the share answered, how many of those were right (None: none answered), mean utility."""

    threshold: float
    coverage: float
    selective_accuracy: float | None
    utility: float


class CurvePoint(NamedTuple):
    """One point of the risk-coverage curve; `risk` is the share of answered records that is wrong."""

    threshold: float
    coverage: float
    risk: float


class RiskCoverage(NamedTuple):
    """The curve and the area under it; 0 is perfect, `error_rate` what a ranking by chance has on average.

    `best_area` is the area of a ranking that puts every right answer first.
    """

    points: tuple[CurvePoint, ...]
    area: float
    best_area: float
    error_rate: float


class Regret(NamedTuple):
    """The fixed threshold beside the best one in hindsight, with percentile intervals over resampled records."""

    fixed: Outcome
    best: Outcome
    regret: float
    utility_interval: Interval
    gain_interval: Interval
    best_threshold_interval: Interval
    regret_interval: Interval


def outcome(probabilities: Numbers, correct: Verdicts, utilities: Utilities, threshold: float | None = None) -> Outcome:
    """Mean of u_c (right), u_w (wrong), u_a (not answered) at `threshold`; None: the one that the utilities imply.

    Raises ValueError for no records, lists of unequal lengths, or a probability outside [0, 1].
    """
    p, right = _checked(probabilities, correct)
    at = utilities.threshold if threshold is None else threshold
    answered = answers(p, at)
    value = np.where(answered, np.where(right, utilities.correct, utilities.wrong), utilities.abstain)
    accuracy = float(right[answered].mean()) if answered.any() else None
    return Outcome(at, float(answered.mean()), accuracy, float(value.mean()))


def risk_coverage(probabilities: Numbers, correct: Verdicts) -> RiskCoverage:
    """Selective risk over coverage, most probable first, and AURC = mean over k of the risk of the first k records.

    Inside a block of equal probabilities the expected risk over their orders counts, so that the area does not depend
    on the order of the file. (arXiv 1805.08206.) Raises ValueError as `outcome` does.
    """
    p, right = _checked(probabilities, correct)
    order = np.argsort(-p, kind="stable")
    p, wrong = p[order], (~right[order]).astype(np.float64)
    ends = _block_ends(p)
    errors_at_ends = np.cumsum(wrong)[ends]
    k = np.arange(1, p.size + 1)
    expected_errors = np.interp(k, np.concatenate([[0], ends + 1]), np.concatenate([[0.0], errors_at_ends]))
    points = tuple(
        CurvePoint(float(p[end]), float((end + 1) / p.size), float(errors / (end + 1)))
        for end, errors in zip(ends, errors_at_ends, strict=True)
    )
    total = wrong.sum()
    best_errors = np.maximum(0.0, k - (p.size - total))
    return RiskCoverage(
        points, float(np.mean(expected_errors / k)), float(np.mean(best_errors / k)), float(total / p.size)
    )


def best_outcome(probabilities: Numbers, correct: Verdicts, utilities: Utilities) -> Outcome:
    """The threshold of the largest utility on these very records: it flatters, as it was chosen with the truth known.

    Candidates are the probabilities that occur, and infinity (answer nothing); of equally good ones the lowest, which
    answers the most. Raises ValueError as `outcome` does.
    """
    p, right = _checked(probabilities, correct)
    order = np.argsort(-p, kind="stable")
    gains = np.where(right[order], utilities.correct, utilities.wrong) - utilities.abstain
    at = _best_threshold(p[order], _block_ends(p[order]), gains, np.ones(p.size))
    return outcome(p, right, utilities, at)


def regret(
    probabilities: Numbers,
    correct: Verdicts,
    utilities: Utilities,
    *,
    units: Sequence[Hashable] | None = None,
    draws: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Regret:
    """Utility of the best threshold minus that of the implied one, never negative, with bootstrap intervals.

    In each resample the best threshold is sought anew. `gain_interval` is that of the utility over answering all.
    `units` names what records belong together (all answers to one question): those are drawn together.
    Raises ValueError as `outcome` does, and for units of another number, fewer than one draw, or a confidence outside
    (0, 1).
    """
    p, right = _checked(probabilities, correct)
    if draws < 1 or not 0 < confidence < 1:
        raise ValueError(f"draws is {draws} and confidence {confidence}; wanted at least 1, and between 0 and 1")
    order = np.argsort(-p, kind="stable")
    unit, count = _unit_numbers(units, p.size)
    p, right, unit = p[order], right[order], unit[order]
    fixed, best = outcome(p, right, utilities), best_outcome(p, right, utilities)
    ends = _block_ends(p)
    value = np.where(right, utilities.correct, utilities.wrong)
    gains = value - utilities.abstain
    kept = answers(p, fixed.threshold)
    rng = np.random.default_rng(seed)
    found = np.empty((draws, 4))
    for draw in range(draws):
        weights = _resampled(rng, count)[unit]
        size = weights.sum()
        at = _best_threshold(p, ends, gains, weights)
        own = float((weights * gains * kept).sum() / size)
        top = float((weights * gains * (p >= at)).sum() / size)
        everything = float((weights * gains).sum() / size)
        found[draw] = own + utilities.abstain, own - everything, at, max(0.0, top - own)
    return Regret(
        fixed, best, max(0.0, best.utility - fixed.utility), *(_percentiles(column, confidence) for column in found.T)
    )


def mean_interval_over_units(
    values: Numbers,
    *,
    units: Sequence[Hashable] | None = None,
    draws: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Percentile interval of a mean over resampled records, or over resampled `units` of records.

    Raises ValueError for no values, a value that is not finite, or units of another number.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0 or not bool(np.isfinite(data).all()):
        raise ValueError("values are not a flat list of at least one finite number")
    unit, count = _unit_numbers(units, data.size)
    sums = np.bincount(unit, weights=data, minlength=count)
    sizes = np.bincount(unit, minlength=count).astype(np.float64)
    rng = np.random.default_rng(seed)
    means = np.empty(draws)
    for draw in range(draws):
        weights = _resampled(rng, count)
        means[draw] = (weights @ sums) / (weights @ sizes)
    return _percentiles(means, confidence)


def _best_threshold(p: Array, ends: NDArray[np.int64], gains: Array, weights: Array) -> float:
    """`gains` are over abstaining, so answering nothing is worth 0. A block of weight 0 is absent."""
    there = np.diff(np.cumsum(weights)[ends], prepend=0.0) > 0
    ends = ends[there]
    totals = np.cumsum(weights * gains)[ends]
    best = float(totals.max())
    slack = SLACK * max(1.0, float(np.abs(totals).max()))
    if best < -slack:
        return math.inf
    best = max(best, 0.0)
    last = int(np.flatnonzero(totals >= best - slack)[-1])
    return float(p[ends[last]])


def _block_ends(p: Array) -> NDArray[np.int64]:
    """The last place of each block of equal values in a sorted list."""
    return np.flatnonzero(np.append(p[1:] != p[:-1], True)).astype(np.int64)


def _resampled(rng: np.random.Generator, count: int) -> Array:
    """How often each of `count` units comes up when as many are drawn with replacement."""
    return np.bincount(rng.integers(0, count, count), minlength=count).astype(np.float64)


def _unit_numbers(units: Sequence[Hashable] | None, size: int) -> tuple[NDArray[np.int64], int]:
    if units is None:
        return np.arange(size), size
    if len(units) != size:
        raise ValueError(f"{len(units)} units came with {size} records; wanted one each")
    numbers = {unit: n for n, unit in enumerate(dict.fromkeys(units))}
    return np.array([numbers[unit] for unit in units], dtype=np.int64), len(numbers)


def _percentiles(values: Array, confidence: float) -> Interval:
    # Without interpolation: between a number and infinity there is none.
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2], method="inverted_cdf")
    return Interval(float(low), float(high))


def _checked(probabilities: Numbers, correct: Verdicts) -> tuple[Array, NDArray[np.bool_]]:
    p, right = np.asarray(probabilities, dtype=np.float64), np.asarray(correct, dtype=np.bool_)
    if p.ndim != 1 or p.size == 0 or p.shape != right.shape:
        raise ValueError(f"{p.size} probabilities came with {right.size} verdicts; wanted one each, at least one")
    if not bool(((p >= 0) & (p <= 1)).all()):
        raise ValueError("a probability is outside [0, 1]; wanted numbers from 0 to 1")
    return p, right

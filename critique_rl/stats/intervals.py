"""Confidence intervals for success rates, for differences of two, and for means over seeds.

Owns: Wilson, Newcombe, Clopper-Pearson and Student t. Must not know: tasks, rollouts, plateaus.
Bounds never claim more than the data holds: no trials give [0, 1], one seed gives (-inf, inf).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special


class Interval(NamedTuple):
    """A closed interval; `low <= high`."""

    low: float
    high: float


def wilson_interval(successes: float, trials: float, confidence: float = 0.95) -> Interval:
    """Wilson score interval of a rate: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n).

    Good at few trials and at rates near 0 or 1, where p +- z se is not. Raises ValueError unless
    0 <= successes <= trials and 0 < confidence < 1.
    """
    _check_counts(successes, trials)
    _check_confidence(confidence)
    if trials == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate, shrink = successes / trials, 1 + z * z / trials
    centre = (rate + z * z / (2 * trials)) / shrink
    half = z * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials)) / shrink
    # At the ends the formula is exactly 0 or 1 but for rounding.
    return Interval(
        0.0 if successes == 0 else max(0.0, centre - half), 1.0 if successes == trials else min(1.0, centre + half)
    )


def rate_difference_interval(
    successes: float, trials: float, other_successes: float, other_trials: float, confidence: float = 0.95
) -> Interval:
    """Newcombe's hybrid score interval of p1 - p2, two independent rates with Wilson bounds l, u:
    d - sqrt((p1 - l1)^2 + (u2 - p2)^2) to d + sqrt((u1 - p1)^2 + (p2 - l2)^2).

    (Statistics in Medicine 17, 1998, method 10.) No trials in an arm give [-1, 1]. Raises ValueError as
    `wilson_interval` does.
    """
    one = wilson_interval(successes, trials, confidence)
    two = wilson_interval(other_successes, other_trials, confidence)
    if trials == 0 or other_trials == 0:
        return Interval(-1.0, 1.0)
    p1, p2 = successes / trials, other_successes / other_trials
    low = p1 - p2 - math.hypot(p1 - one.low, two.high - p2)
    high = p1 - p2 + math.hypot(one.high - p1, p2 - two.low)
    return Interval(max(-1.0, low), min(1.0, high))


def clopper_pearson(successes: float, trials: float, confidence: float = 0.95) -> Interval:
    """Exact two-sided interval of a rate: quantiles of Beta(s, n-s+1) and Beta(s+1, n-s).

    Covers with at least `confidence` at every true rate, so it is wider than Wilson's. Raises ValueError unless
    0 <= successes <= trials and 0 < confidence < 1.
    """
    _check_counts(successes, trials)
    _check_confidence(confidence)
    failures = trials - successes
    miss = (1 - confidence) / 2
    low = 0.0 if successes == 0 else _beta_quantile(miss, successes, failures + 1)
    high = 1.0 if failures == 0 else _beta_quantile(1 - miss, successes + 1, failures)
    return Interval(low, high)


def success_upper_bound(successes: float, failures: float, confidence: float = 0.95) -> float:
    """One-sided upper bound of a success rate; with no success in N failures 1 - (1 - confidence)^(1/N).

    The `confidence` quantile of Beta(successes + 1, failures): the largest rate at which results this poor still
    happen with probability 1 - confidence. Counts may be fractional (exponentially forgotten evidence). No failures
    give 1. Raises ValueError for negative counts or a confidence outside (0, 1).
    """
    _check_counts(successes, successes + failures)
    _check_confidence(confidence)
    return 1.0 if failures == 0 else _beta_quantile(confidence, successes + 1, failures)


def mean_interval(values: Sequence[float] | NDArray[np.float64], confidence: float = 0.95) -> Interval:
    """Student t interval of a mean: m +- t_{n-1} s / sqrt(n), for results over n independent seeds.

    One value gives (-inf, inf): one seed says nothing about spread. Raises ValueError for no values, a non-finite
    value, or a confidence outside (0, 1).
    """
    _check_confidence(confidence)
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0 or not bool(np.isfinite(data).all()):
        raise ValueError(f"values is {values!r}; wanted a flat list of at least one finite number, one per seed")
    if data.size == 1:
        return Interval(-math.inf, math.inf)
    t = float(special.stdtrit(data.size - 1, 0.5 + confidence / 2))
    half = t * float(data.std(ddof=1)) / math.sqrt(data.size)
    mean = float(data.mean())
    return Interval(mean - half, mean + half)


def seeds_interval(successes: Sequence[int], trials: Sequence[int], confidence: float = 0.95) -> Interval:
    """Interval of the mean success over seeds: the wider of Student's t over the seeds' rates and Wilson's of the pool,
    end by end, within [0, 1].

    t alone has no width where all seeds agree, and Wilson alone takes the tasks of one seed for independent of each
    other. One seed gives Wilson's. Raises ValueError for unequal lists, none, or counts that cannot be.
    """
    if len(successes) != len(trials) or not successes or min(trials) < 1:
        raise ValueError(
            f"{len(successes)} successes and {len(trials)} trials; wanted one of each per seed, trials >= 1"
        )
    pooled = wilson_interval(sum(successes), sum(trials), confidence)
    if len(successes) == 1:
        return pooled
    spread = mean_interval([s / n for s, n in zip(successes, trials, strict=True)], confidence)
    return Interval(max(0.0, min(pooled.low, spread.low)), min(1.0, max(pooled.high, spread.high)))


def _beta_quantile(probability: float, a: float, b: float) -> float:
    return float(special.betaincinv(a, b, probability))


def _check_counts(successes: float, trials: float) -> None:
    if not (math.isfinite(trials) and 0 <= successes <= trials):
        raise ValueError(f"{successes} successes in {trials} trials; wanted 0 <= successes <= trials, both finite")


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; wanted a number between 0 and 1, such as 0.95")

"""Is a series of numbers rising, falling, flat, or is there too little to say?

Owns: Mann-Kendall, Sen's slope, block means, bias-corrected EMA, and the verdict on a run.
Must not know: rewards, steps, plateau states. Trap: reward curves are strongly autocorrelated, and the tests assume
independence. Feed them block means; never feed them an EMA, which adds autocorrelation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from critique_rl.stats.intervals import Interval

Numbers = Sequence[float] | NDArray[np.float64]
Verdict = Literal["rising", "falling", "flat", "undecided"]


class MannKendall(NamedTuple):
    """S statistic, its variance (ties removed), continuity-corrected z, two-sided p."""

    s: int
    variance: float
    z: float
    p: float


class _Judgement(NamedTuple):
    verdict: Verdict
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrendReport:
    """The verdict on a series and what it rests on. Slopes are per value of the series (not per block).

    `slope_interval` covers Sen's slope with confidence 1 - 2 alpha; `expected_change` is slope times horizon.
    """

    verdict: Verdict
    reason: str
    blocks: int
    slope: float
    slope_interval: Interval
    expected_change: float
    test: MannKendall


def mann_kendall(values: Numbers) -> MannKendall:
    """Mann-Kendall trend test: S = sum_{i<j} sign(x_j - x_i), z = (S -+ 1) / sqrt(Var S).

    Var S = [n(n-1)(2n+5) - sum_g t_g(t_g-1)(2t_g+5)] / 18 over groups of t_g tied values. A constant series and
    one of fewer than two values give z = 0, p = 1. Raises ValueError for a non-finite value.
    """
    data = _series(values)
    n = data.size
    s = int(np.triu(np.sign(data[None, :] - data[:, None]), 1).sum())
    ties = np.unique(data, return_counts=True)[1].astype(np.float64)
    variance = float(n * (n - 1) * (2 * n + 5) - (ties * (ties - 1) * (2 * ties + 5)).sum()) / 18
    if variance <= 0:
        return MannKendall(s, 0.0, 0.0, 1.0)
    z = (s - int(np.sign(s))) / math.sqrt(variance)
    return MannKendall(s, variance, z, math.erfc(abs(z) / math.sqrt(2)))


def sen_slope(values: Numbers) -> float:
    """Sen's slope: the median of (x_j - x_i) / (j - i) over all pairs i < j, per value; robust against outliers.

    Raises ValueError for fewer than two values or a non-finite one.
    """
    return float(np.median(_pairwise_slopes(_series(values))))


def block_means(values: Numbers, block: int) -> NDArray[np.float64]:
    """Means of consecutive blocks of `block` values from the start; an incomplete last block is left out.

    Raises ValueError if block < 1 or for a non-finite value.
    """
    if block < 1:
        raise ValueError(f"block is {block}; wanted at least 1 value per block")
    data = _series(values)
    whole = data.size // block
    return data[: whole * block].reshape(whole, block).mean(axis=1)


def ema(values: Numbers, alpha: float, *, bias_correction: bool = True) -> NDArray[np.float64]:
    """Exponential moving average from 0: e_t = (1 - a) e_{t-1} + a x_t, divided by 1 - (1 - a)^t if corrected.

    The correction removes the pull towards the initial 0. For display only: see the trap at the top of this file.
    Raises ValueError unless 0 < alpha <= 1.
    """
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha is {alpha}; wanted 0 < alpha <= 1 (the weight of the newest value)")
    data = _series(values)
    averages = np.empty_like(data)
    average = 0.0
    for index, value in enumerate(data.tolist()):
        average = (1 - alpha) * average + alpha * value
        averages[index] = average / (1 - (1 - alpha) ** (index + 1)) if bias_correction else average
    return averages


def run_trend(
    values: Numbers, *, block: int, horizon: float, delta: float, alpha: float = 0.05, min_blocks: int = 8
) -> TrendReport:
    """Rising, falling, flat or undecided, from block means.

    flat: at least `min_blocks` blocks, and the whole 1 - 2 alpha interval of Sen's slope times `horizon` lies within
    +-delta (an equivalence test, so a merely non-significant trend is "undecided", never "flat"). Otherwise rising or
    falling: Mann-Kendall p < alpha. A significant but negligible slope is flat.
    `block` and `horizon` are counted in values of the series, `delta` is in their unit. Raises ValueError for numbers
    out of range or a non-finite value.
    """
    if not (horizon > 0 and delta > 0):
        raise ValueError(f"horizon is {horizon}, delta {delta}; wanted both above 0")
    if not 0 < alpha < 0.5:
        raise ValueError(f"alpha is {alpha}; wanted a number between 0 and 0.5, such as 0.05")
    if min_blocks < 4:
        raise ValueError(f"min_blocks is {min_blocks}; wanted at least 4, fewer cannot show a trend or its absence")
    means = block_means(values, block)
    test = mann_kendall(means)
    if means.size < 2:
        return TrendReport(
            verdict="undecided",
            reason=f"{means.size} of {min_blocks} blocks of {block} values",
            blocks=int(means.size),
            slope=0.0,
            slope_interval=Interval(-math.inf, math.inf),
            expected_change=0.0,
            test=test,
        )
    slope = sen_slope(means) / block
    within_blocks = _sen_interval(means, test.variance, alpha)
    interval = Interval(within_blocks.low / block, within_blocks.high / block)
    verdict, reason = _verdict(int(means.size), min_blocks, interval, horizon, delta, test, alpha)
    return TrendReport(
        verdict=verdict,
        reason=reason,
        blocks=int(means.size),
        slope=slope,
        slope_interval=interval,
        expected_change=slope * horizon,
        test=test,
    )


def _verdict(
    blocks: int, min_blocks: int, slope: Interval, horizon: float, delta: float, test: MannKendall, alpha: float
) -> _Judgement:
    change = f"change over {horizon:g} values within [{slope.low * horizon:+.4g}, {slope.high * horizon:+.4g}]"
    if blocks < min_blocks:
        return _Judgement("undecided", f"{blocks} of {min_blocks} blocks; {change}")
    if max(abs(slope.low), abs(slope.high)) * horizon < delta:
        return _Judgement("flat", f"{change}, inside +-{delta:g}")
    if test.p < alpha:
        return _Judgement("rising" if test.s > 0 else "falling", f"Mann-Kendall p = {test.p:.4g}; {change}")
    return _Judgement(
        "undecided", f"Mann-Kendall p = {test.p:.4g} shows no trend, but {change} is not inside +-{delta:g}"
    )


def _sen_interval(data: NDArray[np.float64], variance: float, alpha: float) -> Interval:
    """Order statistics of the pairwise slopes at (N -+ z sqrt(Var S)) / 2, rounded outwards; infinite past the ends."""
    slopes = np.sort(_pairwise_slopes(data))
    reach = NormalDist().inv_cdf(1 - alpha) * math.sqrt(variance)
    low, high = math.ceil((slopes.size - reach) / 2) - 1, math.floor((slopes.size + reach) / 2)
    return Interval(
        float(slopes[low]) if low >= 0 else -math.inf, float(slopes[high]) if high < slopes.size else math.inf
    )


def _pairwise_slopes(data: NDArray[np.float64]) -> NDArray[np.float64]:
    if data.size < 2:
        raise ValueError(f"a slope needs at least two values; got {data.size}")
    first, second = np.triu_indices(data.size, 1)
    return (data[second] - data[first]) / (second - first)


def _series(values: Numbers) -> NDArray[np.float64]:
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or not bool(np.isfinite(data).all()):
        raise ValueError("values must be a flat list of finite numbers; leave missing steps out instead of passing NaN")
    return data

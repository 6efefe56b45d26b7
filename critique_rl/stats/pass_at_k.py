"""How often at least one of k answers is right, how often all k are, and how sure of that a set of problems makes us.

Owns: the unbiased estimators pass@k and pass^k, their means over problems, and intervals by resampling problems.
Must not know: tasks, answers, what made a sample right. Problems are the unit of evidence: more samples of one problem
sharpen its own estimate, and say nothing about other problems.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from critique_rl.stats.intervals import wilson_interval

RESAMPLES = 2_000
_DRAWS_AT_ONCE = 2_000_000  # problems drawn at a time; bounds memory at many problems


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemMean:
    """A mean over problems with its interval; `samples` is the least number of answers that any problem got."""

    k: int
    value: float
    low: float
    high: float
    problems: int
    samples: int


def pass_at_k(samples: int, right: int, k: int) -> float:
    """Probability that of k answers, drawn from `samples` without replacement, at least one is among the `right` ones.

    1 - C(n - c, k) / C(n, k): without bias for 1 - (1 - p)^k, which 1 - (1 - c/n)^k is not (arXiv 2107.03374). In whole
    numbers, rounded once. Raises ValueError unless 0 <= right <= samples and 1 <= k <= samples: fewer samples than k
    say nothing about k.
    """
    _check_counts(samples, right, k)
    ways = math.comb(samples, k)
    return (ways - math.comb(samples - right, k)) / ways


def pass_hat_k(samples: int, right: int, k: int) -> float:
    """Probability that k answers, drawn from `samples` without replacement, are all right: pass^k.

    C(c, k) / C(n, k), without bias for p^k (arXiv 2406.12045). Raises ValueError as `pass_at_k` does.
    """
    _check_counts(samples, right, k)
    return math.comb(right, k) / math.comb(samples, k)


def mean_pass_at_k(
    samples: Sequence[int], right: Sequence[int], k: int, *, confidence: float = 0.95, seed: int = 0
) -> ProblemMean:
    """Mean of `pass_at_k` over problems, problem i with `right[i]` right answers among `samples[i]`.

    The interval is the percentile bootstrap over problems (`RESAMPLES` of them, the same for one `seed`); it is too
    narrow for less than a dozen problems. Where all problems agree, so that resampling sees no spread, it is Wilson's
    for as many trials as there are problems. Raises ValueError as `pass_at_k` does, naming the problem, for no
    problems, lists of unequal lengths, or a confidence outside (0, 1).
    """
    return _mean(pass_at_k, samples, right, k, confidence=confidence, seed=seed)


def mean_pass_hat_k(
    samples: Sequence[int], right: Sequence[int], k: int, *, confidence: float = 0.95, seed: int = 0
) -> ProblemMean:
    """Mean of `pass_hat_k` over problems, with the interval and errors of `mean_pass_at_k`."""
    return _mean(pass_hat_k, samples, right, k, confidence=confidence, seed=seed)


def _mean(
    estimate: Callable[[int, int, int], float],
    samples: Sequence[int],
    right: Sequence[int],
    k: int,
    *,
    confidence: float,
    seed: int,
) -> ProblemMean:
    if len(samples) != len(right) or not samples:
        raise ValueError(
            f"{len(samples)} numbers of samples and {len(right)} of right ones; wanted one of each per problem, and "
            "at least one problem"
        )
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; wanted a number between 0 and 1, such as 0.95")
    values: list[float] = []
    for i, (n, c) in enumerate(zip(samples, right, strict=True)):
        try:
            values.append(estimate(n, c, k))
        except ValueError as error:
            raise ValueError(f"problem {i}: {error}") from None
    low, high = _bounds(np.asarray(values), confidence, seed)
    return ProblemMean(
        k=k, value=math.fsum(values) / len(values), low=low, high=high, problems=len(values), samples=min(samples)
    )


def _bounds(values: NDArray[np.float64], confidence: float, seed: int) -> tuple[float, float]:
    if values.min() == values.max():
        return wilson_interval(float(values.sum()), values.size, confidence)
    found = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=RESAMPLES,
        batch=max(1, _DRAWS_AT_ONCE // values.size),
        vectorized=True,
        confidence_level=confidence,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def _check_counts(samples: int, right: int, k: int) -> None:
    if not 0 <= right <= samples:
        raise ValueError(f"{right} right answers among {samples} samples; wanted 0 <= right <= samples")
    if not 1 <= k <= samples:
        raise ValueError(
            f"k is {k} with {samples} samples of the problem; wanted 1 <= k <= samples: draw more samples, or lower k"
        )

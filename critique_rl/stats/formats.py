"""How a policy divides its answers over formats, what explains the change, and whether it is more than chance.

Owns: distances between shares, the shares that a reward alone predicts, and the split of a gain into re-weighting and
refinement. Must not know: how a format is told, rollouts. Lists hold one entry per format, in one order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Numbers = Sequence[float] | NDArray[np.float64]
Array = NDArray[np.float64]


class ShiftShare(NamedTuple):
    """A change of accuracy: `mix` by other shares, `within` by other accuracies in formats; their sum is `total`."""

    mix: float
    within: float
    total: float


def simpson(shares: Numbers) -> float:
    """1 - sum_i p_i^2: the chance that two draws differ. Raises ValueError unless the shares sum to 1."""
    p = _shares("shares", shares)
    return max(0.0, 1.0 - float((p * p).sum()))


def total_variation(p: Numbers, q: Numbers) -> float:
    """TV = 1/2 sum_i |p_i - q_i|, in [0, 1]. Raises ValueError unless both sum to 1 over equally many formats."""
    one, other = _pair(p, q)
    return 0.5 * float(np.abs(one - other).sum())


def kl_divergence(p: Numbers, q: Numbers) -> float:
    """KL(p || q) = sum_i p_i ln(p_i / q_i) in nats; infinite where q has nothing and p has. ValueError as for TV."""
    one, other = _pair(p, q)
    used = one > 0
    if bool((other[used] == 0).any()):
        return math.inf
    return max(0.0, float((one[used] * np.log(one[used] / other[used])).sum()))


def jensen_shannon(p: Numbers, q: Numbers) -> float:
    """JS = (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, in nats: 0 to ln 2. ValueError as for TV."""
    one, other = _pair(p, q)
    middle = (one + other) / 2
    return (kl_divergence(one, middle) + kl_divergence(other, middle)) / 2


def tilt_inside(shares: Numbers, accuracies: Numbers, beta: float) -> Array:
    """Shares of the optimum of E[reward] - beta KL where the policy can also become right *inside* a format:
    s_i proportional to alpha_i (a_i e^(1/beta) + 1 - a_i), at beta 0 to alpha_i a_i.

    Our derivation from the re-weighting of components in arXiv 2504.07912 (known to us from summaries), for rewards of
    0 and 1. Without any right answer the shares stay. Raises ValueError for numbers that cannot be.
    """
    alpha, a = _tilted(shares, accuracies, beta)
    wrong = math.exp(-1.0 / beta) if beta > 0 else 0.0  # e^(1/beta) itself overflows
    found = alpha * (a + (1 - a) * wrong)
    return found / found.sum() if found.sum() > 0 else alpha


def tilt_formats(shares: Numbers, accuracies: Numbers, beta: float) -> Array:
    """Shares of the optimum of E[reward] - beta KL where the format is all that the policy can change:
    s_i proportional to alpha_i exp(a_i / beta), at beta 0 all on the most accurate of the formats in use.

    Our derivation, as `tilt_inside`. Formats that tie at beta 0 keep their proportions. Errors as there.
    """
    alpha, a = _tilted(shares, accuracies, beta)
    a = np.where(alpha > 0, a, 0.0)  # an unused format may be the most accurate, and stays unused
    best = float(a[alpha > 0].max())
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # (a - best) / beta may be -inf, which is right
        found = alpha * np.exp(np.where(a < best, (a - best) / beta, 0.0)) if beta > 0 else alpha * (a == best)
    return found / found.sum()


def excess_dominance(observed: Numbers, inside: Numbers, formats: Numbers) -> float:
    """The commonest format's share minus the larger of its two predicted ones; above 0, reward does not explain it."""
    p = _shares("observed", observed)
    dominant = int(p.argmax())
    return float(p[dominant] - max(inside[dominant], formats[dominant]))


def shift_share(p0: Numbers, p1: Numbers, a0: Numbers, a1: Numbers) -> ShiftShare:
    """Split sum p1 a1 - sum p0 a0 into mix = sum (p1 - p0)(a0 + a1)/2 and within = sum (a1 - a0)(p0 + p1)/2, exactly.

    An accuracy that is not known (nan), as of a format that nobody used, is taken to be the other moment's.
    Raises ValueError for lists of unequal lengths, shares that do not sum to 1, or an accuracy that is unknown twice.
    """
    before, after = _pair(p0, p1)
    old, new = np.asarray(a0, dtype=np.float64), np.asarray(a1, dtype=np.float64)
    if old.shape != before.shape or new.shape != before.shape:
        raise ValueError(f"{old.size} and {new.size} accuracies for {before.size} shares; wanted one for each format")
    old, new = np.where(np.isnan(old), new, old), np.where(np.isnan(new), old, new)
    used = (before > 0) | (after > 0)
    if bool(np.isnan(old[used]).any()):
        raise ValueError("the accuracy of a format that is in use is nan at both moments; leave that format out")
    old, new = np.where(used, old, 0.0), np.where(used, new, 0.0)
    mix = float(((after - before) * (old + new) / 2).sum())
    within = float(((new - old) * (before + after) / 2).sum())
    return ShiftShare(mix, within, mix + within)


def share_error(share: float, samples: int) -> float:
    """Standard error sqrt(p (1 - p) / N) of a share. Raises ValueError for a share outside [0, 1] or no samples."""
    if not 0 <= share <= 1 or samples < 1:
        raise ValueError(f"share is {share} of {samples} samples; wanted a share within [0, 1] and a sample or more")
    return math.sqrt(share * (1 - share) / samples)


def change_in_errors(count0: int, samples0: int, count1: int, samples1: int) -> float:
    """(p1 - p0) in standard errors of a difference under equal shares, sqrt(p (1 - p) (1/N0 + 1/N1)), p pooled.

    0 where nothing differs or a side is empty. It takes samples for independent: those of one prompt are less than
    that, so 3 is a low bar, not a high one.
    """
    if samples0 < 1 or samples1 < 1:
        return 0.0
    pooled = (count0 + count1) / (samples0 + samples1)
    error = math.sqrt(pooled * (1 - pooled) * (1 / samples0 + 1 / samples1))
    return (count1 / samples1 - count0 / samples0) / error if error > 0 else 0.0


def _shares(name: str, shares: Numbers) -> Array:
    p = np.asarray(shares, dtype=np.float64)
    if p.ndim != 1 or p.size == 0 or bool((p < 0).any()) or not math.isclose(float(p.sum()), 1.0, abs_tol=1e-6):
        raise ValueError(f"{name} is {shares!r}; wanted numbers of 0 or more that sum to 1, one for each format")
    return p


def _pair(p: Numbers, q: Numbers) -> tuple[Array, Array]:
    one, other = _shares("p", p), _shares("q", q)
    if one.size != other.size:
        raise ValueError(f"{one.size} and {other.size} shares; wanted equally many, of the same formats in one order")
    return one, other


def _tilted(shares: Numbers, accuracies: Numbers, beta: float) -> tuple[Array, Array]:
    alpha, a = _shares("shares", shares), np.asarray(accuracies, dtype=np.float64)
    if a.shape != alpha.shape or not bool(((a >= 0) & (a <= 1)).all()):
        raise ValueError(f"accuracies is {accuracies!r}; wanted a number from 0 to 1 for each of {alpha.size} formats")
    if not (math.isfinite(beta) and beta >= 0):
        raise ValueError(f"beta is {beta}; wanted a finite KL weight of 0 or more")
    return alpha, a

"""Maps that make stated probabilities believable: temperature, Platt, isotonic.

Must not know: critics, policies, what a probability is used for. Fit on held-out pairs, never on those it is judged by.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast

import numpy as np
from scipy import optimize, special

from critique_rl.stats.calibration_error import Array, Numbers, Verdicts, ece, pairs_of, probabilities_of

Method = Literal["temperature", "platt", "isotonic"]

CLIP = 1e-3  # models state 0 and 1; a fitted temperature depends on this
LARGEST_SLOPE, LARGEST_INTERCEPT = 100.0, 20.0  # separable pairs have no finite optimum


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibrator:
    """A fitted map from stated to believable probabilities, never decreasing; its values lie in [clip, 1 - clip].

    `temperature` and `platt` are sigmoid(slope * logit(q) + intercept); `isotonic` joins `knots` by straight lines.
    `ece_before` and `ece_after` are on the `count` pairs that it was fitted on: the second one flatters.
    """

    method: Method
    slope: float = 1.0
    intercept: float = 0.0
    knots: tuple[tuple[float, float], ...] = ()
    clip: float = CLIP
    count: int = 0
    ece_before: float = 0.0
    ece_after: float = 0.0

    @property
    def temperature(self) -> float:
        """What logits are divided by."""
        return 1 / self.slope

    def apply(self, probabilities: Numbers) -> Array:
        """Calibrated probabilities. Raises ValueError for a value outside [0, 1]."""
        q = probabilities_of(probabilities)
        if self.method == "isotonic":
            x, y = np.array(self.knots, dtype=np.float64).T
            mapped = np.interp(q, x, y)
        else:
            mapped = special.expit(self.slope * _logit(q, self.clip) + self.intercept)
        return np.clip(np.asarray(mapped, dtype=np.float64), self.clip, 1 - self.clip)

    def to_dict(self) -> dict[str, object]:
        """Plain JSON."""
        return {
            "method": self.method,
            "slope": self.slope,
            "intercept": self.intercept,
            "knots": [list(knot) for knot in self.knots],
            "clip": self.clip,
            "count": self.count,
            "ece_before": self.ece_before,
            "ece_after": self.ece_after,
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, object]) -> Calibrator:
        """Reads what `to_dict` wrote. Raises ValueError naming what is wrong with it."""
        method = value.get("method")
        if method not in ("temperature", "platt", "isotonic"):
            raise ValueError(f"a calibrator's method is {method!r}; wanted temperature, platt or isotonic")
        try:
            knots = tuple((float(x), float(y)) for x, y in cast("list[tuple[float, float]]", value["knots"]))
            numbers = {
                name: float(cast(float, value[name]))
                for name in ("slope", "intercept", "clip", "ece_before", "ece_after")
            }
            count = int(cast(int, value["count"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"a calibrator came without a usable field: {error!r}; wanted what to_dict writes"
            ) from None
        if (method == "isotonic") != bool(knots) or not 0 < numbers["clip"] < 0.5:
            raise ValueError(f"a {method} calibrator came with {len(knots)} knots and clip {numbers['clip']}")
        return cls(method=method, knots=knots, count=count, **numbers)


def fit_temperature(probabilities: Numbers, correct: Verdicts, *, clip: float = CLIP) -> Calibrator:
    """p = sigmoid(logit(q) / T) with the T in [0.01, 100] of the smallest log loss; keeps the order (arXiv 1706.04599).

    Verdicts may be probabilities themselves. Raises ValueError as `reliability` does.
    """
    q, c = pairs_of(probabilities, correct)
    z = _logit(q, clip)

    def slope_of_loss(a: float) -> float:
        return float((z * (special.expit(a * z) - c)).sum())

    low, high = 1 / LARGEST_SLOPE, LARGEST_SLOPE
    if slope_of_loss(low) >= 0:
        best = low
    elif slope_of_loss(high) <= 0:
        best = high
    else:
        best = float(cast(float, optimize.brentq(slope_of_loss, low, high, xtol=1e-13)))
    return _judged(Calibrator(method="temperature", slope=best, clip=clip), q, c)


def fit_platt(probabilities: Numbers, correct: Verdicts, *, clip: float = CLIP) -> Calibrator:
    """p = sigmoid(a logit(q) + b) of the smallest log loss, with 0 <= a <= 100 and |b| <= 20.

    Scores that rank the wrong way round become a constant and are not turned over. Raises ValueError as `reliability`
    does.
    """
    q, c = pairs_of(probabilities, correct)
    z = _logit(q, clip)

    def loss(ab: Array) -> tuple[float, Array]:
        logits = ab[0] * z + ab[1]
        gap = special.expit(logits) - c
        return float(np.mean(np.logaddexp(0.0, logits) - c * logits)), np.array([np.mean(gap * z), np.mean(gap)])

    bounds = [(0.0, LARGEST_SLOPE), (-LARGEST_INTERCEPT, LARGEST_INTERCEPT)]
    options = {"ftol": 1e-15, "gtol": 1e-10}
    found = optimize.minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=bounds, options=options)
    slope, intercept = cast("tuple[float, float]", map(float, cast(Array, found.x)))
    return _judged(Calibrator(method="platt", slope=slope, intercept=intercept, clip=clip), q, c)


def fit_isotonic(probabilities: Numbers, correct: Verdicts, *, clip: float = CLIP) -> Calibrator:
    """The never decreasing map of the smallest squared error (pool adjacent violators); wants about 1000 pairs.

    Makes ties, so it can cost a little AUROC. Raises ValueError as `reliability` does.
    """
    q, c = pairs_of(probabilities, correct)
    x, group = np.unique(q, return_inverse=True)
    counts = np.bincount(group).astype(np.float64)
    y = np.asarray(optimize.isotonic_regression(np.bincount(group, weights=c) / counts, weights=counts).x)
    # The inner points of a level stretch say nothing.
    ends = [i for i in range(len(x)) if i in (0, len(x) - 1) or not y[i - 1] == y[i] == y[i + 1]]
    knots = tuple((float(x[i]), float(y[i])) for i in ends)
    return _judged(Calibrator(method="isotonic", knots=knots, clip=clip), q, c)


def _judged(fitted: Calibrator, q: Array, c: Array) -> Calibrator:
    fields = fitted.to_dict() | {"count": q.size, "ece_before": ece(q, c), "ece_after": ece(fitted.apply(q), c)}
    return Calibrator.from_dict(fields)


def _logit(q: Array, clip: float) -> Array:
    return np.asarray(special.logit(np.clip(q, clip, 1 - clip)), dtype=np.float64)

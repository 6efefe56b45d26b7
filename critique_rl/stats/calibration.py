"""Whether stated probabilities can be believed, and maps that make them believable.

Owns: Brier score and its decomposition, expected calibration error, the figures of a batch, and three calibrators.
Must not know: critics, policies, what a probability is used for. Fit a calibrator on held-out pairs, never on those it
is judged by.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special

from critique_rl.stats.discrimination import auroc

Numbers = Sequence[float] | NDArray[np.float64]
Verdicts = Sequence[bool] | Sequence[float] | NDArray[np.bool_] | NDArray[np.float64]
Array = NDArray[np.float64]
Binning = Literal["exact", "equal_mass", "rlcr_code"]
Method = Literal["temperature", "platt", "isotonic"]

CLIP = 1e-3  # models state 0 and 1; a fitted temperature depends on this
TICKS = 10**9  # probabilities are binned as whole billionths: as floats, 0.3 falls below the edge 3 * 0.1
LARGEST_SLOPE, LARGEST_INTERCEPT = 100.0, 20.0  # separable pairs have no finite optimum
LEAST_DISTINCT, LEAST_STD = 5, 0.02  # below either, stated confidences say next to nothing


class Bin(NamedTuple):
    """One bin that holds predictions: how many, their mean probability, and the share of them that was right."""

    size: int
    confidence: float
    accuracy: float


class Reliability(NamedTuple):
    """A reliability diagram and its summary; `binning` is the convention, without which an ECE cannot be compared."""

    ece: float
    binning: Binning
    bins: tuple[Bin, ...]


class BrierParts(NamedTuple):
    """`brier = reliability - resolution + uncertainty` (Murphy), over groups of equal stated probability."""

    brier: float
    reliability: float
    resolution: float
    uncertainty: float


def brier(probabilities: Numbers, correct: Verdicts) -> float:
    """Mean of (q - c)^2. Raises ValueError as `reliability` does."""
    q, c = _pairs(probabilities, correct)
    return float(np.mean((q - c) ** 2))


def murphy(probabilities: Numbers, correct: Verdicts) -> BrierParts:
    """Brier score split into miscalibration (lower is better), resolution (higher is better) and c's own variance.

    With n_g pairs of equal q_g and their mean c_g: sum n_g (q_g - c_g)^2 / N - sum n_g (c_g - c)^2 / N + c (1 - c).
    Raises ValueError as `reliability` does, and for verdicts between 0 and 1.
    """
    q, c = _pairs(probabilities, correct)
    if not bool(np.isin(c, (0.0, 1.0)).all()):
        raise ValueError("verdicts between 0 and 1 have no Murphy decomposition; wanted right or wrong")
    values, group = np.unique(q, return_inverse=True)
    counts = np.bincount(group)
    rates = np.bincount(group, weights=c) / counts
    mean = float(c.mean())
    return BrierParts(
        brier=float(np.mean((q - c) ** 2)),
        reliability=float((counts * (values - rates) ** 2).sum() / c.size),
        resolution=float((counts * (rates - mean) ** 2).sum() / c.size),
        uncertainty=mean * (1 - mean),
    )


def reliability(
    probabilities: Numbers, correct: Verdicts, *, bins: int = 10, binning: Binning = "exact"
) -> Reliability:
    """The bins that hold predictions, and ECE = sum_b (n_b / N) |accuracy_b - confidence_b|.

    `exact`: equal widths on [0, 1], closed on the left, the last one on both sides, in integer arithmetic.
    `equal_mass`: as near N / bins predictions each as equal probabilities allow, which stay together.
    `rlcr_code`: as the published code of RLCR does (arXiv 2507.16806), for comparison with its figures only: the edges
    are floats, so of ten bins 0.3, 0.6 and 0.7 fall one too low. That is a defect, and it moves the ECE of tenths.
    Raises ValueError for no pairs, lists of unequal lengths, a value outside [0, 1], or fewer than one bin.
    """
    q, c = _pairs(probabilities, correct)
    if bins < 1:
        raise ValueError(f"bins is {bins}; wanted at least 1")
    where = _BINNINGS[binning](q, bins)
    counts = np.bincount(where, minlength=bins)
    confidence, accuracy = (np.bincount(where, weights=w, minlength=bins) for w in (q, c))
    held = tuple(
        Bin(int(n), float(s / n), float(a / n)) for n, s, a in zip(counts, confidence, accuracy, strict=True) if n
    )
    return Reliability(float(np.abs(accuracy - confidence).sum() / q.size), binning, held)


def ece(probabilities: Numbers, correct: Verdicts, bins: int = 10, binning: Binning = "exact") -> float:
    """Expected calibration error: `reliability(...).ece`."""
    return reliability(probabilities, correct, bins=bins, binning=binning).ece


class Spread(NamedTuple):
    """How varied stated confidences are; `at_ends` is the share that is 0 or 1, `std` the population's."""

    distinct: int
    std: float
    at_ends: float
    collapsed: bool


def confidence_collapse(probabilities: Numbers) -> Spread:
    """Whether confidences have become a formula: std under 0.02, or fewer than 5 values (or than there are numbers).

    Distinct to a billionth; one number alone is no collapse. Raises ValueError for none, or a value outside [0, 1].
    """
    q = _probabilities(probabilities)
    if q.size == 0:
        raise ValueError("probabilities are empty; wanted at least one")
    distinct, std = int(np.unique(np.rint(q * TICKS)).size), float(q.std())
    few = distinct < min(LEAST_DISTINCT, q.size)
    return Spread(distinct, std, float(np.isin(q, (0.0, 1.0)).mean()), q.size > 1 and (few or std < LEAST_STD))


def batch_figures(probabilities: Sequence[float | None], correct: Sequence[bool]) -> dict[str, float]:
    """What trackers show of a batch of stated confidences; None: none could be read, which only `valid` counts.

    `valid` (share with a confidence), and over those: `confidence`, `overconfidence` (mean confidence minus accuracy),
    `std`, `distinct`, `at_ends`, `collapsed` (1 or 0), `brier`, `ece`, `ece_equal_mass`, and `auroc` where some are
    right and some wrong. A figure that cannot be had is left out. Raises ValueError for lists of unequal lengths or a
    confidence outside [0, 1].
    """
    if len(probabilities) != len(correct):
        raise ValueError(f"{len(probabilities)} confidences came with {len(correct)} verdicts; wanted one verdict each")
    stated = [(q, bool(c)) for q, c in zip(probabilities, correct, strict=True) if q is not None]
    if not stated:
        return {"valid": 0.0} if probabilities else {}
    q, c = _probabilities([q for q, _ in stated]), np.array([c for _, c in stated])
    spread, area = confidence_collapse(q), auroc(q, c)
    figures = {
        "valid": len(stated) / len(probabilities),
        "confidence": float(q.mean()),
        "overconfidence": float(q.mean() - c.mean()),
        "std": spread.std,
        "distinct": float(spread.distinct),
        "at_ends": spread.at_ends,
        "collapsed": float(spread.collapsed),
        "brier": brier(q, c),
        "ece": ece(q, c),
        "ece_equal_mass": ece(q, c, binning="equal_mass"),
    }
    return figures if area is None else figures | {"auroc": area}


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
        q = _probabilities(probabilities)
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
    q, c = _pairs(probabilities, correct)
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
    q, c = _pairs(probabilities, correct)
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
    q, c = _pairs(probabilities, correct)
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


def _equal_width(q: Array, bins: int) -> NDArray[np.int64]:
    ticks = np.rint(q * TICKS).astype(np.int64)
    return np.minimum(ticks * bins // TICKS, bins - 1)


def _equal_mass(q: Array, bins: int) -> NDArray[np.int64]:
    """The bin that the middle rank of each group of equal probabilities falls into."""
    _, group, counts = np.unique(q, return_inverse=True, return_counts=True)
    before = np.cumsum(counts) - counts
    return ((2 * before + counts) * bins // (2 * q.size))[group]


def _float_edges(q: Array, bins: int) -> NDArray[np.int64]:
    return np.digitize(q, np.linspace(0.0, 1.0, bins + 1)[1:-1]).astype(np.int64)


_BINNINGS: Mapping[Binning, Callable[[Array, int], NDArray[np.int64]]] = {
    "exact": _equal_width,
    "equal_mass": _equal_mass,
    "rlcr_code": _float_edges,
}


def _probabilities(values: Numbers) -> Array:
    q = np.asarray(values, dtype=np.float64)
    if q.ndim != 1 or not bool(((q >= 0) & (q <= 1)).all()):
        raise ValueError(f"probabilities are {values!r:.200}; wanted a flat list of numbers from 0 to 1")
    return q


def _pairs(probabilities: Numbers, correct: Verdicts) -> tuple[Array, Array]:
    q, c = _probabilities(probabilities), _probabilities(np.asarray(correct, dtype=np.float64))
    if q.size == 0 or q.size != c.size:
        raise ValueError(f"{q.size} probabilities came with {c.size} verdicts; wanted one verdict each, at least one")
    return q, c

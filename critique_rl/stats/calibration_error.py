"""Whether stated probabilities can be believed: Brier score and its parts, calibration error, the figures of a batch.

Must not know: critics, policies, what a probability is used for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from critique_rl.stats.discrimination import auroc

Numbers = Sequence[float] | NDArray[np.float64]
Verdicts = Sequence[bool] | Sequence[float] | NDArray[np.bool_] | NDArray[np.float64]
Array = NDArray[np.float64]
Binning = Literal["exact", "equal_mass", "rlcr_code"]

TICKS = 10**9  # probabilities are binned as whole billionths: as floats, 0.3 falls below the edge 3 * 0.1
LEAST_DISTINCT, LEAST_STD = 5, 0.02  # below either, stated confidences say next to nothing


class Pairs(NamedTuple):
    """Probabilities and verdicts, one each."""

    probabilities: Array
    verdicts: Array


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
    q, c = pairs_of(probabilities, correct)
    return float(np.mean((q - c) ** 2))


def murphy(probabilities: Numbers, correct: Verdicts) -> BrierParts:
    """Brier score split into miscalibration (lower is better), resolution (higher is better) and c's own variance.

    With n_g pairs of equal q_g and their mean c_g: sum n_g (q_g - c_g)^2 / N - sum n_g (c_g - c)^2 / N + c (1 - c).
    Raises ValueError as `reliability` does, and for verdicts between 0 and 1.
    """
    q, c = pairs_of(probabilities, correct)
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
    q, c = pairs_of(probabilities, correct)
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
    q = probabilities_of(probabilities)
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
    q, c = probabilities_of([q for q, _ in stated]), np.array([c for _, c in stated])
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


def probabilities_of(values: Numbers) -> Array:
    """[N], checked. Raises ValueError for what is no flat list of numbers from 0 to 1."""
    q = np.asarray(values, dtype=np.float64)
    if q.ndim != 1 or not bool(((q >= 0) & (q <= 1)).all()):
        raise ValueError(f"probabilities are {values!r:.200}; wanted a flat list of numbers from 0 to 1")
    return q


def pairs_of(probabilities: Numbers, correct: Verdicts) -> Pairs:
    """Both as [N], checked. Raises ValueError for unequal lengths, none at all, or numbers out of [0, 1]."""
    q, c = probabilities_of(probabilities), probabilities_of(np.asarray(correct, dtype=np.float64))
    if q.size == 0 or q.size != c.size:
        raise ValueError(f"{q.size} probabilities came with {c.size} verdicts; wanted one verdict each, at least one")
    return Pairs(q, c)

"""How good a list of stated probabilities is, in one row of figures, and what makes it unfit for a threshold.

Owns: those figures, the doubts, and what sampling alone would give. Must not know: who stated the probabilities, what
is done about a doubt.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import special

from critique_rl.stats.calibration import CLIP
from critique_rl.stats.calibration_error import LEAST_DISTINCT, LEAST_STD, brier, confidence_collapse, ece
from critique_rl.stats.discrimination import auroc

Array = NDArray[np.float64]
Numbers = Sequence[float] | Array
Verdicts = Sequence[bool] | NDArray[np.bool_]

FEW_RECORDS = 100
POOR_AUROC = 0.55
"""Rules of thumb, not results: below them a threshold decides by accident."""


class ForecastFigures(NamedTuple):
    """`ece` in ten exact bins, `ece_equal_mass` in ten bins of equal size, `log_loss` in nats with q kept off 0 and 1.

    `auroc` is None where all records are right or all are wrong.
    """

    records: int
    accuracy: float
    mean_confidence: float
    ece: float
    ece_equal_mass: float
    brier: float
    log_loss: float
    auroc: float | None


def log_loss(probabilities: Numbers, correct: Verdicts, *, clip: float = CLIP) -> float:
    """-mean of c log q + (1 - c) log(1 - q) in nats, with q in [clip, 1 - clip]."""
    return float(np.mean(log_losses(probabilities, correct, clip=clip)))


def log_losses(probabilities: Numbers, correct: Verdicts, *, clip: float = CLIP) -> Array:
    """The terms of `log_loss`, one per record."""
    q = np.clip(np.asarray(probabilities, dtype=np.float64), clip, 1 - clip)
    c = np.asarray(correct, dtype=np.float64)
    return np.asarray(-special.xlogy(c, q) - special.xlog1py(1 - c, -q), dtype=np.float64)


def forecast_figures(probabilities: Numbers, correct: Verdicts) -> ForecastFigures:
    """All figures of one list. Raises ValueError for no pairs, unequal lists, or a probability outside [0, 1]."""
    q, c = np.asarray(probabilities, dtype=np.float64), np.asarray(correct, dtype=np.bool_)
    return ForecastFigures(
        brier=brier(q, c.astype(np.float64)),  # first: it checks the pairs
        records=q.size,
        accuracy=float(c.mean()),
        mean_confidence=float(q.mean()),
        ece=ece(q, c.astype(np.float64)),
        ece_equal_mass=ece(q, c.astype(np.float64), binning="equal_mass"),
        log_loss=log_loss(q, c),
        auroc=auroc(q, c),
    )


def doubts(probabilities: Numbers, correct: Verdicts) -> tuple[str, ...]:
    """Why a threshold on these probabilities should not be trusted, one sentence each; none is a good sign.

    Fewer than 100 records; an area under the ROC curve below 0.55; confidences collapsed to fewer than 5 values or to
    a standard deviation below 0.02. Raises ValueError as `forecast_figures` does.
    """
    figures = forecast_figures(probabilities, correct)
    found: list[str] = []
    if figures.records < FEW_RECORDS:
        found.append(f"{figures.records} records are few; wanted at least {FEW_RECORDS}")
    if figures.auroc is None:
        found.append(f"all records are {'right' if figures.accuracy else 'wrong'}; ranking cannot be judged")
    elif figures.auroc < POOR_AUROC:
        found.append(
            f"the confidences hardly rank right above wrong (AUROC {figures.auroc:.3f}, wanted {POOR_AUROC} or more)"
        )
    spread = confidence_collapse(probabilities)
    if spread.collapsed:
        found.append(
            f"the confidences have collapsed ({spread.distinct} different values, standard deviation {spread.std:.3f}; "
            f"wanted at least {LEAST_DISTINCT} and {LEAST_STD})"
        )
    return tuple(found)


def ece_by_chance(probabilities: Numbers, *, level: float = 0.99, draws: int = 300, seed: int = 0) -> float:
    """The ECE (ten exact bins) that perfectly calibrated records of these probabilities exceed with 1 - `level`.

    Verdicts are drawn from the probabilities themselves (consistency resampling: J. Bröcker and L. A. Smith, Weather
    and Forecasting 22, 2007). An ECE above it is not noise. Raises ValueError as `forecast_figures` does.
    """
    q = np.asarray(probabilities, dtype=np.float64)
    rng = np.random.default_rng(seed)
    drawn = [ece(q, (rng.random(q.shape) < q).astype(np.float64)) for _ in range(draws)]
    return float(np.quantile(drawn, level))

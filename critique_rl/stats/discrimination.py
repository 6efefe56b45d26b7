"""Whether a score ranks right answers above wrong ones.

Owns: the area under the ROC curve. Must not know: where scores come from, what is done about a poor ranking.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats


def auroc(scores: Sequence[float] | NDArray[np.float64], correct: Sequence[bool] | NDArray[np.bool_]) -> float | None:
    """P(score of a right answer > score of a wrong one), ties counted half; 0.5 is chance.

    (R - n(n+1)/2) / (n m) with R the sum of the n right answers' mid-ranks and m wrong ones. None when there are no
    right or no wrong answers: there is nothing to rank. Raises ValueError for lists of unequal lengths or a
    non-finite score.
    """
    values = np.asarray(scores, dtype=np.float64)
    right = np.asarray(correct, dtype=np.bool_)
    if values.ndim != 1 or values.shape != right.shape or not bool(np.isfinite(values).all()):
        raise ValueError(
            f"scores of shape {values.shape} with verdicts of shape {right.shape}; wanted two flat lists of one "
            "length, every score finite"
        )
    n, m = int(right.sum()), int((~right).sum())
    if n == 0 or m == 0:
        return None
    ranks = np.asarray(stats.rankdata(values), dtype=np.float64)
    return float((ranks[right].sum() - n * (n + 1) / 2) / (n * m))

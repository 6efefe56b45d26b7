"""Whether amplified plans do harm: strategies and success, both lower than before.

Owns: the rule and its words. Must not know: how long it must hold, what follows from it, where figures come from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, variance

FALLS_BY = 0.02
"""A figure falls by at least this share of what it was, and by two standard errors."""
WATCHED = ("strategy_entropy", "success")


def both_fell(now: Mapping[str, Sequence[float]], before: Mapping[str, Sequence[float]]) -> str | None:
    """How far each of WATCHED fell between two windows, in words; None unless both did."""
    if not all(_lower(now[name], before[name]) for name in WATCHED):
        return None
    return ", ".join(
        f"{name.replace('_', ' ')} {fmean(before[name]):.3g} -> {fmean(now[name]):.3g}" for name in WATCHED
    )


def _lower(now: Sequence[float], before: Sequence[float]) -> bool:
    """Whether the mean fell by more than two standard errors of the difference, and by FALLS_BY of what it was."""
    fall = fmean(before) - fmean(now)
    error = math.sqrt(variance(now) / len(now) + variance(before) / len(before))
    return fall > max(2 * error, FALLS_BY * abs(fmean(before)))

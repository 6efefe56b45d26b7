"""R = -a exp(H) + b: how reward is paid for with entropy, fitted to one run's own course.

Owns: the fit and what it says. Must not know: where the numbers come from. Weak: the authors themselves do not call the
law universal, and others have refuted it as a hard predictor; it is an early warning, never a reason to act by itself.
Entropy Mechanism of RL, arXiv 2505.22617; H in nats per token, R a success rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class EntropyLaw(NamedTuple):
    """R(H) = -a e^H + b. `residual` is the standard error of a single point around it, 0 through two points."""

    a: float
    b: float
    residual: float = 0.0

    def reward(self, entropy: float) -> float:
        """R at an entropy of that many nats."""
        return self.b - self.a * math.exp(entropy)

    def slope(self, entropy: float) -> float:
        """dR/dH = -a e^H."""
        return -self.a * math.exp(entropy)

    @property
    def ceiling(self) -> float:
        """R when all entropy is spent: b - a (the paper's takeaway box misprints it)."""
        return self.b - self.a


def entropy_law(entropies: Sequence[float], rewards: Sequence[float]) -> EntropyLaw | None:
    """Least squares of R on e^H over paired points; exact through two. None without two different entropies.

    `residual` is sqrt(sum of squares / (n - 2)). Raises ValueError for unequal counts or values that are not finite.
    """
    if len(entropies) != len(rewards):
        raise ValueError(f"{len(entropies)} entropies came with {len(rewards)} rewards; wanted one reward for each")
    x, y = np.exp(np.asarray(entropies, dtype=np.float64)), np.asarray(rewards, dtype=np.float64)
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise ValueError("an entropy or a reward is not finite; leave the steps out that measured nothing")
    spread = x - x.mean() if x.size else x
    if x.size < 2 or not np.square(spread).sum() > 1e-18:
        return None
    a = -float((spread * (y - y.mean())).sum() / np.square(spread).sum())
    b = float(y.mean() + a * x.mean())
    left = float(np.square(y - (b - a * x)).sum())
    return EntropyLaw(a, b, math.sqrt(left / (x.size - 2)) if x.size > 2 else 0.0)

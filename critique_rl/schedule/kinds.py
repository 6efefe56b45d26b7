"""How each kind of task fares beside its own best: what a run's mean success cannot show, where one kind is eaten while
another one grows.

Owns: one kind's means and how far it has fallen. Must not know: limits, what is stopped, what kinds there are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

NOISE = 3.0  # standard errors


@dataclass(slots=True, kw_only=True)
class Mean:
    """Exponential mean with bias correction: sum of (1 - a)^age a x, divided by the same sum of weights."""

    total: float = 0.0
    weight: float = 0.0
    count: int = 0

    def add(self, value: float, steps: int) -> None:
        rate = 2 / (steps + 1)
        self.total = (1 - rate) * self.total + rate * value
        self.weight = (1 - rate) * self.weight + rate
        self.count += 1

    @property
    def value(self) -> float:
        return self.total / self.weight


@dataclass(slots=True, kw_only=True)
class KindSuccess:
    """One kind's success over the steps that had tasks of it.

    `best` is the highest level that its mean has surely had: NOISE standard errors below the mean itself.
    """

    recent: Mean = field(default_factory=Mean)
    best: float | None = None

    def add(self, success: float, *, steps: int, enough: int) -> None:
        """Take in one step's success rate in [0, 1]; the mean is over about `steps`, and counts from `enough` on."""
        self.recent.add(success, steps)
        if self.recent.count >= enough:
            self.best = max(self.recent.value - self._noise(steps), self.best or 0.0)

    def fallen(self, *, share: float, least: float, steps: int) -> float:
        """How far it is on the way (1: there) to a fall by `share` of its best, by `least` at least, beyond noise."""
        if not self.best:
            return 0.0
        drop = self.best - self.recent.value
        return min(drop / self.best / share, drop / least, drop / self._noise(steps))

    def _noise(self, steps: int) -> float:
        """NOISE standard errors of a rate over at most `steps` trials, drawn towards a half by one more of each kind.

        A step counts as one trial however many rollouts it has: they may all be of one prompt.
        """
        trials = min(self.recent.count, steps)
        rate = (trials * self.recent.value + 1) / (trials + 2)
        return NOISE * math.sqrt(rate * (1 - rate) / trials)

"""How many requests and tokens a minute may leave.

Owns: the bucket. Must not know: what is counted, who waits. A bucket of our own, because a token rate needs what the
known limiters lack: an estimate that is corrected afterwards, and amounts larger than the bucket. It never waits
itself, so that two rates, the slots and a pause can be asked and taken together.
"""

from __future__ import annotations

_ROUNDING_S = 1e-9


class RateBucket:
    """Lets pass `per_minute` on average and at most `burst` at once.

    Any window of t seconds lets pass at most t * per_minute / 60 + max(burst, the largest single amount); an amount
    larger than `burst` passes when everything before it has drained.
    """

    def __init__(self, per_minute: float, *, burst: float) -> None:
        self._per_s = per_minute / 60.0
        self._burst = burst
        self._debt = 0.0
        self._drained_at_s = 0.0

    def wait_s(self, amount: float, now_s: float) -> float:
        """Seconds until `amount` may be taken if nothing else is."""
        excess = self._drained(now_s) - max(0.0, self._burst - amount)
        wait_s = excess / self._per_s
        return wait_s if wait_s > _ROUNDING_S else 0.0

    def take(self, amount: float, now_s: float) -> None:
        """Count an amount as passed, whether or not it should have waited; a negative amount is given back."""
        self._debt = self._drained(now_s) + amount

    def _drained(self, now_s: float) -> float:
        passed_s = max(0.0, now_s - self._drained_at_s)
        self._debt = max(0.0, self._debt - passed_s * self._per_s)
        self._drained_at_s = now_s
        return self._debt

"""What the run may use and what it has used.

Owns: the check before each send and the reconciliation after it. Must not know: retries, clocks, the loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from critique_rl.errors import CriticBudgetError
from critique_rl.net.calls import tokens_in
from critique_rl.types import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Caps over the whole run; None is no cap."""

    max_calls: int | None = None
    max_tokens: int | None = None
    max_cost_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What has been used. `cost_usd` adds known prices only; `unpriced_calls` counts sends that were, or after a
    timeout may have been, billed at a price that is not known."""

    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    unpriced_calls: int = 0


class SpendMeter:
    """Counts what calls use and refuses a send that could exceed the budget. Used by the loop thread only."""

    def __init__(self, budget: Budget, *, spent: Spent | None = None) -> None:
        self._budget = budget
        self._spent = spent or Spent()
        self._reserved_tokens = 0
        self._reserved_usd = 0.0

    @property
    def spent(self) -> Spent:
        return self._spent

    def reserve(self, estimate: Usage) -> None:
        """Count one send and set its estimate aside. Raises CriticBudgetError, counting nothing, if it may not fit."""
        spent, budget = self._spent, self._budget
        tokens, usd = tokens_in(estimate), estimate.cost_usd or 0.0
        _check("max_calls", budget.max_calls, spent.calls, 1)
        _check("max_total_tokens", budget.max_tokens, spent.tokens + self._reserved_tokens, tokens)
        _check("max_cost_usd", budget.max_cost_usd, spent.cost_usd + self._reserved_usd, usd)
        self._spent = replace(spent, calls=spent.calls + 1)
        self._reserved_tokens += tokens
        self._reserved_usd += usd

    def settle(self, estimate: Usage, used: Usage | None) -> None:
        """Replace a reservation by what was used; None: the send failed and used nothing."""
        self._reserved_tokens -= tokens_in(estimate)
        self._reserved_usd -= estimate.cost_usd or 0.0
        if used is None:
            return
        self._spent = replace(
            self._spent,
            tokens=self._spent.tokens + tokens_in(used),
            cost_usd=self._spent.cost_usd + (used.cost_usd or 0.0),
            unpriced_calls=self._spent.unpriced_calls + (used.cost_usd is None),
        )


def _check(field: str, cap: float | None, used: float, wanted: float) -> None:
    if cap is not None and used + wanted > cap:
        raise CriticBudgetError(f"{field} = {cap:g}: {used:g} used or in flight, and the next send may need {wanted:g}")

"""Whether and when a failed call is sent again.

Owns: the waits between sends and the reasons to stop. Must not know: slots, rates, budgets.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, stop_any
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from critique_rl.net.calls import CallFailed, CallLimits

T = TypeVar("T")


class Retries:
    """Repeats an attempt that failed in a way that can pass."""

    def __init__(self, limits: CallLimits) -> None:
        self._limits = limits
        self._wait = _RetryWait(limits, random.Random())

    async def run(self, attempt: Callable[[], Awaitable[T]], deadline: Callable[[], float | None]) -> T:
        """The first attempt that succeeds. Raises CallFailed, or what else an attempt raises.

        `deadline` says, on the loop's clock, when the answer stops being of use; it may move while the call waits.
        """
        try:
            return await attempt()
        except CallFailed as failure:
            if not failure.retryable:
                raise
            failed = [failure]

        async def again() -> T:
            # The attempt above was the first one: nearly every call needs no more, and then no retry machinery.
            if failed:
                raise failed.pop()
            return await attempt()

        retrying = AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, CallFailed) and error.retryable),
            wait=self._wait,
            stop=stop_any(stop_after_attempt(self._limits.max_attempts), _WaitTooLong(self._limits, deadline)),
            sleep=asyncio.sleep,
            reraise=True,
        )
        return await retrying(again)


class _RetryWait(wait_base):
    """The server's wish if it stated one, else random exponential.

    Has a generator of its own: the library's waits draw from the global one, which a run's seeds may depend on.
    """

    def __init__(self, limits: CallLimits, rng: random.Random) -> None:
        self._limits = limits
        self._rng = rng

    def __call__(self, retry_state: RetryCallState) -> float:
        wish = _wish(retry_state)
        if wish is not None:
            return wish
        ceiling = min(self._limits.backoff_cap_s, self._limits.backoff_s * 2.0 ** (retry_state.attempt_number - 1))
        return self._rng.uniform(0.0, ceiling)


class _WaitTooLong(stop_base):
    """Gives up when the server asks for more than the cap (never sends early), or the deadline would have passed."""

    def __init__(self, limits: CallLimits, deadline: Callable[[], float | None]) -> None:
        self._limits = limits
        self._deadline = deadline

    def __call__(self, retry_state: RetryCallState) -> bool:
        wish = _wish(retry_state)
        if wish is not None and wish > self._limits.retry_after_cap_s:
            return True
        deadline = self._deadline()
        return deadline is not None and (asyncio.get_running_loop().time() + retry_state.upcoming_sleep >= deadline)


def _wish(state: RetryCallState) -> float | None:
    error = state.outcome.exception() if state.outcome is not None else None
    return error.retry_after_s if isinstance(error, CallFailed) else None

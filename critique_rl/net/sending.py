"""One attempt at a call: a send, and a second one if the first is slow.

Owns: that each send is admitted, paid for, timed and accounted exactly once, however it ends. Must not know: retries,
who waits for the answer. A send that hangs or is cancelled may still be billed, so its estimate stays counted.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Generic

from critique_rl.errors import CriticBudgetError, CriticError, CriticRateLimitError, CriticTimeoutError
from critique_rl.net.calls import Answer, CallFailed, CallLimits, PlannedCall, tokens_in, unforeseen
from critique_rl.net.gate import SendGate
from critique_rl.net.meter import SpendMeter
from critique_rl.types import Usage


@dataclass(slots=True, kw_only=True)
class Flight(Generic[Answer]):
    """A call on its way: when it stops being of use (loop clock), how often it was sent, what it met last."""

    call: PlannedCall[Answer]
    deadline: float | None
    sends: int = 0
    first_sent_at: float | None = None
    met: CriticError | None = None


class Sender:
    """Sends through the gate, on the meter's account. Used by the loop thread only."""

    def __init__(self, limits: CallLimits, meter: SpendMeter) -> None:
        self._limits = limits
        self._meter = meter
        self._gate = SendGate(
            slots=limits.max_in_flight,
            requests_per_minute=limits.requests_per_minute,
            tokens_per_minute=limits.tokens_per_minute,
        )

    async def send(self, flight: Flight[Answer]) -> Answer:
        """One answer. Raises CallFailed, or CriticBudgetError if nothing was sent."""
        tokens = tokens_in(flight.call.estimate)
        await self._gate.enter(tokens)
        self._open(flight, tokens)
        if self._limits.hedge_after_s is not None:
            return await self._hedged(flight, tokens, self._limits.hedge_after_s)
        used: Usage | None = flight.call.estimate
        try:
            answer = await self._in_time(flight.call)
            used = answer.usage
            return answer
        except CallFailed as failure:
            used = self._read(failure, flight.call)
            raise
        finally:
            self._close(flight.call, used)

    async def _hedged(self, flight: Flight[Answer], tokens: int, after_s: float) -> Answer:
        sends = [self._launch(flight)]
        try:
            done, waiting = await asyncio.wait(sends, timeout=after_s)
            if not done and self._may_hedge(flight, tokens):
                sends.append(self._launch(flight))
                waiting = set(sends)
            while waiting and not any(_answered(send) for send in sends):
                _, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for send in sends:
                if _answered(send):
                    return send.result()
            raise _worst(sends)
        finally:
            losers = [send for send in sends if send.cancel()]
            if losers:
                await asyncio.wait(losers)

    def _may_hedge(self, flight: Flight[Answer], tokens: int) -> bool:
        """Open a second send if that delays nobody and can be paid for."""
        if not self._gate.try_enter(tokens):
            return False
        try:
            self._open(flight, tokens)
        except CriticBudgetError:
            return False
        return True

    def _launch(self, flight: Flight[Answer]) -> asyncio.Task[Answer]:
        # A task that is cancelled before its first step never runs its own `finally`; a callback always runs.
        task = asyncio.create_task(self._in_time(flight.call))
        task.add_done_callback(partial(self._landed, flight.call))
        return task

    def _landed(self, call: PlannedCall[Answer], task: asyncio.Task[Answer]) -> None:
        used: Usage | None = call.estimate
        try:
            if not task.cancelled():
                error = task.exception()
                used = self._read(error, call) if isinstance(error, CallFailed) else task.result().usage
        finally:
            self._close(call, used)

    async def _in_time(self, call: PlannedCall[Answer]) -> Answer:
        """The bare send under its clock. Raises CallFailed and, if the caller is cancelled, CancelledError only."""
        limit_s = self._limits.timeout_s
        try:
            async with asyncio.timeout(limit_s):
                return await call.send()
        except CallFailed:
            raise
        except CriticError as error:
            raise CallFailed(error, retryable=False) from None
        except TimeoutError:
            late = CriticTimeoutError(f"no answer within {limit_s:g} s of sending")
            raise CallFailed(late, retryable=True) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise CallFailed(CriticError("the client cancelled its own call"), retryable=True) from None
        except Exception as error:
            raise CallFailed(unforeseen(error), retryable=False) from None

    def _open(self, flight: Flight[Answer], tokens: int) -> None:
        """Pay for an admitted send and count it. Raises CriticBudgetError, with its place given back."""
        try:
            self._meter.reserve(flight.call.estimate)
        except CriticBudgetError:
            self._gate.withdraw(tokens)
            raise
        flight.sends += 1
        if flight.first_sent_at is None:
            flight.first_sent_at = asyncio.get_running_loop().time()

    def _close(self, call: PlannedCall[Answer], used: Usage | None) -> None:
        self._meter.settle(call.estimate, used)
        self._gate.leave(tokens_in(call.estimate), 0 if used is None else tokens_in(used))

    def _read(self, failure: CallFailed, call: PlannedCall[Answer]) -> Usage | None:
        """What a failed send used. A rate limit holds for every call of the pool, not only for the one that met it."""
        wish = failure.retry_after_s
        if isinstance(failure.error, CriticRateLimitError) and wish is not None:
            self._gate.pause(min(wish, self._limits.retry_after_cap_s))
        if failure.used is None and isinstance(failure.error, CriticTimeoutError):
            return call.estimate
        return failure.used


def _answered(send: asyncio.Task[Answer]) -> bool:
    return send.done() and not send.cancelled() and send.exception() is None


def _worst(sends: list[asyncio.Task[Answer]]) -> BaseException:
    """Of two failures the one that says more about sending again: never, else the longest wait."""

    def weight(error: BaseException | None) -> tuple[bool, float]:
        failure = error if isinstance(error, CallFailed) else None
        return (failure is None or not failure.retryable, (failure.retry_after_s or 0.0) if failure else 0.0)

    errors = [asyncio.CancelledError() if send.cancelled() else send.exception() for send in sends]
    worst = max(errors, key=weight)
    assert worst is not None
    return worst

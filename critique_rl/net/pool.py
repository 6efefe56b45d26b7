"""Calls from plan to result.

Owns: that a call always ends as a result, that equal calls in flight are sent once, and the stage's deadline.
Must not know: how one send is admitted and paid for, how long to wait before the next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Generic, TypeVar, cast

from critique_rl.errors import CriticBudgetError, CriticError, CriticTimeoutError
from critique_rl.net.calls import Answer, CallFailed, CallLimits, CallResult, Metered, PlannedCall, unforeseen
from critique_rl.net.meter import SpendMeter, Spent
from critique_rl.net.retry import Retries
from critique_rl.net.sending import Flight, Sender
from critique_rl.net.thread import LoopThread

T = TypeVar("T")


@dataclass(slots=True, kw_only=True, eq=False)
class _Ride(Generic[Answer]):
    """A flight that several calls wait for. The first that still waits reports the sends not yet `reported`."""

    flight: Flight[Answer]
    task: asyncio.Task[CallResult[Answer]]
    waiting: list[object] = field(default_factory=list[object])
    reported: int = 0


class CallPool:
    """Sends planned calls, at most `max_in_flight` at once, and never raises for a call that failed."""

    def __init__(self, limits: CallLimits, meter: SpendMeter, *, thread: LoopThread | None = None) -> None:
        """`thread` is shared if given, and then closed by its owner."""
        self._limits = limits
        self._meter = meter
        self._thread = thread or LoopThread()
        self._owns_thread = thread is None
        self._sender = Sender(limits, meter)
        self._retries = Retries(limits)
        self._rides: dict[str, _Ride[Metered]] = {}

    @property
    def spent(self) -> Spent:
        return self._meter.spent

    def start(self, coroutine: Coroutine[object, object, T]) -> Future[T]:
        """Run on the pool's loop while the caller goes on; cancelling the future cancels the coroutine."""
        return self._thread.start(coroutine)

    async def call(self, call: PlannedCall[Answer]) -> CallResult[Answer]:
        """One call, to be awaited on the pool's loop; it has no deadline but its timeouts and attempts."""
        return await self._call(call, None)

    def run_all(
        self,
        calls: Sequence[PlannedCall[Answer]],
        *,
        on_result: Callable[[int, CallResult[Answer]], None] | None = None,
    ) -> list[CallResult[Answer]]:
        """The i-th result answers the i-th call. `on_result` is told of each as it ends, on the loop's thread; what it
        raises ends the stage and is raised here."""
        if not calls:
            return []
        return self._thread.run(self._run_all(calls, on_result))

    def close(self, cleanup: Callable[[], Coroutine[object, object, None]] | None = None) -> None:
        """Run `cleanup` (closing a client) on the loop that used the client, then close the thread if it is ours."""
        try:
            if cleanup is not None:
                self._thread.run(cleanup())
        finally:
            if self._owns_thread:
                self._thread.close()

    async def _run_all(
        self,
        calls: Sequence[PlannedCall[Answer]],
        on_result: Callable[[int, CallResult[Answer]], None] | None,
    ) -> list[CallResult[Answer]]:
        limit_s = self._limits.stage_deadline_s
        deadline = None if limit_s is None else asyncio.get_running_loop().time() + limit_s

        async def one(index: int, call: PlannedCall[Answer]) -> CallResult[Answer]:
            result = await self._call(call, deadline)
            if on_result is not None:
                on_result(index, result)
            return result

        tasks = [asyncio.create_task(one(index, call)) for index, call in enumerate(calls)]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            left = [task for task in tasks if task.cancel()]
            await asyncio.gather(*left, return_exceptions=True)

    async def _call(self, call: PlannedCall[Answer], deadline: float | None) -> CallResult[Answer]:
        if call.key:
            return await self._share(call, deadline)
        flight = Flight(call=call, deadline=deadline)
        try:
            async with asyncio.timeout_at(deadline):
                return await self._fly(flight)
        except TimeoutError:
            return self._too_late(flight)

    async def _share(self, call: PlannedCall[Answer], deadline: float | None) -> CallResult[Answer]:
        ride = self._board(call, deadline)
        me, now = object(), asyncio.get_running_loop().time
        ride.waiting.append(me)
        joined_at = now()
        try:
            async with asyncio.timeout_at(deadline):
                await asyncio.wait([ride.task])
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            await self._alight(call.key, ride, me)
            raise
        # An answer that came together with the deadline is an answer.
        result = ride.task.result() if ride.task.done() else self._too_late(ride.flight)
        if ride.waiting[0] is me:
            result = replace(result, attempts=ride.flight.sends - ride.reported)
            ride.reported = ride.flight.sends
        else:
            result = replace(result, attempts=0, latency_s=now() - joined_at, shared=True)
        if not ride.task.done():
            await self._alight(call.key, ride, me)
        return result

    def _board(self, call: PlannedCall[Answer], deadline: float | None) -> _Ride[Answer]:
        """The ride that is under way for the call's key, or a new one."""
        # Equal keys mean equal requests, hence one type of answer.
        ride = cast("_Ride[Answer] | None", self._rides.get(call.key))
        if ride is not None:
            there = ride.flight.deadline
            ride.flight.deadline = None if there is None or deadline is None else max(there, deadline)
            return ride
        flight = Flight(call=call, deadline=deadline)
        ride = _Ride(flight=flight, task=asyncio.create_task(self._fly(flight)))
        self._rides[call.key] = cast("_Ride[Metered]", ride)
        ride.task.add_done_callback(lambda _: self._forget(call.key, ride))
        return ride

    async def _alight(self, key: str, ride: _Ride[Answer], who: object) -> None:
        """Stop waiting; the last to go ends the ride."""
        ride.waiting.remove(who)
        if not ride.waiting and not ride.task.done():
            self._forget(key, ride)
            ride.task.cancel()
            await asyncio.wait([ride.task])

    def _forget(self, key: str, ride: _Ride[Answer]) -> None:
        if self._rides.get(key) is ride:
            del self._rides[key]

    async def _fly(self, flight: Flight[Answer]) -> CallResult[Answer]:
        try:
            answer = await self._retries.run(partial(self._attempt, flight), lambda: flight.deadline)
        except CallFailed as failure:
            return _ended(flight, None, failure.error)
        except CriticBudgetError as error:
            return _ended(flight, None, error)
        except Exception as error:
            return _ended(flight, None, unforeseen(error))
        return _ended(flight, answer, None)

    async def _attempt(self, flight: Flight[Answer]) -> Answer:
        try:
            return await self._sender.send(flight)
        except CallFailed as failure:
            flight.met = failure.error
            raise
        except CriticBudgetError as spent:
            if flight.met is None:
                raise
            # That no retry could be paid for says less than why one was wanted.
            raise CallFailed(flight.met, retryable=False) from spent

    def _too_late(self, flight: Flight[Answer]) -> CallResult[Answer]:
        return _ended(flight, None, CriticTimeoutError(f"the stage's {self._limits.stage_deadline_s:g} s were over"))


def _ended(flight: Flight[Answer], answer: Answer | None, error: CriticError | None) -> CallResult[Answer]:
    sent_at = flight.first_sent_at
    latency_s = 0.0 if sent_at is None else asyncio.get_running_loop().time() - sent_at
    if error is not None:
        # A result may be kept for long; the frames of a traceback hold the request and the client.
        error = error.with_traceback(None)
    return CallResult(answer=answer, error=error, attempts=flight.sends, latency_s=latency_s)

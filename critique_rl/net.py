"""The one owner of calls that leave the process: retry, concurrency, clocks, budget, and the thread they run on.

Owns: when a call is sent, sent again, given up or never sent. A call says by `CallFailed` whether sending again helps.
Must not know: any client library, what a call asks, what an answer means.
"""

from __future__ import annotations

import asyncio
import random
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt, stop_any
from tenacity.stop import stop_base
from tenacity.wait import wait_base

from critique_rl.errors import CriticBudgetError, CriticError, CriticRateLimitError, CriticTimeoutError
from critique_rl.types import Usage


class Metered(Protocol):
    """An answer that knows what it used."""

    @property
    def usage(self) -> Usage: ...


Answer = TypeVar("Answer", bound=Metered)
T = TypeVar("T")
_UNKNOWN_USAGE = Usage()


class CallFailed(Exception):
    """Raised by a call: how it ended, whether sending it again can help, and how long the server asked to wait."""

    def __init__(self, error: CriticError, *, retryable: bool, retry_after_s: float | None = None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retryable = retryable
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """Clocks in seconds. `timeout_s` starts when one call is sent, `stage_deadline_s` when `run_all` begins."""

    timeout_s: float = 60.0
    stage_deadline_s: float | None = None
    max_in_flight: int = 16
    max_attempts: int = 4
    retry_after_cap_s: float = 60.0
    backoff_s: float = 0.5
    backoff_cap_s: float = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """Caps over the whole run; None is no cap."""

    max_calls: int | None = None
    max_tokens: int | None = None
    max_cost_usd: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What has been used. `cost_usd` adds known prices only; `unpriced_calls` counts answers without one."""

    calls: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    unpriced_calls: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCall(Generic[Answer]):
    """One call to make: `send` makes a fresh request each time; `estimate` is the most that one send can use."""

    send: Callable[[], Awaitable[Answer]]
    estimate: Usage = _UNKNOWN_USAGE


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult(Generic[Answer]):
    """How one call ended: an answer or an error. `latency_s` runs from the first send, waits between sends included."""

    answer: Answer | None
    error: CriticError | None
    attempts: int
    latency_s: float


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
        tokens, usd = _tokens(estimate), estimate.cost_usd or 0.0
        _check("max_calls", budget.max_calls, spent.calls, 1)
        _check("max_total_tokens", budget.max_tokens, spent.tokens + self._reserved_tokens, tokens)
        _check("max_cost_usd", budget.max_cost_usd, spent.cost_usd + self._reserved_usd, usd)
        self._spent = replace(spent, calls=spent.calls + 1)
        self._reserved_tokens += tokens
        self._reserved_usd += usd

    def settle(self, estimate: Usage, used: Usage | None) -> None:
        """Replace a reservation by what was used; None: the send failed and used nothing."""
        self._reserved_tokens -= _tokens(estimate)
        self._reserved_usd -= estimate.cost_usd or 0.0
        if used is None:
            return
        self._spent = replace(
            self._spent,
            tokens=self._spent.tokens + _tokens(used),
            cost_usd=self._spent.cost_usd + (used.cost_usd or 0.0),
            unpriced_calls=self._spent.unpriced_calls + (used.cost_usd is None),
        )


def _tokens(usage: Usage) -> int:
    return usage.prompt_tokens + usage.completion_tokens


def _check(field: str, cap: float | None, used: float, wanted: float) -> None:
    if cap is not None and used + wanted > cap:
        raise CriticBudgetError(f"{field} = {cap:g}: {used:g} used or in flight, and the next send may need {wanted:g}")


class LoopThread:
    """One event loop on one daemon thread, started at the first use and closed once."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._closed = False

    def run(self, coroutine: Coroutine[object, object, T]) -> T:
        """Run to the end on the loop and return the result; an interrupt here cancels it there."""
        if self._closed:
            coroutine.close()
            raise RuntimeError("the call thread is closed; make a new critic for a new run")
        if self._loop is None:
            self._loop = asyncio.new_event_loop()
            self._thread = threading.Thread(target=self._loop.run_forever, name="critique-rl-calls", daemon=True)
            self._thread.start()
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def close(self) -> None:
        """Cancel what still runs, stop the thread, close the loop; a second call does nothing."""
        loop, thread = self._loop, self._thread
        if not self._closed and loop is not None and thread is not None:
            asyncio.run_coroutine_threadsafe(_cancel_others(), loop).result()
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()
        self._closed = True


async def _cancel_others() -> None:
    others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()


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
    """Gives up when the server asks for more than the cap (never sends early), or the stage would be over."""

    def __init__(self, limits: CallLimits, deadline: float | None) -> None:
        self._limits = limits
        self._deadline = deadline

    def __call__(self, retry_state: RetryCallState) -> bool:
        wish = _wish(retry_state)
        if wish is not None and wish > self._limits.retry_after_cap_s:
            return True
        return self._deadline is not None and (
            asyncio.get_running_loop().time() + retry_state.upcoming_sleep >= self._deadline
        )


def _wish(state: RetryCallState) -> float | None:
    error = state.outcome.exception() if state.outcome is not None else None
    return error.retry_after_s if isinstance(error, CallFailed) else None


class CallPool:
    """Sends planned calls, at most `max_in_flight` at once, and never raises for a call that failed."""

    def __init__(self, limits: CallLimits, meter: SpendMeter, *, thread: LoopThread | None = None) -> None:
        """`thread` is shared if given, and then closed by its owner."""
        self._limits = limits
        self._meter = meter
        self._thread = thread or LoopThread()
        self._owns_thread = thread is None
        self._slots = asyncio.Semaphore(limits.max_in_flight)
        self._rng = random.Random()
        self._paused_until = 0.0

    @property
    def spent(self) -> Spent:
        return self._meter.spent

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
            result = await self._run_one(call, deadline)
            if on_result is not None:
                on_result(index, result)
            return result

        tasks = [asyncio.create_task(one(index, call)) for index, call in enumerate(calls)]
        try:
            return list(await asyncio.gather(*tasks))
        finally:
            for task in tasks:
                task.cancel()

    async def _run_one(self, call: PlannedCall[Answer], deadline: float | None) -> CallResult[Answer]:
        now = asyncio.get_running_loop().time
        sent_at: list[float] = []
        met: list[CriticError] = []

        def ended(answer: Answer | None, error: CriticError | None) -> CallResult[Answer]:
            latency_s = now() - sent_at[0] if sent_at else 0.0
            return CallResult(answer=answer, error=error, attempts=len(sent_at), latency_s=latency_s)

        try:
            async with asyncio.timeout_at(deadline):
                return ended(await self._retrying(deadline)(self._attempt, call, sent_at, met), None)
        except CallFailed as failure:
            return ended(None, failure.error)
        except CriticError as error:
            return ended(None, error)
        except TimeoutError:
            return ended(None, CriticTimeoutError(f"the stage's {self._limits.stage_deadline_s:g} s were over"))
        except Exception as error:
            # The text of an unforeseen error may hold a key; its type and place do not.
            place = traceback.extract_tb(error.__traceback__)[-1]
            return ended(None, CriticError(f"unexpected {type(error).__name__} at {place.name}, line {place.lineno}"))

    def _retrying(self, deadline: float | None) -> AsyncRetrying:
        return AsyncRetrying(
            retry=retry_if_exception(lambda error: isinstance(error, CallFailed) and error.retryable),
            wait=_RetryWait(self._limits, self._rng),
            stop=stop_any(stop_after_attempt(self._limits.max_attempts), _WaitTooLong(self._limits, deadline)),
            sleep=asyncio.sleep,
            reraise=True,
        )

    async def _attempt(self, call: PlannedCall[Answer], sent_at: list[float], met: list[CriticError]) -> Answer:
        now = asyncio.get_running_loop().time
        async with self._slots:
            while (pause_s := self._paused_until - now()) > 0:
                await asyncio.sleep(pause_s)
            try:
                self._meter.reserve(call.estimate)
            except CriticBudgetError as spent:
                if not met:
                    raise
                # That no retry could be paid for says less than why one was wanted.
                raise CallFailed(met[-1], retryable=False) from spent
            # A send that hangs or is cancelled may still be billed, so its estimate stays counted.
            used: Usage | None = call.estimate
            sent_at.append(now())
            try:
                async with asyncio.timeout(self._limits.timeout_s):
                    answer = await call.send()
                used = answer.usage
                return answer
            except TimeoutError:
                error = CriticTimeoutError(f"no answer within {self._limits.timeout_s:g} s of sending")
                met.append(error)
                raise CallFailed(error, retryable=True) from None
            except CallFailed as failure:
                met.append(failure.error)
                used = None if not isinstance(failure.error, CriticTimeoutError) else call.estimate
                self._pause(failure, now())
                raise
            finally:
                self._meter.settle(call.estimate, used)

    def _pause(self, failure: CallFailed, now: float) -> None:
        """A rate limit holds for every call of this pool, not only for the one that met it."""
        wish = failure.retry_after_s
        if isinstance(failure.error, CriticRateLimitError) and wish is not None:
            self._paused_until = max(self._paused_until, now + min(wish, self._limits.retry_after_cap_s))

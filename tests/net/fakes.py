"""Calls that are coroutines instead of sockets, and a clock that jumps to whatever is waited for next."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import TypeVar

from critique_rl.errors import CriticError, CriticRateLimitError
from critique_rl.net import Budget, CallFailed, CallLimits, CallPool, LoopThread, PlannedCall, SpendMeter
from critique_rl.types import Usage

T = TypeVar("T")
ESTIMATE = Usage(prompt_tokens=10, completion_tokens=10, cost_usd=0.02)
USED = Usage(prompt_tokens=10, completion_tokens=5, cost_usd=0.01)


class _Jumping(selectors.SelectSelector):
    """Passes the time instead of waiting; waiting for nothing at all is a deadlock."""

    now_s = 1000.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "every task waits and no timer runs: a deadlock"
            self.now_s += timeout
        return ready


class _JumpingLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.clock = _Jumping()
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now_s


class InstantThread(LoopThread):
    """Runs on the caller's own thread in virtual time; checks that nothing is left running."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = _JumpingLoop()

    def run(self, coroutine: Coroutine[object, object, T]) -> T:
        try:
            return self.loop.run_until_complete(coroutine)
        finally:
            assert not asyncio.all_tasks(self.loop), "tasks were left behind"

    def close(self) -> None:
        self.loop.close()


@dataclass(frozen=True)
class Answered:
    text: str
    usage: Usage = USED


class Script:
    """A call whose sends do one step each, in turn, the last one for ever: raise, answer, or hang after a number of
    seconds has passed. `times_s` are the loop's times of the sends, `given_up` counts cancelled ones."""

    def __init__(self, *steps: Exception | str | tuple[float, Exception | str]) -> None:
        self.steps = list(steps)
        self.times_s: list[float] = []
        self.given_up = 0

    @property
    def sent(self) -> int:
        return len(self.times_s)

    async def send(self) -> Answered:
        step = self.steps[min(self.sent, len(self.steps) - 1)]
        self.times_s.append(asyncio.get_running_loop().time())
        if isinstance(step, tuple):
            try:
                await asyncio.sleep(step[0])
            except asyncio.CancelledError:
                self.given_up += 1
                raise
            step = step[1]
        if isinstance(step, Exception):
            raise step
        return Answered(step)


HANG = (1e6, "late")


def planned(
    send: Callable[[], Awaitable[Answered]], *, estimate: Usage = ESTIMATE, key: str = ""
) -> PlannedCall[Answered]:
    return PlannedCall(send=send, estimate=estimate, key=key)


def pool_on(thread: LoopThread, limits: CallLimits | None = None, budget: Budget | None = None) -> CallPool:
    return CallPool(limits or CallLimits(), SpendMeter(budget or Budget()), thread=thread)


def flaky() -> CallFailed:
    return CallFailed(CriticError("server error 503"), retryable=True)


def final(message: str = "bad request") -> CallFailed:
    return CallFailed(CriticError(message), retryable=False)


def limited(wish_s: float | None) -> CallFailed:
    return CallFailed(CriticRateLimitError("slow down", wish_s), retryable=True, retry_after_s=wish_s)

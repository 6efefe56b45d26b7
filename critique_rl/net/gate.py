"""Who may send next.

Owns: the slots, the rates and the pause that a server asked for, taken together and in the order of asking: who waits
holds no slot, and who has passed a rate does not then wait for a slot. Must not know: calls, budgets, retries.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque

from critique_rl.net.rates import RateBucket

_TOKEN_BURST_S = 5.0
"""Room for estimates that are given back late: with less, part of what is given back would overflow."""


class SendGate:
    """Admits sends one by one. Used by the loop thread only."""

    def __init__(
        self, *, slots: int, requests_per_minute: float | None = None, tokens_per_minute: float | None = None
    ) -> None:
        self._free = slots
        self._requests = (
            None
            if requests_per_minute is None
            else RateBucket(requests_per_minute, burst=max(1.0, requests_per_minute / 60.0))
        )
        self._tokens = (
            None
            if tokens_per_minute is None
            else RateBucket(tokens_per_minute, burst=tokens_per_minute * _TOKEN_BURST_S / 60.0)
        )
        self._paused_until_s = 0.0
        self._waiting: deque[tuple[asyncio.Future[None], int]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    async def enter(self, tokens: int) -> None:
        """Wait for a slot, both rates and the end of a pause, then take them all at once."""
        if self.try_enter(tokens):
            return
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((admitted, tokens))
        self._admit()
        try:
            await admitted
        except asyncio.CancelledError:
            if admitted.cancelled():
                self._admit()
            else:
                self.withdraw(tokens)
            raise

    def try_enter(self, tokens: int) -> bool:
        """Enter if that needs no waiting and overtakes nobody."""
        if self._waiting or self._wait_s(tokens) > 0:
            return False
        self._take(tokens)
        return True

    def withdraw(self, tokens: int) -> None:
        """Give everything back: there was no send."""
        if self._requests is not None:
            self._requests.take(-1, _now_s())
        self.leave(tokens, 0)

    def leave(self, tokens: int, used: int) -> None:
        """Free the slot, and correct the `tokens` it entered with to what was `used`."""
        if self._tokens is not None and tokens != used:
            self._tokens.take(used - tokens, _now_s())
        self._free += 1
        self._admit()

    def pause(self, seconds: float) -> None:
        """Admit nobody for so long."""
        self._paused_until_s = max(self._paused_until_s, _now_s() + seconds)

    def _wait_s(self, tokens: int) -> float:
        """Seconds until a send may enter; infinite while no slot is free, for leaving is what ends that."""
        if self._free <= 0:
            return math.inf
        now_s = _now_s()
        wait_s = max(0.0, self._paused_until_s - now_s)
        if self._requests is not None:
            wait_s = max(wait_s, self._requests.wait_s(1, now_s))
        if self._tokens is not None:
            wait_s = max(wait_s, self._tokens.wait_s(tokens, now_s))
        return wait_s

    def _take(self, tokens: int) -> None:
        self._free -= 1
        if self._requests is not None:
            self._requests.take(1, _now_s())
        if self._tokens is not None:
            self._tokens.take(tokens, _now_s())

    def _admit(self) -> None:
        """Let in from the front of the queue whoever may enter now, and come back when the next one may."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting:
            admitted, tokens = self._waiting[0]
            if admitted.done():
                self._waiting.popleft()
                continue
            wait_s = self._wait_s(tokens)
            if wait_s > 0:
                if wait_s < math.inf:
                    self._timer = asyncio.get_running_loop().call_later(wait_s, self._admit)
                return
            self._waiting.popleft()
            self._take(tokens)
            admitted.set_result(None)


def _now_s() -> float:
    return asyncio.get_running_loop().time()

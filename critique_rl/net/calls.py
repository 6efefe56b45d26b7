"""What goes into the pool and what comes out of it.

Owns: the records of planned, failed and ended calls. Must not know: when or how often a call is sent.
"""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from critique_rl.errors import CriticError
from critique_rl.types import Usage


class Metered(Protocol):
    """An answer that knows what it used."""

    @property
    def usage(self) -> Usage: ...


Answer = TypeVar("Answer", bound=Metered)
_UNKNOWN_USAGE = Usage()


class CallFailed(Exception):
    """Raised by a call: how it ended, whether sending it again can help, and how long the server asked to wait.

    `used` is what the failed send is known to have used (a refusal may be billed). None: nothing, unless it timed out.
    """

    def __init__(
        self, error: CriticError, *, retryable: bool, retry_after_s: float | None = None, used: Usage | None = None
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.used = used


@dataclass(frozen=True, slots=True, kw_only=True)
class CallLimits:
    """Clocks in seconds. `timeout_s` starts when one call is sent, `stage_deadline_s` when `run_all` begins.

    `max_attempts` counts rounds of sending: a hedge (the second send of a slow round) is not one of its own.
    """

    timeout_s: float = 60.0
    stage_deadline_s: float | None = None
    max_in_flight: int = 16
    max_attempts: int = 4
    retry_after_cap_s: float = 60.0
    backoff_s: float = 0.5
    backoff_cap_s: float = 20.0
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    hedge_after_s: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCall(Generic[Answer]):
    """One call to make: `send` makes a fresh request each time; `estimate` is the most that one send can use.

    Calls in flight with equal `key`s that are not empty share one send.
    """

    send: Callable[[], Awaitable[Answer]]
    estimate: Usage = _UNKNOWN_USAGE
    key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallResult(Generic[Answer]):
    """How one call ended: an answer or an error. `attempts` counts sends, hedges included; `latency_s` runs from the
    first send, waits between sends included.

    `shared`: rode on another call's send, which reports the sends and the use; `latency_s` is then this call's wait.
    """

    answer: Answer | None
    error: CriticError | None
    attempts: int
    latency_s: float
    shared: bool = False


def tokens_in(usage: Usage) -> int:
    """Tokens asked and answered together."""
    return usage.prompt_tokens + usage.completion_tokens


def unforeseen(error: Exception) -> CriticError:
    """An error that nobody translated: its text may hold a key; its type and place do not."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return CriticError(f"unexpected {type(error).__name__} at {place.name}, line {place.lineno}")

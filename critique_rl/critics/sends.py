"""How one ask of a remote critic ended, and the sends that led there.

Owns: what is known of an ask that never got its answer. Must not know: requests, replies' meaning, records.
"""

from __future__ import annotations

from dataclasses import dataclass

from critique_rl.critics.asking import NO_COST, total_usage
from critique_rl.critics.completion import ChatReply
from critique_rl.errors import CriticError
from critique_rl.types import Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """How one ask ended: `error` is None if and only if there is an answer."""

    answer: ChatReply | None = None
    error: CriticError | None = None
    attempts: int = 0
    usage: Usage = NO_COST
    latency_s: float = 0.0
    cached: bool = False


class Sends:
    """The sends of one ask as they happen, for an ask that is given up in the middle."""

    def __init__(self) -> None:
        self.count = 0
        self.first_at: float | None = None
        self.refused: list[Usage] = []

    def note(self, at: float) -> None:
        self.count += 1
        self.first_at = at if self.first_at is None else self.first_at

    def ended(self, error: CriticError, now: float) -> Ended:
        """An end without an answer; a refusal may have been paid for all the same."""
        latency_s = 0.0 if self.first_at is None else now - self.first_at
        usage = total_usage([NO_COST, *self.refused])
        return Ended(error=error, attempts=self.count, usage=usage, latency_s=latency_s)

"""When a critic is asked again about one attempt, and which of its replies counts.

Owns: the ladder of asks: a fresh reply after a malformed one or after a verdict that the verifier contradicts, a longer
one after a cut one. Must not know: how a reply is fetched; a live critic and a replay climb the same ladder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from critique_rl.feedback.split import disagrees
from critique_rl.types import CriticOutcome, CriticRequest, Critique, Usage

NO_COST = Usage(cost_usd=0.0)
"""Nothing was asked for, or nothing that came back was paid for."""
_USABLE = frozenset({CriticOutcome.OK, CriticOutcome.ABSTAINED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One ask: `sample_index` counts the asks about one attempt from 0, `doublings` those that doubled max_tokens."""

    sample_index: int = 0
    doublings: int = 0

    def max_tokens(self, configured: int) -> int:
        return configured << self.doublings

    def seed(self, configured: int | None) -> int | None:
        """The seed to send: a second ask with the first one's seed would get the first one's reply."""
        return None if configured is None else configured + self.sample_index


FIRST_ASK = Ask()


@dataclass(frozen=True, slots=True, kw_only=True)
class AskLimits:
    """How often to ask again, by cause. `fresh`: the same words get another reply when sent again."""

    parse_retries: int = 1
    length_retries: int = 1
    reasks: int = 1
    fresh: bool = True


class Told(NamedTuple):
    """What one ask came to. `answered`: text came back, usable or not."""

    critique: Critique
    answered: bool
    finish_reason: str


class Asking:
    """The asks about one attempt. `limits` None follows every further ask, as a replay of what was recorded does."""

    def __init__(self, request: CriticRequest, limits: AskLimits | None) -> None:
        self._request = request
        self._limits = limits
        self._told: list[Told] = []
        self._parse_retries = self._length_retries = self._reasks = 0

    def note(self, ask: Ask, told: Told) -> Ask | None:
        """Take what `ask` came to; the next ask, or None when it is settled."""
        self._told.append(told)
        if not told.answered or not self._wants_more(told):
            return None
        cut = told.finish_reason == "length"
        return Ask(sample_index=ask.sample_index + 1, doublings=ask.doublings + cut)

    @property
    def critique(self) -> Critique:
        """The last usable reply, else the last reply, else how the first ask failed; counts and costs of all asks."""
        answered = [told.critique for told in self._told if told.answered]
        usable = [critique for critique in answered if critique.outcome in _USABLE]
        chosen = usable[-1] if usable else answered[-1] if answered else self._told[0].critique
        return replace(
            chosen,
            asks=len(self._told),
            usage=total_usage([told.critique.usage for told in self._told]),
            latency_s=sum(told.critique.latency_s for told in self._told),
            cached=all(told.critique.cached for told in self._told),
        )

    def _wants_more(self, told: Told) -> bool:
        limits = self._limits
        if told.finish_reason == "length":
            self._length_retries += 1
            return limits is None or self._length_retries <= limits.length_retries
        if told.critique.outcome is CriticOutcome.MALFORMED:
            self._parse_retries += 1
            return limits is None or (limits.fresh and self._parse_retries <= limits.parse_retries)
        if disagrees(told.critique.verdict, self._request):
            self._reasks += 1
            return limits is None or (limits.fresh and self._reasks <= limits.reasks)
        return False


def total_usage(parts: Sequence[Usage]) -> Usage:
    """The sum; the cost is None as soon as one part's is."""
    costs = [part.cost_usd for part in parts]
    known = [cost for cost in costs if cost is not None]
    return Usage(
        prompt_tokens=sum(part.prompt_tokens for part in parts),
        completion_tokens=sum(part.completion_tokens for part in parts),
        cost_usd=sum(known) if len(known) == len(costs) else None,
    )

"""Critics whose replies are given beforehand. They ship, so that a user tests a loop as we do.

Owns: turning given raw replies into critiques through the same parser and filters as a model's.
Must not know: prompts, networks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from critique_rl.config.critic import ScriptedCriticConfig
from critique_rl.critics.base import ReplyContext, bounds_from, failed_as, read_reply
from critique_rl.errors import CriticSetupError
from critique_rl.feedback.split import DirectiveFilter
from critique_rl.types import CriticOutcome, CriticRequest, Critique


def scripted_critic(config: ScriptedCriticConfig) -> ScriptedCritic | FailingCritic:
    """The critic that a `scripted` section describes."""
    if config.fail:
        return FailingCritic(name=config.name or "failing")
    return ScriptedCritic(config.replies, name=config.name or "scripted", bounds=bounds_from(config))


class ScriptedCritic:
    """Gives raw replies in turn, starting over at the end, or asks a function for each."""

    def __init__(
        self,
        replies: Sequence[str] | Callable[[CriticRequest], str],
        *,
        name: str = "scripted",
        bounds: DirectiveFilter | None = None,
    ) -> None:
        """Raises CriticSetupError for an empty list."""
        if not callable(replies) and not replies:
            raise CriticSetupError("a scripted critic has no replies: give at least one")
        self.name = name
        self.requests: list[CriticRequest] = []
        self._replies = replies
        self._bounds = bounds or DirectiveFilter()

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        """One critique a request; what was asked is kept in `requests`."""
        return [self._review_one(request) for request in requests]

    def close(self) -> None:
        """Nothing to release."""

    def _review_one(self, request: CriticRequest) -> Critique:
        turn = len(self.requests)
        self.requests.append(request)
        replies = self._replies
        text = replies(request) if callable(replies) else replies[turn % len(replies)]
        return read_reply(text, request, ReplyContext(critic=self.name, bounds=self._bounds))


class FailingCritic:
    """Every call ends as the given outcome."""

    def __init__(self, *, name: str = "failing", outcome: CriticOutcome = CriticOutcome.FAILED) -> None:
        """Raises CriticSetupError if `outcome` is no failure."""
        if outcome is CriticOutcome.OK:
            raise CriticSetupError("a failing critic cannot end as ok: choose another outcome")
        self.name = name
        self._outcome = outcome

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        """One failure a request."""
        context = ReplyContext(critic=self.name)
        return [failed_as(request, self._outcome, "this critic always fails", context) for request in requests]

    def close(self) -> None:
        """Nothing to release."""

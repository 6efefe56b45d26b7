"""A critic whose answers have all come back before it is asked: from a batch, by way of the answer cache.

Owns: what is said about an attempt that no answer came back for, and that an answer's price is told once.
Must not know: how the batch was run. Nothing here sends anything.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from critique_rl.config.critic import RemoteCriticConfig
from critique_rl.critics.asking import FIRST_ASK, NO_COST, Asking, AskLimits, Told
from critique_rl.critics.base import ReplyContext, asker_from, bounds_from, failed_as, read_reply
from critique_rl.critics.remote import RemoteCritic
from critique_rl.errors import CriticSetupError, DataError
from critique_rl.feedback.cache import AnswerCache
from critique_rl.types import CriticOutcome, CriticRequest, Critique

_ONE_ASK = AskLimits(parse_retries=0, length_retries=0, reasks=0)


class Unanswered(NamedTuple):
    """Why there is no answer to a request."""

    outcome: CriticOutcome
    reason: str


_NOT_IN_BATCH = Unanswered(CriticOutcome.FAILED, "the batch has no answer to this request")


class BatchedCritic:
    """Reviews from answers that are there. What cannot be used stays malformed: asking again would be another batch."""

    def __init__(
        self,
        config: RemoteCriticConfig,
        planner: RemoteCritic,
        cache: AnswerCache,
        *,
        paid: Collection[str],
        unanswered: Mapping[str, Unanswered],
    ) -> None:
        """`paid`: keys whose answers this run paid for; the others came from the cache of an earlier one, at no cost.
        `close` closes the planner and the cache."""
        self.name = planner.name
        self._planner = planner
        self._cache = cache
        self._to_tell = set(paid)
        self._unanswered = unanswered
        self._prompt_hash = asker_from(config).template.hash
        self._bounds = bounds_from(config)

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        """One critique a request, in order. Raises CriticSetupError if the cache cannot be read."""
        return [self._review(request) for request in requests]

    def close(self) -> None:
        self._planner.close()
        self._cache.close()

    def _review(self, request: CriticRequest) -> Critique:
        planned = self._planner.plan(request)
        try:
            answer = self._cache.get(planned.key)
        except DataError as error:
            raise CriticSetupError(str(error)) from None
        fresh = planned.key in self._to_tell
        self._to_tell.discard(planned.key)
        context = ReplyContext(
            critic=self.name,
            prompt_hash=self._prompt_hash,
            finish_reason=answer.finish_reason if answer is not None else "",
            usage=answer.usage if answer is not None and fresh else NO_COST,
            bounds=self._bounds,
            asked=planned.messages,
            cached=answer is not None and not fresh,
        )
        if answer is None:
            why = self._unanswered.get(planned.key, _NOT_IN_BATCH)
            return failed_as(request, why.outcome, why.reason, context)
        asking = Asking(request, _ONE_ASK)
        critique = read_reply(answer.text, request, context)
        asking.note(FIRST_ASK, Told(critique=critique, answered=True, finish_reason=answer.finish_reason))
        return asking.critique

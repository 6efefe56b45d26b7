"""The critic that answers from a file of recorded exchanges, with no model.

Owns: finding the exchange that answers a request. Must not know: clients, networks. Raw replies are parsed anew, so a
better parser reads old records; a call that failed then fails again, as it did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from critique_rl.config.critic import RecordedCriticConfig
from critique_rl.critics.base import Asker, ReplyContext, asker_from, bounds_from, failed_as, read_reply
from critique_rl.errors import CriticSetupError
from critique_rl.feedback.split import DirectiveFilter
from critique_rl.feedback.store import Exchange, ExchangeStore, SamplingValue, request_key
from critique_rl.types import CriticOutcome, CriticRequest, Critique, Message

_ANSWERED = frozenset({CriticOutcome.OK, CriticOutcome.ABSTAINED, CriticOutcome.MALFORMED})


class _Asked(NamedTuple):
    critic: str
    model: str
    sampling: Mapping[str, SamplingValue]


def recorded_critic(config: RecordedCriticConfig) -> RecordedCritic:
    """A critic that replays `config.path`. Raises CriticSetupError if it holds nothing, DataError if a line is bad."""
    path = Path(config.path).expanduser()
    if not path.is_file():
        raise CriticSetupError(f"critic.path = {config.path!r} does not exist: give a file of recorded exchanges")
    store = ExchangeStore(path)
    if not len(store):
        raise CriticSetupError(f"critic.path = {config.path!r} holds no exchange: record one with a remote critic")
    return RecordedCritic(store, asker_from(config), bounds=bounds_from(config), name=config.name)


class RecordedCritic:
    """Replays a store; a request that was never recorded ends as `failed`."""

    def __init__(
        self, store: ExchangeStore, asker: Asker, *, bounds: DirectiveFilter | None = None, name: str = ""
    ) -> None:
        self.name = name or f"recorded:{store.path.name}"
        self._store = store
        self._asker = asker
        self._bounds = bounds or DirectiveFilter()
        # A key holds who was asked and how; the file itself knows which of those occur in it.
        self._askers: list[_Asked] = []
        for exchange in store:
            asked = _Asked(exchange.critic, exchange.model, exchange.sampling)
            if asked not in self._askers:
                self._askers.append(asked)

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        """One critique a request, as recorded: critic name, usage and latency included."""
        return [self._review_one(request) for request in requests]

    def close(self) -> None:
        self._store.close()

    def _review_one(self, request: CriticRequest) -> Critique:
        exchange = self._find(self._asker.messages(request), request.rollout_id)
        if exchange is None:
            reason = (
                f"{self._store.path}: no exchange is recorded for this request (prompt {self._asker.template.name!r}, "
                f"hash {self._asker.template.hash})"
            )
            return failed_as(request, CriticOutcome.FAILED, reason, ReplyContext(critic=self.name))
        context = ReplyContext(
            critic=exchange.critic,
            prompt_hash=exchange.prompt_hash,
            finish_reason=exchange.finish_reason,
            usage=exchange.usage,
            latency_s=exchange.latency_s,
            bounds=self._bounds,
            asked=exchange.messages,
        )
        if exchange.outcome in _ANSWERED:
            return read_reply(exchange.reply, request, context)
        return failed_as(request, exchange.outcome, exchange.reason, context, reply=exchange.reply)

    def _find(self, messages: tuple[Message, ...], rollout_id: str) -> Exchange | None:
        for asked in self._askers:
            key = request_key(critic=asked.critic, model=asked.model, messages=messages, sampling=asked.sampling)
            found = self._store.find(key, rollout_id=rollout_id)
            if found is not None:
                return found
        return None

"""The critic that answers from a file of recorded exchanges, with no model.

Owns: finding the exchanges that answer a request, ask by ask. Must not know: clients, networks. Raw replies are parsed
anew, so a better parser reads old records; a call that failed then fails again, as it did.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from critique_rl.config.critic import RecordedCriticConfig
from critique_rl.critics.asking import FIRST_ASK, NO_COST, Ask, Asking, Told
from critique_rl.critics.base import (
    DEFAULT_PROMPT,
    TAGS_PROMPT,
    Asker,
    ReplyContext,
    asker_from,
    bounds_from,
    failed_as,
    read_reply,
)
from critique_rl.errors import CriticSetupError
from critique_rl.feedback.split import DirectiveFilter
from critique_rl.feedback.store import Exchange, ExchangeStore, SamplingValue, request_key
from critique_rl.types import CriticOutcome, CriticRequest, Critique, Message


class _Asked(NamedTuple):
    endpoint: str
    model: str
    sampling: Mapping[str, SamplingValue]


class _First(NamedTuple):
    exchange: Exchange
    asked: _Asked


def recorded_critic(config: RecordedCriticConfig) -> RecordedCritic:
    """A critic that replays `config.path`. Raises CriticSetupError if it holds nothing, DataError if a line is bad."""
    path = Path(config.path).expanduser()
    if not path.is_file():
        raise CriticSetupError(f"critic.path = {config.path!r} does not exist: give a file of recorded exchanges")
    store = ExchangeStore(path)
    if not len(store):
        raise CriticSetupError(f"critic.path = {config.path!r} holds no exchange: record one with a remote critic")
    asker = asker_from(config)
    if config.prompt == DEFAULT_PROMPT:
        # The recording critic may have been asked for plain text, and then showed tags by default.
        tags = asker_from(config, prompt=TAGS_PROMPT)
        hashes = {exchange.prompt_hash for exchange in store}
        if asker.template.hash not in hashes and tags.template.hash in hashes:
            asker = tags
    return RecordedCritic(store, asker, bounds=bounds_from(config), name=config.name)


class RecordedCritic:
    """Replays a store; a request that was never recorded ends as `failed`."""

    def __init__(
        self, store: ExchangeStore, asker: Asker, *, bounds: DirectiveFilter | None = None, name: str = ""
    ) -> None:
        """Raises DataError if the file cannot be read."""
        self.name = name or f"recorded:{store.path.name}"
        self._store = store
        self._asker = asker
        self._bounds = bounds or DirectiveFilter()
        # A key holds who was asked and how; the file itself knows which of those occur in it.
        self._asked: list[_Asked] = []
        for exchange in store:
            asked = _Asked(exchange.endpoint, exchange.model, exchange.sampling)
            if exchange.sample_index == 0 and asked not in self._asked:
                self._asked.append(asked)

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        """One critique a request, as recorded: critic name, asks, usage and latency included."""
        return [self._review_one(request) for request in requests]

    def close(self) -> None:
        self._store.close()

    def _review_one(self, request: CriticRequest) -> Critique:
        messages = self._asker.messages(request)
        first = self._find(messages, request.rollout_id)
        if first is None:
            reason = (
                f"{self._store.path}: no exchange is recorded for this request (prompt {self._asker.template.name!r}, "
                f"hash {self._asker.template.hash})"
            )
            return failed_as(request, CriticOutcome.FAILED, reason, ReplyContext(critic=self.name, usage=NO_COST))
        asking = Asking(request, None)
        exchange: Exchange | None = first.exchange
        ask: Ask | None = FIRST_ASK
        while ask is not None and exchange is not None:
            ask = asking.note(ask, self._read(exchange, request))
            if ask is not None:
                key = self._key(first.asked, messages, ask)
                exchange = self._store.find(key, rollout_id=first.exchange.rollout_id, own=True)
        return asking.critique

    def _read(self, exchange: Exchange, request: CriticRequest) -> Told:
        context = ReplyContext(
            critic=exchange.critic,
            prompt_hash=exchange.prompt_hash,
            finish_reason=exchange.finish_reason,
            usage=exchange.usage,
            latency_s=exchange.latency_s,
            bounds=self._bounds,
            asked=exchange.messages,
            cached=exchange.cached,
        )
        if exchange.answered:
            critique = read_reply(exchange.reply, request, context)
        else:
            critique = failed_as(request, exchange.outcome, exchange.reason, context, reply=exchange.reply)
        return Told(critique=critique, answered=exchange.answered, finish_reason=exchange.finish_reason)

    def _find(self, messages: tuple[Message, ...], rollout_id: str) -> _First | None:
        for asked in self._asked:
            found = self._store.find(self._key(asked, messages, FIRST_ASK), rollout_id=rollout_id)
            if found is not None:
                return _First(found, asked)
        return None

    @staticmethod
    def _key(asked: _Asked, messages: tuple[Message, ...], ask: Ask) -> str:
        first_max = asked.sampling.get("max_tokens")
        longer = {"max_tokens": ask.max_tokens(first_max)} if isinstance(first_max, int) else {}
        return request_key(
            endpoint=asked.endpoint,
            model=asked.model,
            messages=messages,
            sampling={**asked.sampling, **longer},
            sample_index=ask.sample_index,
        )

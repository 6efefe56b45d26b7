"""A critic behind a network call: render, call, parse, split, record.

Owns: that order, and that every exchange is written as it ends. Must not know: which client sends, or the loop.
A failed call is an outcome. Only a critic that never once answered, and by its server's word never will, stops a run.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial

from critique_rl.config.critic import RemoteCriticConfig
from critique_rl.critics.base import NOTHING_USED, Asker, ReplyContext, asker_from, bounds_from, failed, read_reply
from critique_rl.critics.completion import ChatReply, Transport
from critique_rl.critics.redaction import Redactor
from critique_rl.errors import CriticError, CriticSetupError
from critique_rl.feedback.split import DirectiveFilter
from critique_rl.feedback.store import Exchange, ExchangeStore, SamplingValue, request_key
from critique_rl.net import Budget, CallLimits, CallPool, CallResult, LoopThread, PlannedCall, SpendMeter, Spent
from critique_rl.types import CriticRequest, Critique, Message, Usage

_CHARS_PER_TOKEN = 3.0
"""Below any usual tokenizer's average for prose, so that an estimate errs on the expensive side."""


class RemoteCritic:
    """Reviews attempts through a transport; the shared behaviour of every remote critic."""

    def __init__(
        self,
        config: RemoteCriticConfig,
        transport: Transport,
        *,
        redact: Redactor,
        store: ExchangeStore | None = None,
        thread: LoopThread | None = None,
        spent: Spent | None = None,
    ) -> None:
        """`spent` is what the run had used before; by default what `store` says was paid for, so that a resumed run
        goes on with what is left of its budget. Raises PromptError, CriticSetupError."""
        self.name = config.name or f"{config.kind}:{config.model}"
        self._config = config
        self._transport = transport
        self._redact = redact
        self._store = store
        self._asker: Asker = asker_from(config)
        self._bounds: DirectiveFilter = bounds_from(config)
        self._sampling = sampling_of(config)
        used = spent_in(store) if spent is None and store is not None else spent
        self._pool = CallPool(limits_from(config), SpendMeter(budget_from(config), spent=used), thread=thread)
        self._answered = False
        self._closed = False

    @property
    def spent(self) -> Spent:
        """Calls, tokens and money so far."""
        return self._pool.spent

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        """One critique a request, in order. Raises CriticSetupError only."""
        messages = [self._asker.messages(request) for request in requests]
        calls = [
            PlannedCall(send=partial(self._transport.complete, asked), estimate=self._estimate(asked))
            for asked in messages
        ]
        critiques: dict[int, Critique] = {}

        def on_result(index: int, result: CallResult[ChatReply]) -> None:
            critiques[index] = self._conclude(requests[index], messages[index], result)

        self._pool.run_all(calls, on_result=on_result)
        return [critiques[index] for index in range(len(requests))]

    def close(self) -> None:
        """Close the client on its own loop, then the loop; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._pool.close(self._transport.close)
        if self._store is not None:
            self._store.close()

    def _conclude(self, request: CriticRequest, asked: tuple[Message, ...], result: CallResult[ChatReply]) -> Critique:
        answer = result.answer
        if isinstance(result.error, CriticSetupError) and not self._answered:
            raise result.error
        self._answered = self._answered or answer is not None
        context = ReplyContext(
            critic=self.name,
            prompt_hash=self._asker.template.hash,
            finish_reason=answer.finish_reason if answer else "",
            usage=answer.usage if answer else NOTHING_USED,
            latency_s=result.latency_s,
            bounds=self._bounds,
            asked=asked,
        )
        if answer is not None:
            critique = read_reply(self._redact.text(answer.text), request, context)
        else:
            critique = failed(request, result.error or CriticError("the call ended with no answer"), context)
        self._record(critique, asked, result)
        return critique

    def _record(self, critique: Critique, asked: tuple[Message, ...], result: CallResult[ChatReply]) -> None:
        if self._store is None:
            return
        answer = result.answer
        exchange = Exchange(
            key=request_key(critic=self.name, model=self._config.model, messages=asked, sampling=self._sampling),
            rollout_id=critique.rollout_id,
            critic=self.name,
            model=self._config.model,
            messages=asked,
            sampling=self._sampling,
            prompt_hash=critique.prompt_hash,
            outcome=critique.outcome,
            reply=critique.reply,
            reason=critique.reason,
            finish_reason=answer.finish_reason if answer else "",
            model_reported=answer.model if answer else "",
            attempts=result.attempts,
            usage=critique.usage,
            latency_s=critique.latency_s,
        )
        try:
            self._store.append(exchange)
        except OSError as error:
            raise CriticSetupError(
                f"{self._store.path}: the exchange cannot be recorded: {error}: free space"
            ) from error

    def _estimate(self, asked: tuple[Message, ...]) -> Usage:
        prompt_tokens = sum(math.ceil(len(message.content) / _CHARS_PER_TOKEN) + 4 for message in asked)
        completion_tokens = self._config.max_tokens
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cost_usd=self._transport.price_usd(prompt_tokens, completion_tokens),
        )


def spent_in(store: ExchangeStore) -> Spent:
    """What the exchanges in a store have used, sends and prices included."""
    used = Spent()
    for exchange in store:
        cost = exchange.usage.cost_usd
        used = Spent(
            calls=used.calls + exchange.attempts,
            tokens=used.tokens + exchange.usage.prompt_tokens + exchange.usage.completion_tokens,
            cost_usd=used.cost_usd + (cost or 0.0),
            unpriced_calls=used.unpriced_calls + (cost is None and exchange.usage.completion_tokens > 0),
        )
    return used


def sampling_of(config: RemoteCriticConfig) -> Mapping[str, SamplingValue]:
    """Everything in a critic section, besides model and prompt, that shapes a reply."""
    return {"temperature": config.temperature, "max_tokens": config.max_tokens, "seed": config.seed}


def limits_from(config: RemoteCriticConfig) -> CallLimits:
    """The call limits that a critic section describes."""
    return CallLimits(
        timeout_s=config.timeout_s,
        stage_deadline_s=config.stage_deadline_s,
        max_in_flight=config.max_in_flight,
        max_attempts=config.max_attempts,
        retry_after_cap_s=config.retry_after_cap_s,
    )


def budget_from(config: RemoteCriticConfig) -> Budget:
    """The run's budget that a critic section describes."""
    return Budget(max_calls=config.max_calls, max_tokens=config.max_total_tokens, max_cost_usd=config.max_cost_usd)


def configured_price_usd(config: RemoteCriticConfig, prompt_tokens: int, completion_tokens: int) -> float | None:
    """Cost by the prices in the config, or None if it has none."""
    asked, answered = config.usd_per_million_prompt_tokens, config.usd_per_million_completion_tokens
    if asked is None or answered is None:
        return None
    return (prompt_tokens * asked + completion_tokens * answered) / 1e6

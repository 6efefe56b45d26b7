"""A critic behind a network call: render, look up, call, keep, read, record, and maybe ask again.

Owns: that order, and that every ask is written as it ends. Must not know: which client sends, or the loop.
A failed call is an outcome. Only a critic that never once answered, and by its server's word never will, or a record
that cannot be written, stops a run. All state below is touched by the pool's loop thread only.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from critique_rl.config.critic import RemoteCriticConfig
from critique_rl.critics.asking import FIRST_ASK, NO_COST, Ask, Asking, AskLimits, Told
from critique_rl.critics.base import Asker, ReplyContext, asker_from, bounds_from, failed, read_reply
from critique_rl.critics.completion import ChatReply, Transport
from critique_rl.critics.form_watch import FormWatch
from critique_rl.critics.limits import (
    ask_limits_from,
    budget_from,
    estimated_tokens,
    limits_from,
    sampling_of,
    spent_in,
)
from critique_rl.critics.redaction import Redactor
from critique_rl.critics.sends import Ended, Sends
from critique_rl.errors import CriticError, CriticSetupError, CriticTimeoutError, DataError, PromptError
from critique_rl.feedback.cache import AnswerCache, CachedAnswer
from critique_rl.feedback.split import DirectiveFilter
from critique_rl.feedback.store import Exchange, ExchangeStore, SamplingValue, request_key
from critique_rl.net import CallFailed, CallPool, LoopThread, PlannedCall, SpendMeter, Spent
from critique_rl.types import CriticRequest, Critique, Message, Usage

_REFUSALS_IN_A_ROW = 3


class PlannedAsk(NamedTuple):
    """What a first ask about an attempt would send: `key` finds its answer, `body` is the request's JSON, `estimate` is
    the most that it can use, at the batch endpoint's price."""

    key: str
    messages: tuple[Message, ...]
    body: dict[str, object]
    estimate: Usage


class RemoteCritic:
    """Reviews attempts through a transport; the shared behaviour of every remote critic."""

    def __init__(
        self,
        config: RemoteCriticConfig,
        transport: Transport,
        *,
        redact: Redactor,
        store: ExchangeStore | None = None,
        cache: AnswerCache | None = None,
        thread: LoopThread | None = None,
        spent: Spent | None = None,
    ) -> None:
        """`spent` is what the run had used before; by default what `store` says was paid for, so that a resumed run
        goes on with what is left of its budget. Without a `cache`, the one that the config names is opened. Store and
        cache are closed with the critic. Raises PromptError, DataError."""
        self.name = config.name or f"{config.kind}:{config.model}"
        self._config = config
        self._transport = transport
        self._redact = redact
        self._store = store
        self._asker: Asker = asker_from(config)
        self._bounds: DirectiveFilter = bounds_from(config)
        self._sampling = sampling_of(config)
        self._ask_limits: AskLimits = ask_limits_from(config)
        named = Path(config.cache).expanduser() if config.cache else None
        self._cache = AnswerCache(named) if cache is None and named is not None else cache
        used = spent_in(store) if spent is None and store is not None else spent
        self._pool = CallPool(limits_from(config), SpendMeter(budget_from(config), spent=used), thread=thread)
        self._forms = FormWatch(self.name)
        self._tasks: set[asyncio.Task[object]] = set()
        self._answered = False
        self._refusals = 0
        self._stopped_by = ""
        self._closed = False

    @property
    def spent(self) -> Spent:
        """Calls, tokens and money so far."""
        return self._pool.spent

    @property
    def parse_forms(self) -> Mapping[str, int]:
        """How many replies were found on each rung of the parse ladder; "none" counts those that were not."""
        return self._forms.counts

    def submit(self, request: CriticRequest) -> Future[Critique]:
        """Ask about one attempt now, with no deadline but each call's own. The future raises CriticSetupError only;
        cancelling it gives the request up. Raises CriticSetupError if the prompt cannot be filled."""
        return self._start(request, None)

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        """One critique a request, in order; what is open at the stage's deadline ends as timed out.

        Raises CriticSetupError only.
        """
        futures = [self._start(request, self._config.stage_deadline_s) for request in requests]
        try:
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            for future in done:
                future.result()
            return [future.result() for future in futures]
        finally:
            for future in futures:
                future.cancel()

    def plan(self, request: CriticRequest) -> PlannedAsk:
        """What a batch sends for one attempt; an answer kept under its key is what `review` then finds."""
        messages = self._messages(request)
        return PlannedAsk(
            key=self._key(messages, FIRST_ASK),
            messages=messages,
            body=self._transport.body(messages),
            estimate=self._estimate(messages, FIRST_ASK, batch=True),
        )

    def batch_price_usd(self, prompt_tokens: int, completion_tokens: int) -> float | None:
        """What so many tokens cost through the batch endpoint; None if no batch price is known."""
        return self._transport.batch_price_usd(prompt_tokens, completion_tokens)

    def close(self) -> None:
        """Give up what is open, close the client on its own loop, then the loop; a second call does nothing."""
        if self._closed:
            return
        self._closed = True
        self._pool.close(self._shut)
        if self._store is not None:
            self._store.close()
        if self._cache is not None:
            self._cache.close()

    async def _shut(self) -> None:
        open_tasks = tuple(self._tasks)
        for task in open_tasks:
            task.cancel()
        await asyncio.gather(*open_tasks, return_exceptions=True)
        await self._transport.close()

    def _start(self, request: CriticRequest, limit_s: float | None) -> Future[Critique]:
        return self._pool.start(self._review(request, self._messages(request), limit_s))

    def _messages(self, request: CriticRequest) -> tuple[Message, ...]:
        try:
            return self._asker.messages(request)
        except PromptError as error:
            raise CriticSetupError(str(error)) from error

    async def _review(self, request: CriticRequest, messages: tuple[Message, ...], limit_s: float | None) -> Critique:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            deadline = None if limit_s is None else asyncio.get_running_loop().time() + limit_s
            asking = Asking(request, self._ask_limits)
            ask: Ask | None = FIRST_ASK
            while ask is not None:
                ask = asking.note(ask, await self._ask(request, messages, ask, deadline))
            return asking.critique
        finally:
            self._tasks.discard(task)

    async def _ask(
        self, request: CriticRequest, messages: tuple[Message, ...], ask: Ask, deadline: float | None
    ) -> Told:
        if self._stopped_by:
            raise CriticSetupError(self._stopped_by)
        key = self._key(messages, ask)
        sends = Sends()
        try:
            ended = self._kept(key) or await self._call(key, messages, ask, deadline, sends)
        except asyncio.CancelledError:
            now = asyncio.get_running_loop().time()
            gone = sends.ended(CriticTimeoutError("given up before it was answered"), now)
            self._conclude(request, messages, ask, key, gone)
            raise
        self._stop_if_refused(ended)
        return self._conclude(request, messages, ask, key, ended)

    async def _call(
        self, key: str, messages: tuple[Message, ...], ask: Ask, deadline: float | None, sends: Sends
    ) -> Ended:
        now = asyncio.get_running_loop().time

        async def send() -> ChatReply:
            started = now()
            sends.note(started)
            try:
                answer = await self._transport.complete(messages, ask)
            except CallFailed as failure:
                sends.refused += [failure.used] if failure.used is not None else []
                raise
            answer = replace(answer, text=self._redact.text(answer.text), model=self._redact.text(answer.model))
            # No other task runs between the answer and this, so nothing paid for is lost.
            self._keep(key, answer, now() - started)
            return answer

        call = PlannedCall(send=send, estimate=self._estimate(messages, ask), key=key)
        try:
            async with asyncio.timeout_at(deadline):
                result = await self._pool.call(call)
        except TimeoutError:
            late = CriticTimeoutError(f"the stage's {self._config.stage_deadline_s or 0:g} s were over")
            return sends.ended(late, now())
        if result.answer is None:
            error = result.error or CriticError("the call ended with no answer")
            usage = sends.ended(error, now()).usage
            return Ended(error=error, attempts=result.attempts, usage=usage, latency_s=result.latency_s)
        return Ended(
            answer=result.answer,
            attempts=result.attempts,
            usage=NO_COST if result.shared else result.answer.usage,
            latency_s=result.latency_s,
        )

    def _kept(self, key: str) -> Ended | None:
        if self._cache is None:
            return None
        try:
            found = self._cache.get(key)
        except DataError as error:
            raise CriticSetupError(str(error)) from None
        if found is None:
            return None
        answer = ChatReply(text=found.text, finish_reason=found.finish_reason, model=found.model, usage=NO_COST)
        return Ended(answer=answer, cached=True)

    def _keep(self, key: str, answer: ChatReply, latency_s: float) -> None:
        if self._cache is None:
            return
        kept = CachedAnswer(
            text=answer.text,
            finish_reason=answer.finish_reason,
            model=answer.model,
            usage=answer.usage,
            latency_s=latency_s,
        )
        try:
            self._cache.put(key, kept)
        except DataError as error:
            self._stopped_by = str(error)
            raise CallFailed(CriticSetupError(self._stopped_by), retryable=False) from None

    def _stop_if_refused(self, ended: Ended) -> None:
        if ended.answer is not None:
            # A kept answer says nothing of whether the server still answers.
            self._answered = self._answered or not ended.cached
            return
        if self._stopped_by:
            raise CriticSetupError(self._stopped_by)
        if not isinstance(ended.error, CriticSetupError):
            self._refusals = 0
        elif not self._answered:
            self._refusals += 1
            if self._refusals >= _REFUSALS_IN_A_ROW:
                self._stopped_by = str(ended.error)
            raise ended.error

    def _conclude(
        self, request: CriticRequest, messages: tuple[Message, ...], ask: Ask, key: str, ended: Ended
    ) -> Told:
        answer = ended.answer
        finish_reason = answer.finish_reason if answer is not None else ""
        context = ReplyContext(
            critic=self.name,
            prompt_hash=self._asker.template.hash,
            finish_reason=finish_reason,
            usage=ended.usage,
            latency_s=ended.latency_s,
            bounds=self._bounds,
            asked=messages,
            cached=ended.cached,
        )
        if answer is not None:
            critique = read_reply(answer.text, request, context)
            if not ended.cached:
                self._forms.note(critique, answer)
        else:
            critique = failed(request, ended.error or CriticError("the call ended with no answer"), context)
        self._record(critique, messages, ask, key, ended)
        return Told(critique=critique, answered=answer is not None, finish_reason=finish_reason)

    def _record(self, critique: Critique, messages: tuple[Message, ...], ask: Ask, key: str, ended: Ended) -> None:
        if self._store is None:
            return
        answer = ended.answer
        exchange = Exchange(
            key=key,
            rollout_id=critique.rollout_id,
            critic=self.name,
            endpoint=self._transport.endpoint,
            model=self._config.model,
            messages=messages,
            sampling=self._sampling_for(ask),
            sample_index=ask.sample_index,
            prompt_hash=critique.prompt_hash,
            outcome=critique.outcome,
            answered=answer is not None,
            cached=ended.cached,
            reply=critique.reply,
            reason=critique.reason,
            finish_reason=answer.finish_reason if answer else "",
            model_reported=answer.model if answer else "",
            attempts=ended.attempts,
            usage=critique.usage,
            latency_s=critique.latency_s,
        )
        try:
            self._store.append(exchange)
        except OSError as error:
            self._stopped_by = f"{self._store.path}: the exchange cannot be recorded: {error}: free space"
            raise CriticSetupError(self._stopped_by) from error

    def _key(self, messages: tuple[Message, ...], ask: Ask) -> str:
        return request_key(
            endpoint=self._transport.endpoint,
            model=self._config.model,
            messages=messages,
            sampling=self._sampling_for(ask),
            sample_index=ask.sample_index,
        )

    def _sampling_for(self, ask: Ask) -> Mapping[str, SamplingValue]:
        return {**self._sampling, "max_tokens": ask.max_tokens(self._config.max_tokens)}

    def _estimate(self, messages: tuple[Message, ...], ask: Ask, *, batch: bool = False) -> Usage:
        prompt_tokens = estimated_tokens(messages)
        completion_tokens = ask.max_tokens(self._config.max_tokens)
        price = self._transport.batch_price_usd if batch else self._transport.price_usd
        return Usage(
            prompt_tokens=prompt_tokens,
            completion_tokens=completion_tokens,
            cost_usd=price(prompt_tokens, completion_tokens),
        )

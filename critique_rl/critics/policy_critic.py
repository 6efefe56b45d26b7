"""Self-critique: the policy, under the weights that it has at the moment, reviews its own attempts.

Owns: one batch for all requests of a step, equal requests asked once, and the record of what was said.
Must not know: engines and models. They come in as one function, which must leave mode, gradients and the global random
state as they were.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from critique_rl.config.critic import PolicyCriticConfig
from critique_rl.critics.base import ReplyContext, asker_from, bounds_from, failed, read_reply
from critique_rl.errors import CriticError, CriticSetupError, PromptError
from critique_rl.feedback.store import Exchange, ExchangeStore, SamplingValue, request_key
from critique_rl.types import Completion, CriticRequest, Critique, Message, Usage

_MODEL = "policy"
_FREE = Usage(cost_usd=0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class AskOptions:
    """How the policy is to be sampled. `seed` depends on the requests alone: the same ones get the same replies."""

    max_tokens: int
    temperature: float
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyAnswer:
    """What the policy wrote under one prompt, and how many tokens that prompt had."""

    completion: Completion
    prompt_tokens: int


Ask = Callable[[Sequence[tuple[Message, ...]], AskOptions], Sequence[PolicyAnswer | CriticError]]
"""Samples the i-th answer under the i-th prompt, all in one batch; a prompt that cannot be asked (it does not fit in
the policy's context) is answered by a CriticError."""


def policy_critic(config: PolicyCriticConfig, *, ask: Ask, store: ExchangeStore | None = None) -> PolicyCritic:
    """The critic that a `policy` section describes. Raises PromptError if its prompt cannot be used."""
    return PolicyCritic(config, ask, store=store)


class PolicyCritic:
    """Reviews through `ask`. It sees the reference only if `show_reference` is set; tokens are counted and free."""

    def __init__(self, config: PolicyCriticConfig, ask: Ask, *, store: ExchangeStore | None = None) -> None:
        self.name = config.name or _MODEL
        self._ask = ask
        self._store = store
        self._asker = asker_from(config)
        self._bounds = bounds_from(config)
        self._max_tokens = config.max_tokens
        self._temperature = config.temperature
        # Without the seed, which differs from batch to batch: a rollout's exchange is found again by its id.
        self._sampling: Mapping[str, SamplingValue] = {
            "temperature": config.temperature,
            "max_tokens": config.max_tokens,
        }

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        """One critique a request. Raises CriticSetupError if the prompt cannot be filled, or an exchange recorded."""
        try:
            asked = [self._asker.messages(request) for request in requests]
        except PromptError as error:
            raise CriticSetupError(str(error)) from error
        keys = [self._key(messages) for messages in asked]
        # Sorted: neither the order of the requests nor a repeated one changes what is sampled.
        distinct = dict(sorted(zip(keys, asked, strict=True)))
        if not distinct:
            return []
        options = AskOptions(max_tokens=self._max_tokens, temperature=self._temperature, seed=_seed(distinct))
        began_s = time.perf_counter()
        replies = self._ask(list(distinct.values()), options)
        latency_s = time.perf_counter() - began_s
        answers = dict(zip(distinct, replies, strict=True))
        critiques: list[Critique] = []
        paid: set[str] = set()
        for request, messages, key in zip(requests, asked, keys, strict=True):
            critique = self._conclude(request, messages, answers[key], latency_s=latency_s, shared=key in paid)
            self._record(critique, messages, key, answers[key], shared=key in paid)
            paid.add(key)
            critiques.append(critique)
        return critiques

    def close(self) -> None:
        """Close the record of exchanges; the policy is not the critic's to close."""
        if self._store is not None:
            self._store.close()

    def _key(self, messages: tuple[Message, ...]) -> str:
        return request_key(endpoint="", model=_MODEL, messages=messages, sampling=self._sampling)

    def _conclude(
        self,
        request: CriticRequest,
        messages: tuple[Message, ...],
        answer: PolicyAnswer | CriticError,
        *,
        latency_s: float,
        shared: bool,
    ) -> Critique:
        context = ReplyContext(
            critic=self.name,
            prompt_hash=self._asker.template.hash,
            finish_reason=_finish_reason(answer),
            usage=_FREE if shared else _usage(answer),
            latency_s=latency_s,
            bounds=self._bounds,
            asked=messages,
        )
        if isinstance(answer, CriticError):
            return failed(request, answer, context)
        return read_reply(answer.completion.text, request, context)

    def _record(
        self,
        critique: Critique,
        messages: tuple[Message, ...],
        key: str,
        answer: PolicyAnswer | CriticError,
        *,
        shared: bool,
    ) -> None:
        if self._store is None:
            return
        exchange = Exchange(
            key=key,
            rollout_id=critique.rollout_id,
            critic=self.name,
            model=_MODEL,
            messages=messages,
            sampling=self._sampling,
            prompt_hash=critique.prompt_hash,
            outcome=critique.outcome,
            answered=not isinstance(answer, CriticError),
            reply=critique.reply,
            reason=critique.reason,
            finish_reason=_finish_reason(answer),
            attempts=0 if shared else 1,
            usage=critique.usage,
            latency_s=critique.latency_s,
        )
        try:
            self._store.append(exchange)
        except OSError as error:
            raise CriticSetupError(
                f"{self._store.path}: the exchange cannot be recorded: {error}: free space"
            ) from error


def _seed(keys: Mapping[str, object]) -> int:
    """31 bits of sha256 over the requests' keys, in their sorted order."""
    return int.from_bytes(hashlib.sha256("\n".join(keys).encode()).digest()[:4]) >> 1


def _finish_reason(answer: PolicyAnswer | CriticError) -> str:
    if isinstance(answer, CriticError):
        return ""
    return "stop" if answer.completion.finished else "length"


def _usage(answer: PolicyAnswer | CriticError) -> Usage:
    if isinstance(answer, CriticError):
        return _FREE
    return Usage(
        prompt_tokens=answer.prompt_tokens, completion_tokens=len(answer.completion.completion_ids), cost_usd=0.0
    )

"""What a remote critic's section says of sampling, clocks, budget and prices, in the terms of those who keep to it.

Owns: these translations. Must not know: which client sends, requests, replies.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from critique_rl.config.critic import RemoteCriticConfig
from critique_rl.critics.asking import AskLimits
from critique_rl.feedback.store import ExchangeStore, SamplingValue
from critique_rl.net import Budget, CallLimits, Spent
from critique_rl.types import Message

_CHARS_PER_TOKEN = 3.0
"""Below any usual tokenizer's average for prose, so that an estimate errs on the expensive side."""


def estimated_tokens(messages: Sequence[Message]) -> int:
    """What a request will count as before it is sent: 3 characters a token, and 4 tokens a turn."""
    return sum(math.ceil(len(message.content) / _CHARS_PER_TOKEN) + 4 for message in messages)


def spent_in(store: ExchangeStore) -> Spent:
    """What the exchanges in a store have used, sends and prices included."""
    totals = store.totals
    return Spent(calls=totals.attempts, tokens=totals.tokens, cost_usd=totals.cost_usd, unpriced_calls=totals.unpriced)


def sampling_of(config: RemoteCriticConfig) -> Mapping[str, SamplingValue]:
    """Everything in a critic section, besides model and prompt, that shapes a reply, the response form included.

    The form is the one asked for first: a server that refuses it refuses it in every run.
    """
    sampling: dict[str, SamplingValue] = {
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
        "seed": config.seed,
        "structured_output": config.structured_output,
    }
    if config.structured_output == "json_schema":
        sampling["criteria"] = ", ".join(config.criteria)
    return sampling


def limits_from(config: RemoteCriticConfig) -> CallLimits:
    """The call limits that a critic section describes."""
    return CallLimits(
        timeout_s=config.timeout_s,
        stage_deadline_s=config.stage_deadline_s,
        max_in_flight=config.max_in_flight,
        max_attempts=config.max_attempts,
        retry_after_cap_s=config.retry_after_cap_s,
        requests_per_minute=config.requests_per_minute,
        tokens_per_minute=config.tokens_per_minute,
        hedge_after_s=config.hedge_after_s,
    )


def ask_limits_from(config: RemoteCriticConfig) -> AskLimits:
    """How often a critic section lets one attempt be asked about again."""
    return AskLimits(
        parse_retries=config.parse_retries,
        length_retries=config.length_retries,
        reasks=config.reasks,
        fresh=config.temperature > 0,
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


def configured_batch_price_usd(config: RemoteCriticConfig, prompt_tokens: int, completion_tokens: int) -> float | None:
    """Cost through a batch endpoint by the config; None unless it has prices and `batch_price_factor`."""
    full = configured_price_usd(config, prompt_tokens, completion_tokens)
    return None if full is None or config.batch_price_factor is None else full * config.batch_price_factor

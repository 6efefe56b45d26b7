"""What the feedback of a batch run has used, critic by critic, and what that leaves of a budget.

Owns: those sums. Must not know: files, calls. The usage of a reply from the cache is nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from critique_rl.config.critic import (
    CriticConfig,
    LiteLLMCriticConfig,
    OpenAICriticConfig,
    members_of,
    with_members,
)
from critique_rl.feedback.run_record import SpentRecord
from critique_rl.types import Critique


def spent_by_critic(critiques: Iterable[Critique]) -> dict[str, SpentRecord]:
    """Used per critic; the members of a panel count one by one, by their own names."""
    spent: dict[str, SpentRecord] = {}
    for critique in critiques:
        for one in _leaves(critique):
            spent[one.critic] = spent.get(one.critic, SpentRecord()).plus(spent_on(one))
    return spent


def spent_on(critique: Critique) -> SpentRecord:
    """Used by one critique, not counting its members."""
    usage = critique.usage
    tokens = usage.prompt_tokens + usage.completion_tokens
    if not (tokens or usage.cost_usd):
        return SpentRecord()
    return SpentRecord(
        calls=critique.asks, tokens=tokens, cost_usd=usage.cost_usd or 0.0, unpriced=int(usage.cost_usd is None)
    )


def together(left: Mapping[str, SpentRecord], right: Mapping[str, SpentRecord]) -> dict[str, SpentRecord]:
    """Two sums as one."""
    names = [*left, *(name for name in right if name not in left)]
    return {name: left.get(name, SpentRecord()).plus(right.get(name, SpentRecord())) for name in names}


def total(spent: Mapping[str, SpentRecord]) -> SpentRecord:
    """All critics as one."""
    result = SpentRecord()
    for one in spent.values():
        result = result.plus(one)
    return result


def rest_of_budget(config: CriticConfig, spent: Mapping[str, SpentRecord]) -> CriticConfig:
    """The section with its caps lowered by what its critic has used before, so that a budget holds over all runs."""
    if members_of(config):
        return with_members(config, lambda member: rest_of_budget(member, spent))
    if not isinstance(config, OpenAICriticConfig | LiteLLMCriticConfig):
        return config
    used = spent.get(config.name or f"{config.kind}:{config.model}", SpentRecord())
    caps: dict[str, object] = {}
    if config.max_calls is not None:
        caps["max_calls"] = max(0, config.max_calls - used.calls)
    if config.max_total_tokens is not None:
        caps["max_total_tokens"] = max(0, config.max_total_tokens - used.tokens)
    if config.max_cost_usd is not None:
        caps["max_cost_usd"] = max(0.0, config.max_cost_usd - used.cost_usd)
    return config.model_copy(update=caps)


def _leaves(critique: Critique) -> Iterator[Critique]:
    if not critique.members:
        yield critique
    for member in critique.members:
        yield from _leaves(member)

"""What a batch of requests will use at most, before the first one is sent.

Owns: the sum over rendered prompts and its wording. Must not know: rows, files, clients at work.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from critique_rl.config.critic import CriticConfig, LiteLLMCriticConfig, OpenAICriticConfig, members_of
from critique_rl.critics.base import Asker, asker_from
from critique_rl.critics.limits import estimated_tokens
from critique_rl.types import CriticRequest

_Remote = OpenAICriticConfig | LiteLLMCriticConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class CriticEstimate:
    """One remote critic: tokens asked (3 characters a token), the most that can be answered if each row is asked
    once, and the price of both; None: no price is known. `budget` lists its caps."""

    critic: str
    prompt_tokens: int
    max_completion_tokens: int
    max_cost_usd: float | None
    budget: str

    def uses(self) -> str:
        """Tokens and money in words."""
        price = "no price known" if self.max_cost_usd is None else f"at most ${self.max_cost_usd:.4f}"
        return (
            f"{self.critic}: about {self.prompt_tokens:,} tokens to send, at most {self.max_completion_tokens:,} to "
            f"receive, {price}"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """Rows of a run, those that are asked about now, and what each remote critic may use."""

    source: str
    rows: int
    asked: int
    critics: tuple[CriticEstimate, ...]

    def lines(self) -> tuple[str, ...]:
        """For a person, before the run starts."""
        kept = f", {self.rows - self.asked} of them answered before" if self.rows > self.asked else ""
        return (f"{self.source}: {self.rows} rows{kept}; {self.asked} to ask about", *self._cost_lines())

    def step_lines(self) -> tuple[str, ...]:
        """For a person, before training: what one step in which every attempt is asked about may use."""
        return tuple(
            f"a step asks about {self.asked} attempts at most; {one.uses()}; {one.budget}" for one in self.critics
        )

    def _cost_lines(self) -> Iterator[str]:
        if not self.critics:
            yield "this critic costs nothing"
        for one in self.critics:
            yield f"{one.uses()} (each row asked once); {one.budget}"


class Estimator:
    """Adds up requests one by one."""

    def __init__(self, config: CriticConfig) -> None:
        """Raises PromptError if a critic's prompt cannot be used."""
        self._remotes: list[tuple[_Remote, Asker]] = [(remote, asker_from(remote)) for remote in _remotes(config)]
        self._prompt_tokens = [0] * len(self._remotes)
        self._requests = 0

    def add(self, request: CriticRequest) -> None:
        self._requests += 1
        for index, (_, asker) in enumerate(self._remotes):
            messages = asker.messages(request)
            self._prompt_tokens[index] += estimated_tokens(messages)

    def estimate(self, *, source: str, rows: int, asked: int) -> Estimate:
        """The sum so far."""
        critics = tuple(
            CriticEstimate(
                critic=config.name or f"{config.kind}:{config.model}",
                prompt_tokens=tokens,
                max_completion_tokens=self._requests * config.max_tokens,
                max_cost_usd=_price_usd(config, tokens, self._requests * config.max_tokens),
                budget=_budget(config),
            )
            for (config, _), tokens in zip(self._remotes, self._prompt_tokens, strict=True)
        )
        return Estimate(source=source, rows=rows, asked=asked, critics=critics)


def _remotes(config: CriticConfig) -> Iterator[_Remote]:
    for member in members_of(config):
        yield from _remotes(member)
    if isinstance(config, OpenAICriticConfig | LiteLLMCriticConfig):
        yield config


def _price_usd(config: _Remote, prompt_tokens: int, completion_tokens: int) -> float | None:
    if prompt_tokens + completion_tokens == 0:
        return 0.0
    asked, answered = config.usd_per_million_prompt_tokens, config.usd_per_million_completion_tokens
    if asked is not None and answered is not None:
        return (prompt_tokens * asked + completion_tokens * answered) / 1e6
    if isinstance(config, OpenAICriticConfig):
        return None
    from critique_rl.critics.litellm_critic import load_litellm

    try:
        prices = load_litellm().cost_per_token(
            model=config.model, prompt_tokens=prompt_tokens, completion_tokens=completion_tokens
        )
    except Exception:  # the table's misses come as several unrelated classes
        return None
    return sum(prices) or None


def _budget(config: _Remote) -> str:
    caps = [
        f"${config.max_cost_usd:g}" if config.max_cost_usd is not None else "",
        f"{config.max_total_tokens:,} tokens" if config.max_total_tokens is not None else "",
        f"{config.max_calls:,} calls" if config.max_calls is not None else "",
    ]
    said = [cap for cap in caps if cap]
    return f"budget {', '.join(said)}" if said else "no budget set"

"""The composition root of critics: config -> live critic, without torch, so that an offline run starts at once.

Must not know: what a critic does once it is built, policies, engines.
"""

from __future__ import annotations

from pathlib import Path
from typing import assert_never

from critique_rl.config import critic as critics
from critique_rl.critics.panel import panel_critic
from critique_rl.critics.policy_critic import Ask, policy_critic
from critique_rl.critics.python_critic import python_critic
from critique_rl.critics.recorded import recorded_critic
from critique_rl.critics.rules import rules_critic
from critique_rl.critics.scripted import scripted_critic
from critique_rl.critics.shuffled import ShuffledCritic
from critique_rl.errors import ConfigError
from critique_rl.feedback.cache import AnswerCache
from critique_rl.feedback.store import ExchangeStore
from critique_rl.lab.critic import LabCritic
from critique_rl.lab.school.critic import SchoolCritic
from critique_rl.net import LoopThread
from critique_rl.protocols import Critic


def build_critic(
    config: critics.CriticConfig,
    *,
    exchanges: Path | None = None,
    cache: Path | None = None,
    ask: Ask | None = None,
    thread: LoopThread | None = None,
) -> Critic | None:
    """The critic that a config class names; client libraries are loaded only for the critic that needs them.

    `exchanges` records its calls, `cache` holds paid answers unless the section names a file of its own, and `ask`
    samples from the policy, for self-critique. The members of a panel share one `thread` and its event loop.
    Errors: CriticSetupError, PromptError, DataError, ConfigError.
    """
    if isinstance(config, critics.PanelCriticConfig):
        shared = LoopThread()
        members = [_member(config, n, exchanges, cache, ask, shared) for n in range(len(config.members))]
        return panel_critic(config, members, thread=shared)
    if isinstance(config, critics.ShuffledCriticConfig):
        inner = build_critic(config.critic, exchanges=exchanges, cache=cache, ask=ask, thread=thread)
        assert inner is not None
        return ShuffledCritic(inner)
    store = ExchangeStore(exchanges) if exchanges is not None else None
    match config:
        case critics.LabRulesCriticConfig():
            return LabCritic(lies=config.lies, reveals=config.reveals)
        case critics.SchoolRulesCriticConfig():
            return SchoolCritic(lies=config.lies)
        case critics.RulesCriticConfig():
            return rules_critic(config)
        case critics.OpenAICriticConfig():
            from critique_rl.critics.openai_compatible import openai_critic

            return openai_critic(config, store=store, cache=_cache(config, cache), thread=thread)
        case critics.LiteLLMCriticConfig():
            from critique_rl.critics.litellm_critic import litellm_critic

            return litellm_critic(config, store=store, cache=_cache(config, cache), thread=thread)
        case critics.PolicyCriticConfig():
            if ask is None:
                raise ConfigError('critic.kind = "policy" needs a policy: name its run file with --run')
            return policy_critic(config, ask=ask, store=store)
        case critics.PythonCriticConfig():
            return python_critic(config)
        case critics.RecordedCriticConfig():
            return recorded_critic(config)
        case critics.ScriptedCriticConfig():
            return scripted_critic(config)
        case critics.NoCriticConfig():
            return None
        case _:
            assert_never(config)


def _member(
    config: critics.PanelCriticConfig,
    n: int,
    exchanges: Path | None,
    cache: Path | None,
    ask: Ask | None,
    thread: LoopThread,
) -> Critic:
    """The n-th critic of a panel, with a record of its own: two of them may be asked the same."""
    own = exchanges.with_stem(f"{exchanges.stem}-{n + 1}") if exchanges is not None else None
    member = build_critic(config.members[n], exchanges=own, cache=cache, ask=ask, thread=thread)
    assert member is not None
    return member


def _cache(config: critics.RemoteCriticConfig, default: Path | None) -> AnswerCache | None:
    path = Path(config.cache).expanduser() if config.cache else default
    return None if path is None else AnswerCache(path)

"""Second attempts with a hint in view: the one place that renders their contexts and has them sampled.

Must not know: who gave the hint, whether an attempt is verified, what becomes of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from critique_rl.config.run import RolloutConfig
from critique_rl.loop.contexts import context_budget, fitting_messages
from critique_rl.loop.episodes import sample_answers
from critique_rl.loop.parts import Environment
from critique_rl.prompting.template import PromptTemplate
from critique_rl.protocols import Policy, RolloutEngine
from critique_rl.types import Completion, Task, TokenIds


class Hint(NamedTuple):
    """What a second attempt is told about the first one; `template` stands in for the call's."""

    task: Task
    attempt: str
    directive: str
    template: PromptTemplate | None = None


class SecondAttempt(NamedTuple):
    """A completion, and the ids that it was sampled under."""

    prompt_ids: TokenIds
    completion: Completion


def sample_again(
    hints: Sequence[Hint],
    *,
    policy: Policy,
    engine: RolloutEngine,
    template: PromptTemplate,
    rollout: RolloutConfig,
    seed: int,
    times: int = 1,
    environment: Environment | None = None,
) -> list[list[SecondAttempt]]:
    """`times` second attempts for each hint, in the hints' order; with an environment they are episodes.

    A first attempt too long for the policy's context is shown without its middle; a hint that does not fit even so gets
    no second attempt, and its list is empty.
    """
    budget = context_budget(policy, completion_tokens=rollout.max_tokens)
    fitted = [
        fitting_messages(
            hint.task,
            hint.template or template,
            attempt=hint.attempt,
            directive=hint.directive,
            encode=policy.encode,
            max_tokens=budget,
        )
        for hint in hints
    ]
    contexts = [context.ids for context in fitted if context is not None for _ in range(times)]
    if not contexts:
        return [[] for _ in hints]
    completions = sample_answers(
        [hint.task for hint, context in zip(hints, fitted, strict=True) if context is not None for _ in range(times)],
        contexts,
        environment=environment,
        policy=policy,
        engine=engine,
        max_tokens=rollout.max_tokens,
        temperature=rollout.temperature,
        seed=seed,
    )
    sampled = iter(map(SecondAttempt, contexts, completions))
    return [[next(sampled) for _ in range(times)] if context is not None else [] for context in fitted]

"""Sample a group of rollouts per task and have each verified."""

from __future__ import annotations

from collections.abc import Sequence

from critique_rl.config.run import RolloutConfig
from critique_rl.protocols import Policy, Reward, RolloutEngine
from critique_rl.types import Completion, Group, Rollout, Task, TokenIds


def collect(
    tasks: Sequence[Task],
    *,
    policy: Policy,
    engine: RolloutEngine,
    reward: Reward,
    config: RolloutConfig,
    step: int,
    seed: int,
) -> list[Group]:
    """`group_size` verified rollouts per task, in task order."""
    prompts = [policy.encode(task.messages) for task in tasks]
    repeated = [ids for ids in prompts for _ in range(config.group_size)]
    completions = engine.generate(repeated, max_tokens=config.max_tokens, temperature=config.temperature, seed=seed)
    groups: list[Group] = []
    for t, task in enumerate(tasks):
        members = completions[t * config.group_size : (t + 1) * config.group_size]
        rollouts = tuple(
            as_rollout(f"{step}/{task.id}/{i}", task, prompts[t], c, policy.version) for i, c in enumerate(members)
        )
        scores = tuple(reward.score(task, rollout.text) for rollout in rollouts)
        groups.append(Group(task=task, rollouts=rollouts, scores=scores))
    return groups


def as_rollout(
    rollout_id: str, task: Task, prompt_ids: TokenIds, completion: Completion, policy_version: int
) -> Rollout:
    """Stamp an engine's completion with where it came from."""
    return Rollout(
        id=rollout_id,
        task_id=task.id,
        prompt_ids=prompt_ids,
        completion_ids=completion.completion_ids,
        behaviour_logprobs=completion.behaviour_logprobs,
        text=completion.text,
        finished=completion.finished,
        policy_version=policy_version,
    )

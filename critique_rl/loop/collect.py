"""Sample a group of rollouts per task and have each verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence

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
    on_group: Callable[[int, Group], None] | None = None,
) -> list[Group]:
    """`group_size` verified rollouts per task, in task order.

    `on_group(t, group)` hears of the t-th task's group as soon as it is whole, while others are still being sampled.
    """
    size = config.group_size
    prompts = [policy.encode(task.messages) for task in tasks]
    done: list[dict[int, Completion]] = [{} for _ in tasks]
    groups: dict[int, Group] = {}

    def take(index: int, completion: Completion) -> None:
        t, i = divmod(index, size)
        done[t][i] = completion
        if len(done[t]) < size:
            return
        task = tasks[t]
        rollouts = tuple(
            as_rollout(f"{step}/{task.id}/{i}", task, prompts[t], done[t][i], policy.version) for i in range(size)
        )
        scores = tuple(reward.score(task, rollout.text) for rollout in rollouts)
        groups[t] = Group(task=task, rollouts=rollouts, scores=scores)
        if on_group is not None:
            on_group(t, groups[t])

    repeated = [ids for ids in prompts for _ in range(size)]
    completions = engine.generate(
        repeated, max_tokens=config.max_tokens, temperature=config.temperature, seed=seed, on_done=take
    )
    for index, completion in enumerate(completions):
        if index % size not in done[index // size]:
            take(index, completion)
    return [groups[t] for t in range(len(tasks))]


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

"""A step's tasks with their worked solutions in the place of rollouts: what supervised fine-tuning learns from.

Owns: where a demonstration stands in a task, and how it becomes token ids. Must not know: how it is learned.
"""

from __future__ import annotations

from collections.abc import Sequence

from critique_rl.errors import DataError
from critique_rl.loop.worked_episodes import EPISODES, demonstration_rollout
from critique_rl.protocols import Policy, Reward
from critique_rl.types import Group, Rollout, Task

SOLUTION = "solution"
"""The key of a task's metadata that holds its worked solution: the whole text of a right completion."""


def demonstrate(tasks: Sequence[Task], *, policy: Policy, reward: Reward, max_tokens: int, step: int) -> list[Group]:
    """One group a task, whose only rollout is the task's worked solution, scored as if it had been sampled.

    Its behaviour log-probs are unknown. Errors: DataError for a task without a solution, or with one that the policy
    could not write in full.
    """
    groups: list[Group] = []
    for task in tasks:
        rollout = demonstration(task, policy=policy, step=step)
        if len(rollout.completion_ids) > max_tokens:
            raise DataError(
                f"task {task.id!r}: its solution has {len(rollout.completion_ids)} tokens with the end token, and "
                f"rollout.max_tokens = {max_tokens}: no answer of the policy could be that long; raise "
                "rollout.max_tokens, or leave the task out"
            )
        groups.append(Group(task=task, rollouts=(rollout,), scores=(reward.score(task, rollout.answer_text),)))
    return groups


def demonstration(task: Task, *, policy: Policy, step: int) -> Rollout:
    """The worked solution of a task as a rollout, or one of its worked episodes. Errors: DataError if it has none."""
    if EPISODES in task.metadata:
        return demonstration_rollout(task, policy, step=step)
    solution = task.metadata.get(SOLUTION, "")
    if not solution.strip():
        raise DataError(
            f"task {task.id!r} has no worked solution, and sft learns from nothing else; give its row "
            f'{{"metadata": {{"{SOLUTION}": "..."}}}}, the whole text of a right completion, or leave the task out'
        )
    return Rollout(
        id=f"{step}/{task.id}/{SOLUTION}",
        task_id=task.id,
        prompt_ids=policy.encode(task.messages),
        completion_ids=policy.encode_completion(solution),
        behaviour_logprobs=(),
        text=solution,
        finished=True,
        policy_version=policy.version,
    )

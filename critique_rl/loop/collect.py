"""Sample a group of rollouts per task, have each verified, and find the token where a stated confidence begins."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import replace

from critique_rl.config.run import RolloutConfig
from critique_rl.loop.episodes import Episode, FirstTurns, sample_answers
from critique_rl.loop.parts import Environment
from critique_rl.protocols import Policy, Reward, RolloutEngine
from critique_rl.types import Completion, Group, Rollout, Score, ScoreStatus, Task, TokenIds


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
    environment: Environment | None = None,
) -> list[Group]:
    """`group_size` verified rollouts per task, in task order; with an environment each is an episode.

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
        # A copy of a task counts on where the other's rollouts end: their ids must tell them apart.
        first = size * [task.id for task in tasks[:t]].count(task.id)
        rollouts = tuple(
            as_rollout(f"{step}/{task.id}/{first + i}", task, prompts[t], done[t][i], policy.version)
            for i in range(size)
        )
        scores = tuple(judged(task, rollout, reward=reward, environment=environment) for rollout in rollouts)
        starts = confidence_tokens(rollouts, scores, decode=policy.decode)
        groups[t] = Group(task=task, rollouts=rollouts, scores=scores, confidence_tokens=starts)
        if on_group is not None:
            on_group(t, groups[t])

    repeated = [ids for ids in prompts for _ in range(size)]
    completions = sample_answers(
        [task for task in tasks for _ in range(size)],
        repeated,
        environment=environment,
        policy=policy,
        engine=engine,
        max_tokens=config.max_tokens,
        temperature=config.temperature,
        seed=seed,
        on_done=take,
        first_turns=FirstTurns(size, config.first_turn_candidates) if config.first_turn_candidates else None,
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
        policy_mask=completion.policy_mask if isinstance(completion, Episode) else (),
        turns=completion.turns if isinstance(completion, Episode) else (),
    )


def judged(task: Task, rollout: Rollout, *, reward: Reward, environment: Environment | None) -> Score:
    """What the verifier says to an answer; an episode that is not right also loses what its actions cost.

    A right one keeps its whole reward, 1 being what counts as success everywhere, and none falls below -1.
    """
    score = reward.score(task, rollout.answer_text)
    if environment is None or score.correct or score.status is ScoreStatus.ERROR:
        return score
    cost = environment.penalty(task, rollout.turns)
    return replace(score, reward=max(-1.0, score.reward - cost)) if cost else score


def confidence_tokens(
    rollouts: Sequence[Rollout], scores: Sequence[Score], *, decode: Callable[[Sequence[int]], str]
) -> dict[str, int]:
    """Per rollout whose score says where its stated confidence begins: the first token that reaches into it, from 0.

    A token that holds the last character before it and the first one of it belongs to the confidence, and so does one
    that holds only some bytes of its first character (exact for byte-level BPE; where single bytes stand on both sides
    of the border of a byte-fallback tokenizer, it may come out later). A rollout whose ids do not decode to its text
    has no entry, and no episode has.
    """
    found: dict[str, int] = {}
    for rollout, score in zip(rollouts, scores, strict=True):
        if score.confidence_start is not None and not rollout.turns:
            token = _first_token_past(rollout, score.confidence_start, decode)
            if token is not None:
                found[rollout.id] = token
    return found


def _first_token_past(rollout: Rollout, start: int, decode: Callable[[Sequence[int]], str]) -> int | None:
    before = rollout.text[:start]

    def reaches(count: int) -> bool:
        # Lengths alone mislead: while a character lacks bytes, one to three replacement marks stand in its place.
        text = decode(rollout.completion_ids[:count])
        return len(text) > start and text.startswith(before)

    count = len(rollout.completion_ids)
    if not reaches(count):
        return None
    return bisect_left(range(count + 1), True, key=reaches) - 1

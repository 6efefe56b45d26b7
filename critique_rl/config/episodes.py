"""What a task with a tool cannot be combined with, and what has no effect without one.

Must not know: how episodes are played.
"""

from __future__ import annotations

from critique_rl.config.base import Strict
from critique_rl.config.search import SEARCH_VERIFIER, EpisodesConfig


def check_episodes(
    tasks: Strict, *, first_turn_candidates: int | None, group_size: int, recalls: bool, samples: bool
) -> None:
    """Raises ValueError. `recalls`: the run learns from a file of feedback; `samples`: from rollouts of its own."""
    episodes = tasks if isinstance(tasks, EpisodesConfig) else None
    if episodes is not None and recalls:
        raise ValueError(
            "[feedback] cannot be used with a task that has a tool: a recorded transcript does not tell which of its "
            "words were the tool's, and those must not be learned; remove [feedback]"
        )
    if first_turn_candidates is None:
        return
    given = f"rollout.first_turn_candidates = {first_turn_candidates}"
    if episodes is None:
        raise ValueError(f"{given} has no effect on tasks of one turn; remove it, or set tasks with a tool")
    if not samples:
        raise ValueError(f"{given} has no effect where no rollout is sampled; remove it")
    if first_turn_candidates <= group_size:
        raise ValueError(
            f"{given} with rollout.group_size = {group_size} leaves nothing to choose; raise the first above the second"
        )
    if episodes.max_turns == 1:
        raise ValueError(
            f"{given} with tasks.max_turns = 1: the chosen first turns are not learned from, and there is no other; "
            "raise tasks.max_turns"
        )


def brought_along(tasks: Strict) -> tuple[str, ...]:
    """The verifiers that a task with a tool brings along."""
    return (SEARCH_VERIFIER,) if isinstance(tasks, EpisodesConfig) else ()

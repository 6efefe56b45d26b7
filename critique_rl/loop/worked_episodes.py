"""Episodes that somebody else played well, as a task's metadata holds them, as rollouts to learn from.

Owns: their form in the metadata, and which one a step takes. Must not know: how they are learned, where they come from.
"""

from __future__ import annotations

import json
from typing import NamedTuple, cast

from critique_rl.errors import DataError
from critique_rl.loop.episodes import hearing, transcript
from critique_rl.loop.seeds import derive_seed
from critique_rl.protocols import Policy
from critique_rl.types import Rollout, Task, Turn

EPISODES = "episodes"
"""The key of a task's metadata with its worked episodes: a JSON list of lists of {"text": ..., "observation": ...}."""


class _Worked(NamedTuple):
    text: str
    observation: str


def demonstration_rollout(task: Task, policy: Policy, *, step: int) -> Rollout:
    """One of the task's worked episodes as a rollout: the turns' words with end tokens, what the tool says masked.

    Which one is drawn by task and step. Its behaviour log-probs are unknown. Errors: DataError for metadata that is no
    list of episodes, ConfigError for a policy that cannot be told what a tool says.
    """
    episodes = _worked(task)
    said = episodes[derive_seed(0, step, task.id) % len(episodes)]
    hears = hearing(policy)
    ids: list[int] = []
    mask: list[bool] = []
    turns: list[Turn] = []
    for text, observation in said:
        own = policy.encode_completion(text)
        turns.append(Turn(start=len(ids), end=len(ids) + len(own), text=text, observation=observation))
        heard = hears.encode_observation(observation, after=own[-1]) if observation else ()
        ids += [*own, *heard]
        mask += [True] * len(own) + [False] * len(heard)
    return Rollout(
        id=f"{step}/{task.id}/{EPISODES}",
        task_id=task.id,
        prompt_ids=policy.encode(task.messages),
        completion_ids=tuple(ids),
        behaviour_logprobs=(),
        text=transcript(turns),
        finished=True,
        policy_version=policy.version,
        policy_mask=tuple(mask),
        turns=tuple(turns),
    )


def _worked(task: Task) -> list[list[_Worked]]:
    wanted = f'task {task.id!r}: metadata.{EPISODES} is no JSON list of lists of {{"text", "observation"}}'
    try:
        found: object = json.loads(task.metadata.get(EPISODES, ""))
    except ValueError as error:
        raise DataError(f"{wanted}: {error}") from None
    episodes: list[list[_Worked]] = []
    for episode in cast("list[object]", found) if isinstance(found, list) else []:
        turns = cast("list[object]", episode) if isinstance(episode, list) else []
        episodes.append([_worked_turn(turn, wanted) for turn in turns])
    if not episodes or not all(episodes):
        raise DataError(f"{wanted}; got {str(found)[:60]!r}")
    for episode in episodes:
        # The last turn ends the episode; every other one must have been answered, or two turns would run together.
        if episode[-1].observation or not all(turn.observation for turn in episode[:-1]):
            raise DataError(f'{wanted}: every turn but the last needs an observation, and the last one must have ""')
    return episodes


def _worked_turn(turn: object, wanted: str) -> _Worked:
    row = cast("dict[str, object]", turn) if isinstance(turn, dict) else {}
    text, observation = row.get("text"), row.get("observation", "")
    if not isinstance(text, str) or not text.strip() or not isinstance(observation, str):
        raise DataError(f"{wanted}; got the turn {str(turn)[:60]!r}")
    return _Worked(text, observation)

"""The search world's task source: questions about people, for their town and for their land.

Owns: which questions a step asks, and the worked episodes of training tasks. The pool does not depend on the seed; the
order does. Must not know: models, critics, rewards beyond the verifier's name.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence

from critique_rl.errors import ConfigError
from critique_rl.lab.search.corpus import MAX_TURNS, answer_call, search_call
from critique_rl.lab.search.world import HOPS, REGISTERS, Hop, Person, select_people
from critique_rl.types import Message, Task

VERIFIER = "search"
EPISODES = "episodes"
"""The key of a task's metadata that holds worked episodes."""


def search_task(person: Person, hop: Hop, *, episodes: str = "") -> Task:
    """The task that asks for a person's town or land: one user turn, the answer, the kind "town" or "land"."""
    return Task(
        id=f"lab_search/{hop}/{person.names[0]}",
        messages=(Message(role="user", content=person.question(hop)),),
        answer=person.answer(hop),
        verifier=VERIFIER,
        kind=hop,
        metadata={EPISODES: episodes} if episodes else {},
    )


def worked_episodes(person: Person, hop: Hop, *, find: Callable[[str], str], count: int) -> str:
    """`count` right episodes as JSON, whose first queries take the three names in turn.

    A searcher that finds nothing tries another name, as long as the answer still comes within MAX_TURNS turns: where
    that cannot be, the first query is one that finds something. What the tool says comes from `find`.
    """
    draw = random.Random(f"worked:{person.names[0]}:{hop}")
    room = MAX_TURNS - (1 if hop == "town" else 2)
    known = list(person.registers)
    firsts = [register for register in REGISTERS if register in known or room > 1]
    draw.shuffle(firsts)
    found: list[list[dict[str, str]]] = []
    for i in range(count):
        first = firsts[i % len(firsts)]
        tried = [first] if first in known else [first, draw.choice(known)]
        queries = [person.names[REGISTERS.index(register)] for register in tried]
        queries += [f"land {person.town}"] if hop == "land" else []
        turns = [{"text": search_call(query), "observation": find(query)} for query in queries]
        found.append([*turns, {"text": answer_call(person.answer(hop)), "observation": ""}])
    return json.dumps(found)


class SearchLabTasks:
    """TaskSource over both questions about `train_people` and `held_out_people`; each epoch permutes the pool anew.

    `find` gives the tool's words to a query, for the `demonstrations` worked episodes of each training task. Errors:
    ConfigError.
    """

    def __init__(
        self,
        *,
        find: Callable[[str], str],
        train_people: int = 80,
        held_out_people: int = 120,
        demonstrations: int = 4,
    ) -> None:
        self.pool = tuple(
            search_task(p, hop, episodes=worked_episodes(p, hop, find=find, count=demonstrations))
            for hop in HOPS
            for p in select_people("train", train_people)
        )
        self._held_out = tuple(search_task(p, hop) for hop in HOPS for p in select_people("held_out", held_out_people))

    def batch(self, step: int, size: int, *, seed: int) -> Sequence[Task]:
        """`size` different tasks for `step`. Errors: ConfigError if there are fewer."""
        if size > len(self.pool):
            raise ConfigError(
                f"train_people: {size} tasks a step were asked of a pool of {len(self.pool)}; raise train_people or "
                "lower the batch size"
            )
        epoch, slot = divmod(step, len(self.pool) // size)
        order = list(range(len(self.pool)))
        random.Random(f"lab_search:{seed}:{epoch}").shuffle(order)
        return [self.pool[i] for i in order[slot * size : (slot + 1) * size]]

    def training(self) -> Sequence[Task]:
        """The pool, those for towns first."""
        return self.pool

    def held_out(self) -> Sequence[Task]:
        """Evaluation tasks, those for towns first: no person of theirs is in the pool."""
        return self._held_out

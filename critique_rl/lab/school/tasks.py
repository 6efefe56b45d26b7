"""The school world's task source: fixed pools of training problems of each kind, and held-out ones.

Owns: which problems a step asks. The pools do not depend on the seed; their order does.
Must not know: models, critics, rewards beyond the verifier's name.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence

from critique_rl.errors import ConfigError
from critique_rl.lab.problems import Split
from critique_rl.lab.school.chains import MAX_LENGTH, Chain
from critique_rl.lab.school.problems import KINDS, Kind, Problem, kind_of, select_problems, split_size
from critique_rl.types import Message, Task

VERIFIER = "school"


def school_task(problem: Problem, *, verifier: str = VERIFIER) -> Task:
    """The task that asks `problem`: one user turn; a chain's metadata also hold its `solution` and its `steps`."""
    metadata = {"school": kind_of(problem), "question": problem.question}
    if isinstance(problem, Chain):
        metadata |= {"solution": problem.solution, "steps": json.dumps(problem.solution_steps)}
    return Task(
        id=f"lab_school/{problem.question[:-1]}",
        messages=(Message(role="user", content=problem.question),),
        answer=problem.answer,
        verifier=verifier,
        kind=kind_of(problem),
        metadata=metadata,
    )


class SchoolTasks:
    """TaskSource over at most `train` problems of each of `kinds`; all of a split where it has fewer.

    Every batch holds the kinds by `shares` (weights, 1 for a kind that is not named), in the order of `kinds`; each
    pool is permuted anew in every epoch. Errors: ConfigError.
    """

    def __init__(
        self,
        *,
        kinds: Sequence[Kind] = KINDS,
        held_out_kinds: Sequence[Kind] = KINDS,
        shares: Mapping[Kind, float] | None = None,
        chain_length: int = MAX_LENGTH,
        train: int = 120,
        held_out: int = 40,
        verifier: str = VERIFIER,
    ) -> None:
        def tasks(split: Split, kind: Kind, count: int) -> tuple[Task, ...]:
            most = min(count, split_size(split, kind, count, chain_length=chain_length))
            found = select_problems(split, kind, most, chain_length=chain_length)
            return tuple(school_task(p, verifier=verifier) for p in found)

        weights: dict[Kind, float] = {kind: (shares or {}).get(kind, 1.0) for kind in kinds}
        if not weights or min(weights.values()) <= 0:
            raise ConfigError(f"shares: came {weights}, wanted a weight above 0 for each kind, and at least one kind")
        self.shares: dict[Kind, float] = {kind: weight / sum(weights.values()) for kind, weight in weights.items()}
        self.pools = {kind: tasks("train", kind, train) for kind in self.shares}
        self._held_out = tuple(task for kind in held_out_kinds for task in tasks("held_out", kind, held_out))

    def batch(self, step: int, size: int, *, seed: int) -> Sequence[Task]:
        """`size` different tasks for `step`. Errors: ConfigError if a pool has fewer, or a kind gets none."""
        counts = _apportioned(self.shares, size)
        return [t for kind, n in counts.items() for t in _slice_of_epoch(self.pools[kind], step, n, kind, seed)]

    def training(self) -> Sequence[Task]:
        """All pools, kind by kind."""
        return tuple(task for pool in self.pools.values() for task in pool)

    def held_out(self) -> Sequence[Task]:
        """Evaluation tasks, kind by kind: none is in a pool or in the policy's build data."""
        return self._held_out


def _apportioned(shares: Mapping[Kind, float], size: int) -> dict[Kind, int]:
    """`size` split by shares with the largest remainders rounded up; equal remainders go by the order of the kinds."""
    counts: dict[Kind, int] = {kind: int(share * size + 1e-9) for kind, share in shares.items()}
    by_remainder = sorted(shares, key=lambda kind: counts[kind] - shares[kind] * size)
    for kind in by_remainder[: size - sum(counts.values())]:
        counts[kind] += 1
    if none := [kind for kind, n in counts.items() if n == 0]:
        raise ConfigError(
            f"shares: with {size} prompts a step no task of the kind {none[0]!r} would be asked; raise its share or "
            "rollout.prompts_per_step, or leave it out of kinds"
        )
    return counts


def _slice_of_epoch(pool: Sequence[Task], step: int, count: int, kind: Kind, seed: int) -> list[Task]:
    """`count` tasks; what does not fill a whole batch at an epoch's end is left out, so no batch repeats a task."""
    if count > len(pool):
        raise ConfigError(
            f"train: {count} tasks of the kind {kind!r} a step were asked of a pool of {len(pool)}; raise train, or "
            "lower the kind's share or rollout.prompts_per_step"
        )
    epoch, slot = divmod(step, len(pool) // count)
    order = list(range(len(pool)))
    random.Random(f"{kind}:{seed}:{epoch}").shuffle(order)
    return [pool[i] for i in order[slot * count : (slot + 1) * count]]

"""Several task sources in one run, each task under the name of its source.

Owns: how many tasks of each source a step asks. Must not know: what the sources are, how tasks are judged.
One task makes one group of rollouts, so no group ever mixes two sources.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from critique_rl.config.mixture import in_part
from critique_rl.errors import ConfigError
from critique_rl.protocols import TaskSource
from critique_rl.types import Task

_GOLDEN = (math.sqrt(5) - 1) / 2


@runtime_checkable
class _Pooled(Protocol):
    def training(self) -> Sequence[Task]: ...


class MixtureTasks:
    """A `TaskSource` of named sources. `shares` are those of the sources that are trained on, relative to one another;
    `held_out` has the tasks of all. Errors: ConfigError for a share that is not above 0 or of no source."""

    def __init__(self, sources: Mapping[str, TaskSource], *, shares: Mapping[str, float]) -> None:
        self._sources = dict(sources)
        self.shares = self._checked(shares)
        self._held_out = tuple(
            _renamed(name, task) for name, source in self._sources.items() for task in source.held_out()
        )

    @property
    def names(self) -> tuple[str, ...]:
        """All sources, in their order."""
        return tuple(self._sources)

    def batch(self, step: int, size: int, *, seed: int) -> Sequence[Task]:
        """`size` tasks for `step`, source by source; a pure function of (seed, step, size)."""
        return self.mixed(step, size, seed=seed, shares=self.shares)

    def mixed(self, step: int, size: int, *, seed: int, shares: Mapping[str, float]) -> list[Task]:
        """The same with other shares. Every step has size * share tasks of a source, rounded up or down, and over the
        steps a source gets its share exactly. Errors: ConfigError as above."""
        counts = split_batch(self._checked(shares), step, size, seed=seed)
        batch: list[Task] = []
        for name, (count, most) in counts.items():
            if not count:
                continue
            # Always the same number is asked for, so that a source's epochs keep their permutation.
            tasks = self._sources[name].batch(step, most, seed=_seed_of(seed, name))
            left_out = step % most if count < most else most
            batch += [_renamed(name, task) for at, task in enumerate(tasks) if at != left_out]
        assert len(batch) == size
        assert len({task.id for task in batch}) == size, "a batch asks no task twice: groups are told apart by task"
        return batch

    def training(self) -> Sequence[Task]:
        """The training tasks of the sources that are trained on: what one pass is over, whatever their shares. Errors:
        ConfigError for a source that does not tell its own."""
        tasks: list[Task] = []
        for name in self.shares:
            source = self._sources[name]
            if not isinstance(source, _Pooled):
                raise ConfigError(f"tasks.of.{name} does not tell how many training tasks it has; set budget.max_steps")
            tasks += [_renamed(name, task) for task in source.training()]
        return tasks

    def held_out(self) -> Sequence[Task]:
        """The held-out tasks of all sources, also of those that are not trained on."""
        return self._held_out

    def _checked(self, shares: Mapping[str, float]) -> dict[str, float]:
        unknown = sorted(set(shares) - set(self._sources))
        if unknown or not shares:
            raise ConfigError(f"shares name {unknown or 'nothing'}; the sources are {', '.join(self._sources)}")
        if not all(math.isfinite(share) and share > 0 for share in shares.values()):
            raise ConfigError(f"shares = {dict(shares)}; wanted a number above 0 for each source")
        total = sum(shares.values())
        return {name: shares[name] / total for name in self._sources if name in shares}


class ReplayingTasks:
    """A mixture of which some sources may come back into the batch: `replayed` says which, and their shares."""

    def __init__(self, mixture: MixtureTasks, replayed: Callable[[], Mapping[str, float]]) -> None:
        self._mixture = mixture
        self._replayed = replayed

    def batch(self, step: int, size: int, *, seed: int) -> Sequence[Task]:
        """A pure function of (seed, step, size) and of what is replayed at the moment."""
        back = self._replayed()
        left = 1.0 - sum(back.values())
        shares = {name: share * left for name, share in self._mixture.shares.items()}
        for name, share in back.items():
            shares[name] = shares.get(name, 0.0) + share
        return self._mixture.mixed(step, size, seed=seed, shares=shares)

    def training(self) -> Sequence[Task]:
        """As the mixture's: what is replayed is in no pass."""
        return self._mixture.training()

    def held_out(self) -> Sequence[Task]:
        """As the mixture's."""
        return self._mixture.held_out()


def replaying(tasks: TaskSource, replayed: Callable[[], Mapping[str, float]] | None) -> TaskSource:
    """The tasks with what is replayed among them, if they are a mixture and something may be."""
    return ReplayingTasks(tasks, replayed) if isinstance(tasks, MixtureTasks) and replayed is not None else tasks


def split_batch(shares: Mapping[str, float], step: int, size: int, *, seed: int) -> dict[str, tuple[int, int]]:
    """How many of `size` tasks each source gives at `step`, and the most that it gives at any step.

    Points (j + u) / size for j = 0..size-1 fall into intervals as wide as the shares; u moves from step to step by the
    golden ratio, which spreads the roundings evenly. `shares` sum to 1.
    """
    offset = (zlib.crc32(str(seed).encode()) / 2**32 + step * _GOLDEN) % 1.0
    counts: dict[str, tuple[int, int]] = {}
    end, before = 0.0, 0
    for n, (name, share) in enumerate(shares.items(), start=1):
        end += share
        upto = size if n == len(shares) else min(size, max(0, math.ceil(end * size - offset)))
        counts[name] = upto - before, max(upto - before, math.ceil(share * size - 1e-9))
        before = upto
    return counts


def _seed_of(seed: int, name: str) -> int:
    """Sources of one kind are not to be permuted alike."""
    return zlib.crc32(f"{seed}/{name}".encode())


def _renamed(name: str, task: Task) -> Task:
    return replace(task, id=in_part(name, task.id), kind=in_part(name, task.kind))

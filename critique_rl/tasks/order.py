"""Which tasks a step sees, and which are never trained on.

Owns: epoch permutations and the held-out split, both pure functions. Must not know: where tasks come from.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from critique_rl.errors import ConfigError, DataError
from critique_rl.types import Task


class Split(NamedTuple):
    """Two disjoint lists; tasks with equal messages are always on the same side."""

    train: tuple[Task, ...]
    held_out: tuple[Task, ...]


def epoch_batch(tasks: Sequence[Task], step: int, size: int, *, seed: int) -> list[Task]:
    """`size` different tasks for `step` (from 0): slice `step mod (N // size)` of the epoch's permutation.

    Each epoch of N // size steps has its own permutation, drawn from (seed, epoch); the N mod size tasks left over
    differ from epoch to epoch. Errors: ConfigError if there are fewer than `size` tasks.
    """
    if step < 0 or size < 1:
        raise ValueError(f"step must be >= 0 and size >= 1, got step={step} and size={size}")
    if size > len(tasks):
        raise ConfigError(
            f"a step wants {size} different tasks but there are {len(tasks)} to train on; "
            "lower rollout.prompts_per_step or add tasks"
        )
    epoch, index = divmod(step, len(tasks) // size)
    order = np.random.default_rng([seed, epoch]).permutation(len(tasks))
    return [tasks[int(i)] for i in order[index * size : (index + 1) * size]]


def split_by_prompt(tasks: Sequence[Task], fraction: float) -> Split:
    """Hold out round(fraction * distinct prompts), at least one if fraction > 0: those with the smallest hashes.

    The hash is of the messages alone, so the split does not depend on the order of the rows, and a prompt's side
    rarely changes when rows are added.
    """
    prompts = sorted({task.messages for task in tasks}, key=_hash)
    count = max(1, round(fraction * len(prompts))) if fraction > 0 else 0
    if count >= len(prompts):
        raise DataError(
            f"holding out {fraction:g} of {len(prompts)} different prompts leaves none to train on; "
            "add rows, lower held_out_fraction or use held_out_path"
        )
    chosen = set(prompts[:count])
    return Split(
        train=tuple(task for task in tasks if task.messages not in chosen),
        held_out=tuple(task for task in tasks if task.messages in chosen),
    )


def held_apart(rows: Sequence[Task], held_out: Sequence[Task], *, told: Callable[[Task, Task], str]) -> Split:
    """Rows of two files. Errors: DataError that begins with `told(held_out, row)` for a prompt that is in both."""
    known = {task.messages: task for task in rows}
    for task in held_out:
        if task.messages in known:
            raise DataError(f"{told(task, known[task.messages])}; remove it from one of the two files")
    return Split(tuple(rows), tuple(held_out))


def _hash(messages: object) -> str:
    return hashlib.sha256(repr(messages).encode("utf-8", "surrogatepass")).hexdigest()

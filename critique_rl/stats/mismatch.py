"""How far the sampler's log-probs are from the trainer's, over the tokens that were sampled.

Owns: the statistic and the reading of its limits. Must not know: engines, policies, what is done about an alarm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Mismatch(NamedTuple):
    """`mean` and `worst` are of |trainer - sampler| (nats/token); `bias` is the signed mean."""

    mean: float
    worst: float
    bias: float
    tokens: int


def logprob_mismatch(trainer: Sequence[ArrayLike], sampler: Sequence[ArrayLike]) -> Mismatch | None:
    """mean_t |l_trainer - l_sampler| over all tokens of all sequences, each counted once; None if there is no token.

    Both hold one sequence of log-probs [T] per completion. Raises ValueError if their shapes differ.
    """
    differences: list[np.ndarray[tuple[int, ...], np.dtype[np.float64]]] = []
    for i, (ours, theirs) in enumerate(zip(trainer, sampler, strict=True)):
        trainer_T, sampler_T = np.asarray(ours, dtype=np.float64), np.asarray(theirs, dtype=np.float64)
        if trainer_T.shape != sampler_T.shape:
            raise ValueError(
                f"completion {i}: {trainer_T.size} trainer log-probs and {sampler_T.size} of the sampler; "
                "wanted one per sampled token in both"
            )
        differences.append(trainer_T - sampler_T)
    if not sum(d.size for d in differences):
        return None
    difference_N = np.concatenate([d.ravel() for d in differences])
    size_N = np.abs(difference_N)
    return Mismatch(
        mean=float(size_N.mean()),
        worst=float(size_N.max()),
        bias=float(difference_N.mean()),
        tokens=difference_N.size,
    )


def judge_mismatch(mean: float, *, alarm: float, abort: float) -> Literal["ok", "alarm", "abort"]:
    """Which limit `mean` is above; one that is not finite is above both. Raises ValueError if alarm > abort."""
    if alarm > abort:
        raise ValueError(f"alarm = {alarm:g} lies above abort = {abort:g}; wanted alarm <= abort")
    if not math.isfinite(mean) or mean > abort:
        return "abort"
    return "alarm" if mean > alarm else "ok"

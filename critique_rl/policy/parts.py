"""A step's samples -> the parts of its loss whose gradients are wanted one by one.

Owns: which weights of a row belong to which part. Must not know: models, ranks, how gradients are joined.
The parts of a step add up to its whole loss: what a part leaves out has weight 0 there and is in another one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from critique_rl.errors import ConfigError
from critique_rl.policy.pg_channel import PgTokens
from critique_rl.policy.streams import active, carries_gradient
from critique_rl.types import TrainSample


class Penalties(NamedTuple):
    """Weights of what is added to the policy-gradient channel token by token."""

    kl: float = 0.0
    entropy: float = 0.0


NO_PENALTIES = Penalties()


class Part(NamedTuple):
    """Rows that carry a gradient in this part, and their places in the step."""

    rows: list[TrainSample]
    places: list[int]
    penalties: Penalties


class Sums(NamedTuple):
    """Losses and report figures over all micro-batches of all ranks."""

    loss: float
    pg: float
    distill: float
    imitate: float
    seen: PgTokens


def part_of(samples: Sequence[TrainSample], penalties: Penalties = NO_PENALTIES) -> Part:
    """What the samples' own weights say, without the rows that say nothing."""
    regularised = penalties.kl > 0 or penalties.entropy > 0
    places = [i for i, s in enumerate(samples) if carries_gradient(s, regularised=regularised)]
    return Part([samples[i] for i in places], places, penalties)


def evaluative_part(samples: Sequence[TrainSample], penalties: Penalties) -> Part:
    """The policy-gradient channel, penalties included."""
    return part_of([_of_channel(s, s.advantages) for s in samples], penalties)


def directive_part(samples: Sequence[TrainSample]) -> Part:
    """The channels that a directive feeds: distillation and imitation."""
    return part_of([replace(s, pg_weight=np.zeros_like(s.pg_weight), objective_advantages=None) for s in samples])


def penalty_part(samples: Sequence[TrainSample], penalties: Penalties) -> Part:
    """The penalties alone; no rows where there are none."""
    return part_of([_of_channel(s, np.zeros_like(s.advantages)) for s in samples], penalties)


def objective_parts(samples: Sequence[TrainSample]) -> list[Part]:
    """The policy-gradient channel once for each objective, with that objective's advantages and no penalties.

    Errors: ConfigError for a row of the channel without objectives, or with another number of them than the first.
    """
    counted = [None if s.objective_advantages is None else len(s.objective_advantages) for s in samples]
    on = [bool(active(s, s.pg_weight).any()) for s in samples]
    count = next((k for k in counted if k is not None), 0)
    for sample, k, counts in zip(samples, counted, on, strict=True):
        if counts and (k is None or k != count):
            came = "none" if k is None else f"those of {k} objectives"
            wanted = f"those of {count} objectives" if count else "those of each objective"
            raise ConfigError(
                f"objective_advantages of rollout {sample.rollout_id!r}: {came} came; a step that joins gradients "
                f"wants {wanted} on every rollout of the policy-gradient channel: take a method that stamps them, or "
                "leave the gradient combiner out"
            )

    def of(k: int) -> list[TrainSample]:
        none = [np.zeros_like(s.advantages) for s in samples]
        return [
            _of_channel(s, zero if s.objective_advantages is None else s.objective_advantages[k])
            for s, zero in zip(samples, none, strict=True)
        ]

    return [part_of(of(k)) for k in range(count)]


def _of_channel(sample: TrainSample, advantages: np.ndarray) -> TrainSample:
    return replace(
        sample,
        advantages=advantages,
        distill_weight=np.zeros_like(sample.distill_weight),
        imitate_weight=np.zeros_like(sample.imitate_weight),
        teacher=None,
        objective_advantages=None,
    )


SumPart = Callable[[Part], Sums]
"""Puts one part's gradient, from zero and over all ranks and micro-batches, into `.grad`."""

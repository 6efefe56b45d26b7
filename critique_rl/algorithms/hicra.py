"""A method whose planning tokens are learned from more when they were right, and less when they were wrong (HICRA).

    A'_t = A_t + alpha |A_t| on planning tokens, A_t elsewhere    (arXiv 2509.03646; a secondary note's factor
                                                                   1 + alpha |A_t| is another formula, and wrong)

Owns: that the base advantages stay beside the amplified ones, for whoever takes covariances. Must not know: what a plan
is. Signs never change and 0 stays 0; the batch's mean rises: it is logged. Deviations: 1. over any method, whose
advantages may be divided by a spread; 2. rollouts of this step only, no second attempts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, Protocol

import numpy as np

from critique_rl.algorithms.masked import figures_of
from critique_rl.protocols import Algorithm
from critique_rl.types import Array, Group, TrainSample


class Amplifier(Protocol):
    """Which tokens of a step are amplified, and how much."""

    @property
    def alpha(self) -> float: ...

    def mask(self, rollout_id: str) -> Array | None:
        """[T], 1 on a token to amplify; None for what is not of this step."""
        ...

    def note_means(self, base: float, amplified: float) -> None: ...


class Hicra:
    """`method` with some of its advantages amplified; its name and needs stay. With alpha 0 it changes nothing."""

    def __init__(self, method: Algorithm, amplifier: Amplifier) -> None:
        self.method = method
        self.amplifier = amplifier
        self.name = method.name
        self.needs: frozenset[Literal["critique", "refinement", "teacher"]] = method.needs

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """The method's samples; those of marked rollouts hold what their advantages were before."""
        samples = self.method.assemble(groups)
        if not self.amplifier.alpha:
            return samples
        moved = [self._moved(sample) for sample in samples]
        learned = [sample.pg_weight * sample.loss_mask > 0 for sample in samples]
        if any(of_sample.any() for of_sample in learned):
            means = (
                float(np.concatenate([s.advantages[on] for s, on in zip(column, learned, strict=True)]).mean())
                for column in (samples, moved)
            )
            self.amplifier.note_means(*means)
        return moved

    def figures(self) -> Mapping[str, float]:
        return figures_of(self.method)

    def _moved(self, sample: TrainSample) -> TrainSample:
        mask_T = self.amplifier.mask(sample.rollout_id)
        if mask_T is None:
            return sample
        base_T = sample.advantages
        return replace(sample, advantages=amplified(base_T, mask_T, self.amplifier.alpha), base_advantages=base_T)


def amplified(advantages_T: Array, mask_T: Array, alpha: float) -> Array:
    """A + alpha |A| where the mask is 1: positive ones times 1 + alpha, negative ones times 1 - alpha."""
    return advantages_T + alpha * np.abs(advantages_T) * mask_T

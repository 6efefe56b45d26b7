"""A method that learns from directives first and from rewards after, never from both in one step.

A step that has targets learns from them alone; one without is the method's. With `sequential_steps = N` this holds for
the run's first N applied steps, and later ones drop their targets. Distilling first and reinforcing after beat every
joint form in arXiv 2609.04108, and lost to the sum in OpenClaw-RL (arXiv 2603.10165). Known failure: while every step
has a stalled prompt, no other prompt's reward is learned from.

Deviations: 1. without N the phase is chosen step by step, as targets exist only where a prompt has stalled; 2. N counts
applied steps from the start of the run, not from the first directive; 3. refinements wait with the rewards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from critique_rl.algorithms.stamping import steps_taken, taught
from critique_rl.config.distillation import DistillationConfig
from critique_rl.protocols import Algorithm
from critique_rl.types import Group, TrainSample


class Sequential:
    """`method` with one channel a step; its name and needs stay."""

    def __init__(self, method: Algorithm, config: DistillationConfig) -> None:
        self.method = method
        self.steps = config.sequential_steps
        self.name = method.name
        self.needs: frozenset[Literal["critique", "refinement", "teacher"]] = method.needs

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]:
        """The method's samples, either with their distillation weights alone or without them."""
        samples = self.method.assemble(groups)
        if self.steps is not None and steps_taken(groups) >= self.steps:
            return [_untaught(sample) for sample in samples]
        if not any(taught(sample).any() for sample in samples):
            return samples
        return [_only_taught(sample) for sample in samples]


def _untaught(sample: TrainSample) -> TrainSample:
    return replace(sample, distill_weight=np.zeros_like(sample.distill_weight))


def _only_taught(sample: TrainSample) -> TrainSample:
    nothing = np.zeros(len(sample.completion_ids))
    return replace(sample, pg_weight=nothing, imitate_weight=nothing)

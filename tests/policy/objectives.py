"""A batch whose rollouts carry several objectives, and its parts for the dense reference.

Owns: what `test_separate_passes.py` and the ranks' tests train on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from critique_rl.policy.step import StepConfig
from critique_rl.types import TrainSample
from tests.policy.dense import dense_gradient
from tests.policy.test_step_reference import batch
from tests.tiny import tiny_model


def with_objectives(count: int, *, seed: int = 0) -> list[TrainSample]:
    """The mixed batch, each row of its policy-gradient channel with `count` objectives that sum to its advantages."""
    rng = np.random.default_rng(seed)
    rows: list[TrainSample] = []
    for row in batch():
        if not row.pg_weight.any():
            rows.append(row)
            continue
        parts = rng.normal(size=(count, 1)).repeat(len(row.completion_ids), axis=1)
        parts[-1] = row.advantages - parts[:-1].sum(0)
        rows.append(replace(row, objective_advantages=parts))
    return rows


def of_objective(samples: Sequence[TrainSample], k: int) -> list[TrainSample]:
    """The policy-gradient channel alone, with one objective's advantages."""
    return [
        replace(
            s,
            advantages=s.advantages if s.objective_advantages is None else s.objective_advantages[k],
            distill_weight=0 * s.distill_weight,
            imitate_weight=0 * s.imitate_weight,
        )
        for s in samples
    ]


def of_directives(samples: Sequence[TrainSample]) -> list[TrainSample]:
    return [replace(s, pg_weight=0 * s.pg_weight) for s in samples]


def dense_parts(samples: Sequence[TrainSample], config: StepConfig, count: int) -> tuple[Tensor, Tensor]:
    """The objectives' gradients [K, W] and the directive one [W] over all weights, by brute force."""
    objectives = [dense_gradient(tiny_model(), of_objective(samples, k), config) for k in range(count)]
    return torch.stack(objectives), dense_gradient(tiny_model(), of_directives(samples), config)

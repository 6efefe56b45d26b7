"""Several updates on one batch of rollouts: who is in which mini-batch, and one report of all of them.

Owns: that samples of one task stay together, so that what a critic said of one attempt moves the policy together with
the attempts it was compared with. Must not know: models, losses, ranks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np

from critique_rl.config.policy import OptimizerConfig
from critique_rl.ops.penalties import EntropyWeight
from critique_rl.protocols import Skipped, StepReport
from critique_rl.types import TrainSample

COUNTED = ("rows/trained", "tokens/distill", "tokens/imitate", "tokens/top_entropy", "tokens/dropped", "tokens/held")
"""Figures that add up over updates; the others are means."""


class OneUpdate(Protocol):
    """Learns from a mini-batch once."""

    @property
    def steps_taken(self) -> int: ...

    def entropy_weight(self, samples: Sequence[TrainSample]) -> EntropyWeight:
        """The entropy bonus that a whole batch asks for."""
        ...

    def __call__(self, samples: Sequence[TrainSample], *, bonus: EntropyWeight | None = None) -> StepReport: ...


def mini_batches(samples: Sequence[TrainSample], *, updates: int, epochs: int, seed: int) -> list[list[TrainSample]]:
    """`updates` mini-batches an epoch with as many tasks each as can be, dealt out anew in every epoch by `seed`.

    Samples keep their order inside one. Fewer tasks than `updates` make as many mini-batches as there are tasks.
    """
    tasks = list(dict.fromkeys(s.task_id for s in samples))
    batches: list[list[TrainSample]] = []
    for epoch in range(epochs):
        order = np.random.default_rng([seed, epoch]).permutation(len(tasks))
        for part in np.array_split(order, min(updates, len(tasks))) if tasks else ():
            chosen = {tasks[i] for i in part}
            batches.append([s for s in samples if s.task_id in chosen])
    return batches


def learn(step: OneUpdate, samples: Sequence[TrainSample], optimizer: OptimizerConfig) -> StepReport:
    """One update on the whole batch, or as many as `optimizer` asks for; behaviour log-probs stay what they were.

    The split depends on the updates taken so far and on nothing else, so that a resumed run repeats it. The weight of
    an entropy bonus is the whole batch's and moves once.
    """
    if not optimizer.several:
        return step(samples)
    parts = mini_batches(samples, updates=optimizer.updates_per_step, epochs=optimizer.epochs, seed=step.steps_taken)
    bonus = step.entropy_weight(samples)
    reports = [step(part, bonus=bonus) for part in parts]
    return joined_report(reports) if reports else step(samples)


def joined_report(reports: Sequence[StepReport]) -> StepReport:
    """One report of several updates: losses and gradient norms are means over those that were applied, token counts
    sums. Without any applied one, it is skipped for the reason of the first that was not finite, or else of the first.
    """
    applied = [r for r in reports if r.applied]
    broken = [r for r in reports if r.skipped is Skipped.NOT_FINITE]
    counts = {
        "updates/applied": float(len(applied)),
        "updates/not_finite": float(len(broken)),
    }
    if not applied:
        first = (broken or list(reports))[0]
        return first._replace(diagnostics={**first.diagnostics, **counts})
    return StepReport(
        loss=_mean([r.loss for r in applied]),
        pg_loss=_mean([r.pg_loss for r in applied]),
        distill_loss=_mean([r.distill_loss for r in applied]),
        imitate_loss=_mean([r.imitate_loss for r in applied]),
        grad_norm=_mean([r.grad_norm for r in applied]),
        trained_tokens=sum(r.trained_tokens for r in applied),
        applied=True,
        reason="",
        diagnostics={
            **_joined_figures([r.diagnostics for r in applied]),
            **counts,
            "updates/grad_norm_max": max(r.grad_norm for r in applied),
        },
    )


def _joined_figures(told: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = list(dict.fromkeys(name for figures in told for name in figures))
    values = {name: [figures[name] for figures in told if name in figures] for name in names}
    return {name: math.fsum(found) if name in COUNTED else _mean(found) for name, found in values.items()}


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)

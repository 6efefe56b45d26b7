"""Joined gradients and a measured conflict on every rank: `gradients.py OUT` takes three steps with each
way of joining and saves what the leading rank found."""

from __future__ import annotations

import faulthandler
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from accelerate import Accelerator

from critique_rl.ops.gradient_combiners import GradientCombiner
from critique_rl.policy.crew import Crew, join_crew
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.step import StepConfig
from critique_rl.types import TrainSample
from tests.policy.objectives import with_objectives
from tests.policy.test_step_reference import batch
from tests.tiny import step_config, tiny_model, tiny_tokenizer

METHODS: tuple[GradientCombiner | None, ...] = ("pcgrad", "mgda", "mgda_normalized", None)


def config_of(method: GradientCombiner | None) -> StepConfig:
    plain = step_config(
        loss={"kl_weight": 0.1, "normalizer": "tokens"},
        distillation={"divergence": "jsd"},
        optimizer={"micro_batch_tokens": 20, "weight_decay": 0.01},
    )
    return plain._replace(gradient_combiner=method, conflict_every=2)


def batches() -> list[list[TrainSample]]:
    """Both kinds of feedback; an objective and directives on one row alone, which one rank has; both again."""
    lone = [replace(row, distill_weight=0 * row.distill_weight) for row in with_objectives(2)[:5]]
    lone[0] = replace(lone[0], objective_advantages=lone[0].advantages * [[1.0], [-2.0]])
    for i in range(1, 5):
        objectives = lone[i].objective_advantages
        assert objectives is not None
        lone[i] = replace(lone[i], objective_advantages=objectives * [[1.0], [0.0]])
    return [with_objectives(3), lone, [*with_objectives(2), batch()[6]]]


def three_steps(policy: HFPolicy) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for samples in batches():
        report = policy.step(samples)
        assert report.applied
        found.append({"loss": report.loss, "grad_norm": report.grad_norm, **report.diagnostics})
    return found


def build(crew: Crew, method: GradientCombiner | None) -> HFPolicy:
    return HFPolicy(tiny_model(), tiny_tokenizer(), Accelerator(cpu=True), config_of(method), crew=crew)


def main(out: Path) -> None:
    faulthandler.dump_traceback_later(100, exit=True)
    crew = join_crew(cpu=True)
    made: list[HFPolicy] = []

    def build_here(method: GradientCombiner | None) -> None:
        made.clear()
        crew.forget(but="build")
        made.append(build(crew, method))

    everywhere = crew.duty("build", build_here)
    if not crew.leads:
        crew.follow()
        return
    try:
        seen: dict[str, object] = {}
        for method in METHODS:
            everywhere([method for _ in range(crew.size)])
            made[0].spread()
            seen[str(method)] = three_steps(made[0])
            made[0].save(out / str(method))
        torch.save(seen, out / "seen.pt")
    finally:
        crew.release()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

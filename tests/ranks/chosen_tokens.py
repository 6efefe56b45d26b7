"""Tokens that are chosen over a batch, several updates on it and a guard's knobs on every rank: `chosen_tokens.py OUT`
takes two steps with each of some options and saves what the leading rank found."""

from __future__ import annotations

import faulthandler
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from accelerate import Accelerator

from critique_rl.policy.crew import Crew, join_crew
from critique_rl.policy.hf import HFPolicy
from critique_rl.types import Knobs, TrainSample
from tests.policy.test_pg_channel import batch
from tests.tiny import step_config, tiny_model, tiny_tokenizer

OPTIONS: Mapping[str, Mapping[str, object]] = {
    "clip_cov": {"clip_cov_share": 0.3, "clip_cov_band": (-9.0, 9.0), "normalizer": "tokens"},
    "kl_cov": {"kl_cov_share": 0.2, "kl_cov_weight": 2.0},
    "top_entropy": {"top_entropy_share": 0.3, "normalizer": "sequences"},
}


def samples() -> list[TrainSample]:
    return [replace(s, task_id=str(i % 3)) for i, s in enumerate(batch(0))]


def build(crew: Crew, options: Mapping[str, object]) -> HFPolicy:
    config = step_config(
        loss=options, distillation={"teacher": "live"}, optimizer={"micro_batch_tokens": 20, "updates_per_step": 2}
    )
    return HFPolicy(tiny_model(1), tiny_tokenizer(), Accelerator(cpu=True), config, crew=crew)


def two_steps(policy: HFPolicy) -> list[dict[str, object]]:
    found: list[dict[str, object]] = []
    for knobs in (Knobs(), Knobs(temperature=0.3, learning_rate=0.5, entropy_weight=0.1)):
        policy.set_knobs(knobs)
        report = policy.step(samples())
        assert report.applied
        logprobs = policy.logprobs([(4, 5)], [(6, 7, 8)])[0].sum()
        found.append({"loss": report.loss, "grad_norm": report.grad_norm, "scored": logprobs, **report.diagnostics})
    return found


def main(out: Path) -> None:
    faulthandler.dump_traceback_later(100, exit=True)
    crew = join_crew(cpu=True)
    made: list[HFPolicy] = []

    def build_here(name: str) -> None:
        made.clear()
        crew.forget(but="build")
        made.append(build(crew, OPTIONS[name]))

    everywhere = crew.duty("build", build_here)
    if not crew.leads:
        crew.follow()
        return
    try:
        seen: dict[str, object] = {}
        for name in OPTIONS:
            everywhere([name] * crew.size)
            made[0].spread()
            seen[name] = two_steps(made[0])
        torch.save(seen, out / "seen.pt")
    finally:
        crew.release()


if __name__ == "__main__":
    main(Path(sys.argv[1]))

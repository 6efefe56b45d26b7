"""A policy with adapters on every rank: `adapters.py DIRECTORY TEACHER` takes two steps and saves what it found."""

from __future__ import annotations

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from accelerate import Accelerator

from critique_rl.config.policy import LoraConfig
from critique_rl.policy.adapters import add_adapters
from critique_rl.policy.crew import join_crew
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.recompute import recompute_layers
from tests.tiny import sample, step_config, tiny_model, tiny_tokenizer

PROMPT, COMPLETION, CONTEXT = (4, 5, 6), (7, 8, 9), (20, 21, 4, 5, 6)
PROMPTS = [PROMPT, (7,), (8, 9, 10, 11), PROMPT]
COMPLETIONS = [COMPLETION, (8, 2), (9, 10, 11, 12), (5, 2)]


def two_steps(policy: HFPolicy) -> dict[str, object]:
    """Two steps on all channels, and what the teacher says after each."""
    losses: list[float] = []
    taught: list[object] = []
    for _ in range(2):
        targets = policy.topk_logprobs([CONTEXT] * 4, COMPLETIONS, k=5, who="teacher")
        taught.append([target.logprobs_TK.tolist() for target in targets])
        advantages = (0.5, -0.5, 0.25, -0.25)
        rows = [
            sample(p, c, advantage=a, pg=1.0, distill=1.0, teacher=t)
            for p, c, a, t in zip(PROMPTS, COMPLETIONS, advantages, targets, strict=True)
        ]
        report = policy.step(rows)
        assert report.applied
        losses += [report.loss, report.grad_norm, report.diagnostics["policy/kl"]]
    return {"losses": losses, "taught": taught}


def main(directory: Path, teacher: str) -> None:
    crew = join_crew(cpu=True)
    model = tiny_model()
    add_adapters(model, LoraConfig(rank=2))
    recompute_layers(model)
    config = step_config(loss={"kl_weight": 0.1}, distillation={"teacher": teacher})
    policy = HFPolicy(model, tiny_tokenizer(), Accelerator(cpu=True), config, crew=crew)  # pyright: ignore[reportArgumentType]
    if not crew.leads:
        crew.follow()
        return
    policy.spread()
    found = two_steps(policy)
    policy.save(directory)
    (directory / "found.json").write_text(json.dumps(found))
    crew.release()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

"""What the leading rank of a pair does to a tiny policy; everything it sees is written to OUT for the tests to judge.

python -m tests.ranks.scenario OUT    with the environment of a rank
"""

from __future__ import annotations

import faulthandler
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch.distributed.tensor import DTensor

from critique_rl.engines.crewed import CrewEngine
from critique_rl.errors import ConfigError, CritiqueRLError
from critique_rl.policy.crew import Crew, join_crew
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.step import StepConfig
from critique_rl.types import TrainSample
from tests.policy.test_step_reference import batch
from tests.tiny import sample, step_config, tiny_engine, tiny_model, tiny_tokenizer

CONFIG = step_config(
    loss={"kl_weight": 0.1, "normalizer": "tokens"},
    refinement={"ratio_mode": "oc_is"},
    distillation={"teacher": "ema", "ema_rate": 0.5, "divergence": "jsd"},
    optimizer={"micro_batch_tokens": 20, "warmup_steps": 3, "weight_decay": 0.01},
)
PROMPTS = [(4, 5), (6,), (7, 8, 9), (10, 11), (12,)]


def straddling() -> list[TrainSample]:
    """One prompt's group whose rows cannot all go to one rank; one directive among them."""
    taught = batch()[1]
    rows = [sample((4, 5, 6), (7 + i, 8, 9), advantage=[1.0, -1.0, 0.5][i % 3], pg=1.0) for i in range(6)]
    return [*rows, replace(taught, pg_weight=0 * taught.pg_weight)]


def batches() -> dict[str, list[TrainSample]]:
    plain = [row for row in batch() if row.teacher is None and not row.imitate_weight.any()]
    return {
        "mixed": batch(),
        "straddling group": straddling(),
        "no directive anywhere": plain,
        "a rank without any row": batch()[:1],
        "directives alone": [replace(row, pg_weight=0 * row.pg_weight) for row in batch()[1:3]],
    }


def unusable() -> list[TrainSample]:
    """A row whose loss is infinite: only one of the ranks has it."""
    first, *others = batch()
    return [replace(first, advantages=np.full(len(first.completion_ids), np.inf)), *others]


def ranked_policy(crew: Crew, config: StepConfig = CONFIG) -> HFPolicy:
    return HFPolicy(tiny_model(), tiny_tokenizer(), Accelerator(cpu=True), config, crew=crew)


def referenced(policy: HFPolicy, samples: Sequence[TrainSample]) -> Sequence[TrainSample]:
    return policy._with_reference(samples)  # pyright: ignore[reportPrivateUsage]


class Rank:
    """The policy of one rank, and duties that look into every rank."""

    def __init__(self, crew: Crew) -> None:
        self.policy = ranked_policy(crew)
        engine = tiny_engine(self.policy, batch_size=2)

        def with_whole_weights() -> None:
            engine.model = self.policy.ranked.whole_model()

        self.engine = CrewEngine(engine, crew, batch_size=2, before=with_whole_weights)
        self.gradients = crew.duty("gradients", self._gradient)
        self.fail = crew.duty("fail", self._fail)
        self.count = crew.duty("count", self._count)

    def _gradient(self, _: None) -> torch.Tensor:
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.policy.model.parameters()]
        whole = [part.full_tensor() if isinstance(part, DTensor) else part for part in parts]
        self.policy.model.zero_grad(set_to_none=True)
        return torch.cat([part.detach().flatten() for part in whole])

    def _fail(self, kind: str) -> None:
        if kind == "config":
            raise ConfigError("loss.kl_weight came as -1; wanted 0 or more")
        if kind == "other":
            raise ZeroDivisionError("by nothing")
        if kind == "shared":
            with self.policy.ranked.crew.together():
                raise ZeroDivisionError("in the middle of it")

    def _count(self, numbers: list[int]) -> int:
        return sum(numbers)


def told(call: object, shares: list[str]) -> tuple[str, str]:
    try:
        call(shares)  # pyright: ignore[reportCallIssue]
    except CritiqueRLError as error:
        return type(error).__name__, str(error)
    return "", ""


def lead(rank: Rank, crew: Crew, out: Path) -> dict[str, object]:
    policy = rank.policy
    policy.spread()
    seen: dict[str, object] = {}
    for name, samples in batches().items():
        # Ranks sample and score different numbers of tokens in between.
        completions = rank.engine.generate(PROMPTS, max_tokens=6, temperature=1.0, seed=3)
        seen["completions"] = [(c.completion_ids, c.behaviour_logprobs) for c in completions]
        report = policy.train_step.accumulate(referenced(policy, samples))
        gradients = rank.gradients([None] * crew.size)
        assert all(torch.equal(gradient, gradients[0]) for gradient in gradients)
        seen[f"gradient/{name}"] = gradients[0]
        seen[f"report/{name}"] = None if report is None else report._asdict()
    seen["nothing"] = policy.step([sample((4,), (5,), advantage=0.0)]).reason
    seen["failures"] = [told(rank.fail, ["", kind][: crew.size]) for kind in ("config", "other", "")]
    time.sleep(0.5)  # a slow critic
    told_in: list[int] = []
    rank.engine.generate(PROMPTS, max_tokens=4, temperature=1.0, seed=4, on_done=lambda i, _: told_in.append(i))
    seen["told in"] = told_in
    reports = [policy.step(batches()["mixed"]), policy.step(unusable()), policy.step(batches()["straddling group"])]
    seen["steps"] = [report._asdict() for report in reports]
    (out / "saved").mkdir()
    policy.save(out / "saved")
    mixed = batch()
    contexts, completions = [row.prompt_ids for row in mixed], [row.completion_ids for row in mixed]
    seen["logprobs"] = policy.logprobs(contexts, completions)
    found = policy.topk_logprobs(contexts, completions, k=4, who="teacher")
    again = policy.topk_logprobs(contexts, completions, k=4, who="policy", support=found)
    seen["topk"] = [(t.ids_TK, t.logprobs_TK, p.logprobs_TK) for t, p in zip(found, again, strict=True)]
    policy.step(mixed)
    policy.restore(out / "saved")
    seen["after restoring"] = policy.step(mixed)._asdict()
    (out / "resumed").mkdir()
    policy.save(out / "resumed")
    if (out / "alone").exists():
        policy.restore(out / "alone")
        seen["after one process"] = policy.step(mixed)._asdict()
    seen["interrupted"] = interrupt(rank) if crew.size > 1 else None
    return seen


def interrupt(rank: Rank) -> tuple[bool, list[int]]:
    """A Ctrl-C in the leader's own share is felt there; the crew is in step again afterwards."""
    leader_s, real = rank.count, rank._count  # pyright: ignore[reportPrivateUsage]
    crew = rank.policy.ranked.crew

    def pressed(numbers: list[int]) -> int:
        signal.raise_signal(signal.SIGINT)
        return real(numbers)

    try:
        crew.duty("count", pressed)([[1], [2]])
    except KeyboardInterrupt:
        return True, leader_s([[1, 2], [3]])
    return False, []


def main() -> None:
    faulthandler.dump_traceback_later(100, exit=True)  # a hang says where
    out = Path(sys.argv[1])
    crew = join_crew(cpu=True)
    rank = Rank(crew)
    if not crew.leads:
        crew.follow()
        return
    try:
        if "--shared-failure" in sys.argv:
            rank.policy.spread()
            rank.fail(["shared" if "--leader" in sys.argv else "", "shared"])
        torch.save(lead(rank, crew, out), out / "seen.pt")
    finally:
        crew.release()


if __name__ == "__main__":
    main()

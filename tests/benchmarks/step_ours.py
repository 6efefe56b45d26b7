"""Our side of `tests.benchmarks.step`: `HFPolicy` built as a run builds it, one `step` on fixed samples.

A step is timed from rollouts and advantages to changed weights: with directives it includes the live teacher's forward
pass over the rows that have one (`topk_logprobs`), the samples' records, forward, backward, clipping and AdamW.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version

import numpy as np
import torch
import transformers
from accelerate import Accelerator

from critique_rl.config.algorithm import DistillationConfig, RefinementConfig
from critique_rl.config.loss import LossConfig
from critique_rl.config.policy import OptimizerConfig
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.step import StepConfig
from critique_rl.types import TeacherTargets, TrainSample
from tests.benchmarks.step_batch import (
    LEARNING_RATE,
    TOP_K,
    Job,
    Measured,
    Rollout,
    measure_steps,
    model_of,
    rollouts,
    serve,
    start_logprob,
    tokenizer_of,
)

VARIANTS: Mapping[str, Mapping[str, object]] = {
    "default": {},
    "small_micro_batch": {"micro_batch_tokens": 1024},
    "lean": {"micro_batch_tokens": 1},
    "packed": {"layout": "packed"},
}
"""Options of `[optimizer]` by variant; `lean` takes one row a micro-batch, as TRL's variant of that name does."""


def policy_of(job: Job, optimizer: Mapping[str, object]) -> HFPolicy:
    """The policy of a job, with the losses that TRL's trainers are given too: GRPO divided by active tokens, and
    forward KL on a support of `TOP_K` ids and a tail."""
    config = StepConfig(
        loss=LossConfig(normalizer="tokens"),
        refinement=RefinementConfig(),
        distillation=DistillationConfig(teacher="live", k=TOP_K, divergence="forward"),
        optimizer=OptimizerConfig.model_validate({"learning_rate": LEARNING_RATE, **optimizer}),
        temperature=1.0,
        max_completion_tokens=job.completion,
    )
    accelerator = Accelerator(cpu=job.device == "cpu", mixed_precision="no" if job.device == "cpu" else "bf16")
    return HFPolicy(model_of(job), tokenizer_of(), accelerator, config)


def sample_of(rollout: Rollout, behaviour: float, teacher: TeacherTargets | None) -> TrainSample:
    length = len(rollout.completion)
    ones = np.ones(length)
    return TrainSample(
        rollout_id="r",
        task_id="t",
        prompt_ids=tuple(rollout.prompt),
        completion_ids=tuple(rollout.completion),
        loss_mask=ones,
        behaviour_logprobs=behaviour * ones,
        advantages=rollout.advantage * ones,
        pg_weight=ones,
        distill_weight=ones if teacher is not None else 0 * ones,
        imitate_weight=0 * ones,
        teacher=teacher,
    )


def samples_of(policy: HFPolicy, job: Job, rows: list[Rollout]) -> list[TrainSample]:
    """Train samples; the teacher reads the rows with a directive only."""
    directed = rows[: job.directed]
    targets: list[TeacherTargets | None] = [None] * len(rows)
    if directed:
        targets[: job.directed] = policy.topk_logprobs(
            [tuple(r.context) for r in directed], [tuple(r.completion) for r in directed], k=TOP_K, who="teacher"
        )
    return [sample_of(r, start_logprob(job), t) for r, t in zip(rows, targets, strict=True)]


def measure(job: Job) -> Measured:
    rows, policy = rollouts(job), policy_of(job, VARIANTS[job.variant])

    def step(count: int) -> float:
        report = policy.step(samples_of(policy, job, rows[:count]))
        assert report.applied, report.reason
        return report.grad_norm

    return measure_steps(job, step)


if __name__ == "__main__":
    about = {name: version(name) for name in ("critique-rl", "torch", "transformers", "accelerate")}
    assert transformers.Qwen3ForCausalLM and torch.nn
    serve(measure, about)

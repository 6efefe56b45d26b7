"""The peers' side of `tests.benchmarks.step`, run by a Python that has TRL; critique_rl is not imported here.

A step is `compute_loss` of TRL's own trainer on a prepared batch, backward, clipping and AdamW: what
`Trainer.training_step` and the loop round it do, without sampling, scoring, dispatch or logging. TRL pads a whole
generation batch at once (prompts left, completions right) and cuts it afterwards, so rows of a smaller micro-batch keep
the width of the longest. `default` is what the trainers' configs give beside fp32 (gradient checkpointing is on, one
micro-batch), `fast` turns checkpointing off, `lean` keeps it and takes one row a micro-batch with accumulation.
Liger's layers are Triton kernels and do not run on a CPU; the fused, chunked LM head of `GRPOTrainer` is always on.
"""

from __future__ import annotations

import tempfile
import warnings
from importlib.metadata import version

import torch
import transformers
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer
from trl.experimental.sdpo import SDPOConfig, SDPOTrainer

from tests.benchmarks.step_batch import (
    LEARNING_RATE,
    TOP_K,
    Job,
    Measured,
    Rollout,
    measure_steps,
    model_of,
    padded,
    rollouts,
    serve,
    start_logprob,
    tokenizer_of,
)

Batch = dict[str, torch.Tensor]


def options(job: Job, folder: str) -> dict[str, object]:
    """What both trainers are given: our losses and our optimiser, in float32 on the CPU and in bf16 on CUDA."""
    micro_batches = job.rows if job.variant == "lean" else 1
    return {
        "output_dir": folder,
        "use_cpu": job.device == "cpu",
        "bf16": job.device == "cuda",
        "per_device_train_batch_size": job.rows // micro_batches,
        "gradient_accumulation_steps": micro_batches,
        "num_generations": job.rows,
        "max_completion_length": max(len(r.completion) for r in rollouts(job)),
        "learning_rate": LEARNING_RATE,
        "weight_decay": 0.0,
        "loss_type": "dapo",
        "temperature": 1.0,
        "report_to": [],
        "optim": "adamw_torch",
        **({"gradient_checkpointing": False} if job.variant == "fast" else {}),
    }


def trainer_of(job: Job, folder: str) -> GRPOTrainer | SDPOTrainer:
    """The trainer on the job's model. SDPO gets what is nearest to our two channels: half policy gradient, half
    forward KL on the top ids and a tail, and a teacher that shares the policy's weights (its default, a moving
    average, would hold a second copy)."""
    data = Dataset.from_list([{"prompt": "a"}] * job.rows)
    given = options(job, folder)
    shared = {"train_dataset": data, "processing_class": tokenizer_of(), "reward_funcs": lambda **_: [0.0] * job.rows}
    if job.side == "grpo":
        return GRPOTrainer(model_of(job), args=GRPOConfig(**given), **shared)
    config = SDPOConfig(
        **given,
        distillation_weight=0.5,
        distillation_alpha=0.0,
        distillation_mode="topk_logits",
        distillation_topk=TOP_K,
        distillation_add_tail=True,
        teacher_model_kind="live",
        include_environment_feedback=True,
    )
    return SDPOTrainer(model_of(job), args=config, **shared)


def batch_of(job: Job, rows: list[Rollout]) -> Batch:
    """The batch as the trainer's own preparation leaves it. A row without a directive has its plain prompt as the
    teacher's, and is masked; the teacher reads it all the same."""
    prompt_ids, prompt_mask = padded([r.prompt for r in rows], left=True, device=job.device)
    completion_ids, completion_mask = padded([r.completion for r in rows], left=False, device=job.device)
    batch = {
        "prompt_ids": prompt_ids,
        "prompt_mask": prompt_mask,
        "completion_ids": completion_ids,
        "completion_mask": completion_mask,
        "advantages": torch.tensor([r.advantage for r in rows], device=job.device),
    }
    if job.side == "grpo":
        known = torch.full(completion_ids.shape, start_logprob(job), device=job.device)
        return batch | {"old_per_token_logps": known, "num_items_in_batch": completion_mask.sum()}
    contexts = [r.context if i < job.directed else r.prompt for i, r in enumerate(rows)]
    context_ids, context_mask = padded(contexts, left=True, device=job.device)
    return batch | {
        "teacher_input_ids": torch.cat([context_ids, completion_ids], dim=1),
        "teacher_attention_mask": torch.cat([context_mask, completion_mask], dim=1),
        "self_distillation_mask": (torch.arange(len(rows), device=job.device) < job.directed).float(),
    }


def micro_batches(batch: Batch, count: int) -> list[Batch]:
    parts = {key: value.chunk(count) if value.dim() else [value] * count for key, value in batch.items()}
    return [{key: part[i] for key, part in parts.items()} for i in range(count)]


def measure(job: Job) -> Measured:
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(job, folder)
        args, model = trainer.args, trainer.model
        model.train()
        if args.gradient_checkpointing:
            model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=args.gradient_checkpointing_kwargs)
        optimizer = trainer.create_optimizer()
        trainer.current_gradient_accumulation_steps = args.gradient_accumulation_steps
        rows = rollouts(job)

        def step(count: int) -> float:
            batch = batch_of(job, rows[:count])
            for part in micro_batches(batch, count if job.variant == "lean" else 1):
                with trainer.accelerator.autocast():
                    loss = trainer.compute_loss(model, part)
                trainer.accelerator.backward(loss)
            norm = trainer.accelerator.clip_grad_norm_(model.parameters(), args.max_grad_norm)
            optimizer.step()
            model.zero_grad()
            return float(norm)

        return measure_steps(job, step)


if __name__ == "__main__":
    assert transformers.Qwen3ForCausalLM
    serve(measure, {name: version(name) for name in ("trl", "torch", "transformers", "accelerate")})

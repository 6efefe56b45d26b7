"""Ours alone on a GPU: tokens/s, MFU, peak memory and the largest micro-batch, for Qwen3 shapes with random weights.

Master weights are float32, compute is bf16 under autocast, as in a run. MFU is matmul FLOPs (attention scores included,
recomputation not) over time, divided by what a large matmul reaches on the same device just before. The largest
micro-batch is found by doubling until memory runs out; on a CPU the doubling stops early.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.metadata import version
from typing import NamedTuple

import torch

from critique_rl.policy.head import ResponseHead
from critique_rl.policy.hf import HFPolicy
from tests.benchmarks.results import Row
from tests.benchmarks.step_batch import SHAPES, Job, lengths, peak_bytes, rollouts, synchronise
from tests.benchmarks.step_ours import policy_of, samples_of

GIB = 1024**3
REPEATS = 3
DEFAULT_MICRO_BATCH = 16_384


class Scale(NamedTuple):
    """Shapes with a base job, the side of the measured matmul, and where the doubling of a micro-batch stops."""

    jobs: tuple[Job, ...]
    matmul_side: int
    most_tokens: int


def scale_of(device: str, *, quick: bool) -> Scale:
    """Prompts of 512, directives of 256 and completions of 512 on average (skewed, longest about 1,700) on CUDA; a tiny
    shape on the CPU, where only the script itself is tried."""
    if device == "cpu":
        job = Job(side="ours", shape="tiny", vocabulary=512, rows=8, prompt=8, directive=8, completion=16, skewed=True)
        return Scale((job,), 256, 1024)
    base = Job(
        side="ours",
        shape="qwen3-0.6b",
        vocabulary=151_936,
        rows=16 if quick else 64,
        prompt=512,
        directive=256,
        completion=512,
        skewed=True,
        device=device,
    )
    return Scale((base,) if quick else (base, replace(base, shape="qwen3-1.7b")), 8192, 1 << 20)


class DenseHead(ResponseHead):
    """The reference: whole logits of a micro-batch."""

    @property
    def fused(self) -> bool:
        return False


VARIANTS: Mapping[str, type[ResponseHead]] = {"dense": DenseHead, "chunked": ResponseHead}


@contextlib.contextmanager
def variant_of(job: Job, variant: str, micro_batch_tokens: int) -> Iterator[HFPolicy]:
    """A policy with the variant's head, gone again afterwards."""
    policy = policy_of(job, {"micro_batch_tokens": micro_batch_tokens})
    policy.train_step.head = VARIANTS[variant](policy.model)
    try:
        yield policy
    finally:
        del policy
        gc.collect()
        if job.device == "cuda":
            torch.cuda.empty_cache()


def matmul_peak(device: str, side: int) -> float:
    """FLOP/s of a square matmul in the compute type."""
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = 0.0
    for _ in range(10):
        synchronise(device)
        started = time.perf_counter()
        a @ b
        synchronise(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best


def row_flops(job: Job, completion: int, *, context: int, trained: bool) -> float:
    """Matmul FLOPs of one row: 2 a weight and token forward, three times that with backward; the head over response
    positions; causal attention scores and values 2 * 2 * heads * size * T^2 / 2 a layer."""
    hidden, inner, layers, heads, kv_heads, head_size = SHAPES[job.shape]
    body = layers * (hidden * head_size * (2 * heads + 2 * kv_heads) + 3 * hidden * inner)
    tokens = context + completion
    attention = layers * 2 * heads * head_size * tokens**2
    forward = 2 * body * tokens + 2 * job.vocabulary * hidden * completion + attention
    return (3 if trained else 1) * forward


def step_flops(job: Job) -> float:
    """Matmul FLOPs of a whole step, over real tokens only: padding is waste and counts as nothing."""
    total = 0.0
    for i, completion in enumerate(lengths(job.rows, job.completion, skewed=job.skewed)):
        total += row_flops(job, completion, context=job.prompt, trained=True)
        if i < job.directed:
            total += row_flops(job, completion, context=job.prompt + job.directive, trained=False)
    return total


def step_rows(job: Job, variant: str, name: str, peak_flops: float) -> list[Row]:
    """Time, tokens/s, MFU and peak memory of one variant at one share."""
    data = rollouts(job)
    with variant_of(job, variant, DEFAULT_MICRO_BATCH) as policy:
        policy.step(samples_of(policy, job, data))
        if job.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds: list[float] = []
        for _ in range(REPEATS):
            synchronise(job.device)
            started = time.perf_counter()
            policy.step(samples_of(policy, job, data))
            synchronise(job.device)
            seconds.append(time.perf_counter() - started)
    median = sorted(seconds)[len(seconds) // 2]
    tokens = job.rows * (job.prompt + job.completion)
    mfu = step_flops(job) / median / peak_flops
    return [
        Row(f"rate/{name}", round(tokens / median, 1), "prompt and response tokens/s"),
        Row(f"mfu/{name}", round(mfu, 4), "MFU, of the measured matmul"),
        Row(f"peak/{name}", round(peak_bytes(job.device) / GIB, 3), "GiB at the peak"),
    ]


def largest_micro_batch(job: Job, variant: str, most_tokens: int) -> int:
    """Padded tokens of the largest single forward and backward pass that fits, by doubling."""
    width, fits = job.prompt + job.completion, 0
    rows = 1
    while rows * width <= most_tokens:
        tried = replace(job, rows=rows, skewed=False, share=0.0)
        try:
            with variant_of(tried, variant, rows * width) as policy:
                policy.train_step.accumulate(samples_of(policy, tried, rollouts(tried)))
        except torch.OutOfMemoryError:
            break
        fits, rows = rows * width, rows * 2
    return fits


def throughput(device: str, *, quick: bool, seed: int) -> tuple[list[Row], dict[str, str]]:
    """Every figure of the suite, and the versions that made it."""
    scale = scale_of(device, quick=quick)
    peak_flops = matmul_peak(device, scale.matmul_side)
    rows = [Row("matmul_peak", round(peak_flops / 1e12, 3), "TFLOP/s")]
    for base in (replace(job, seed=seed) for job in scale.jobs):
        for variant in VARIANTS:
            for share in (0.0, 0.25, 1.0):
                job, name = replace(base, share=share), f"{base.shape}_{variant}_share_{share:g}"
                try:
                    rows += step_rows(job, variant, name, peak_flops)
                except torch.OutOfMemoryError:
                    rows.append(Row(f"out_of_memory/{name}", DEFAULT_MICRO_BATCH, "tokens in a micro-batch: too many"))
            most = largest_micro_batch(base, variant, scale.most_tokens)
            rows.append(Row(f"largest_micro_batch/{base.shape}_{variant}", most, "padded tokens in a micro-batch"))
    versions = {name: version(name) for name in ("critique-rl", "torch", "transformers", "accelerate")}
    return rows, versions

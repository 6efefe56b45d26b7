"""Ours alone on a GPU: tokens/s, MFU, peak memory and the largest micro-batch, for Qwen3 shapes with random weights.

Master weights are float32, compute is bf16 under autocast, as in a run. Eight rollouts share a prompt in all variants;
"prefix" alone makes something of it. MFU is the matmul FLOPs that a variant needs (attention scores included, padding
and recomputation not, a shared prompt once) over time, over what a large matmul reaches on the device just before.
The largest micro-batch is found by doubling until memory runs out; on a CPU the doubling stops early.
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

from critique_rl.policy.batching import Layout
from critique_rl.policy.head import ResponseHead
from critique_rl.policy.hf import HFPolicy
from tests.benchmarks.results import Row
from tests.benchmarks.step_batch import SHAPES, Job, Rollout, lengths, peak_bytes, rollouts, synchronise
from tests.benchmarks.step_ours import policy_of, samples_of

GIB = 1024**3
REPEATS = 3
GROUP = 8
"""Rollouts of one prompt."""
MICRO_BATCHES = (16_384, 8192, 4096)
"""Tokens in a micro-batch: the first that fits into memory."""
MFU_TARGET = 0.35


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


class Variant(NamedTuple):
    """How sequences lie in a micro-batch, and how their logits are read."""

    layout: Layout
    head: type[ResponseHead] = ResponseHead


VARIANTS: Mapping[str, Variant] = {
    "dense": Variant("padded", DenseHead),
    "chunked": Variant("padded"),
    "packed": Variant("packed"),
    "prefix": Variant("prefix"),
}


@contextlib.contextmanager
def variant_of(job: Job, variant: str, micro_batch_tokens: int) -> Iterator[HFPolicy]:
    """A policy with the variant's layout and head, gone again afterwards. Errors: RuntimeError if it fell back."""
    wanted = VARIANTS[variant]
    policy = policy_of(job, {"micro_batch_tokens": micro_batch_tokens, "layout": wanted.layout})
    head = policy.train_step.head
    if head.layout != wanted.layout:
        raise RuntimeError(f"variant {variant!r} came out in the layout {head.layout!r}: see the warning above")
    head.__class__ = wanted.head
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


def grouped(job: Job) -> list[Rollout]:
    """The job's rollouts, each eight with the prompt of the first of them; directives stay each row's own."""
    rows = rollouts(job)
    firsts = [rows[i - i % GROUP].prompt for i in range(len(rows))]
    return [
        row._replace(prompt=first, context=first + row.context[len(row.prompt) :])
        for row, first in zip(rows, firsts, strict=True)
    ]


def row_flops(job: Job, completion: int, *, context: int, trained: bool, given: bool = False) -> float:
    """Matmul FLOPs of one row: 2 a weight and token forward, three times that with backward; the head over response
    positions; causal attention scores and values 2 * 2 * heads * size * T^2 / 2 a layer. `given`: less what its context
    alone takes, which another row has computed."""
    hidden, inner, layers, heads, kv_heads, head_size = SHAPES[job.shape]
    body = layers * (hidden * head_size * (2 * heads + 2 * kv_heads) + 3 * hidden * inner)
    tokens, known = context + completion, context if given else 0
    attention = layers * 2 * heads * head_size * (tokens**2 - known**2)
    forward = 2 * body * (tokens - known) + 2 * job.vocabulary * hidden * completion + attention
    return (3 if trained else 1) * forward


def step_flops(job: Job, variant: str) -> float:
    """Matmul FLOPs of a whole step, over real tokens only: padding is waste and counts as nothing."""
    shares = VARIANTS[variant].layout == "prefix"
    total = 0.0
    for i, completion in enumerate(lengths(job.rows, job.completion, skewed=job.skewed)):
        total += row_flops(job, completion, context=job.prompt, trained=True, given=shares and i % GROUP > 0)
        if i < job.directed:
            total += row_flops(job, completion, context=job.prompt + job.directive, trained=False)
    return total


def fitting_rows(job: Job, variant: str, peak_flops: float) -> list[Row]:
    """The rows of one variant at one share, with the largest of `MICRO_BATCHES` that memory allows."""
    name = f"{job.shape}_{variant}_share_{job.share:g}"
    for most in MICRO_BATCHES:
        try:
            measured = step_rows(job, variant, name, peak_flops, micro_batch_tokens=most)
        except torch.OutOfMemoryError:
            continue
        return [*measured, Row(f"micro_batch/{name}", most, "tokens in a micro-batch, at most")]
    return [Row(f"out_of_memory/{name}", MICRO_BATCHES[-1], "tokens in a micro-batch: too many")]


def step_rows(job: Job, variant: str, name: str, peak_flops: float, *, micro_batch_tokens: int) -> list[Row]:
    """Time, tokens/s, MFU and peak memory of one variant at one share."""
    data = grouped(job)
    with variant_of(job, variant, micro_batch_tokens) as policy:
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
    mfu = round(step_flops(job, variant) / median / peak_flops, 4)
    promised = job.device == "cuda" and name == "qwen3-1.7b_packed_share_0"
    held = (f">= {MFU_TARGET}", mfu >= MFU_TARGET) if promised else (None, None)
    return [
        Row(f"rate/{name}", round(tokens / median, 1), "prompt and response tokens/s"),
        Row(f"mfu/{name}", mfu, "MFU, of the measured matmul", *held),
        Row(f"peak/{name}", round(peak_bytes(job.device) / GIB, 3), "GiB at the peak"),
    ]


def largest_micro_batch(job: Job, variant: str, most_tokens: int) -> int:
    """Prompt and response tokens of the largest single forward and backward pass that fits, by doubling."""
    width, fits = job.prompt + job.completion, 0
    rows = 1
    while rows * width <= most_tokens:
        tried = replace(job, rows=rows, skewed=False, share=0.0)
        try:
            with variant_of(tried, variant, rows * width) as policy:
                policy.train_step.accumulate(samples_of(policy, tried, grouped(tried)))
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
                rows += fitting_rows(replace(base, share=share), variant, peak_flops)
            most = largest_micro_batch(base, variant, scale.most_tokens)
            rows.append(
                Row(f"largest_micro_batch/{base.shape}_{variant}", most, "tokens of sequences in a micro-batch")
            )
    versions = {name: version(name) for name in ("critique-rl", "torch", "transformers", "accelerate")}
    return rows, versions

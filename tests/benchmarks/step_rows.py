"""What `tests.benchmarks.step` measures, and the rows that come of it: plan, limits, targets.

Must not know: processes, models, either side's code.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from tests.benchmarks.results import Row
from tests.benchmarks.step_batch import SHAPES, Job, Measured

GIB = 1024**3
SHARES = (0.0, 0.125, 0.25, 0.5, 1.0)


class Sizes(NamedTuple):
    """How much a run does: its two vocabularies, rounds, and a base job that every measurement varies."""

    vocabularies: tuple[int, int]
    rounds: int
    base: Job


FULL = Sizes((32_000, 152_000), 2, Job(side="ours"))
QUICK = Sizes((8_000, 32_000), 2, Job(side="ours", rows=8, prompt=24, directive=32, completion=64))


def label(job: Job) -> str:
    """The name of a measurement: `ours_32k_equal_share_0.25`, `grpo_fast_152k_skewed`."""
    side = job.side if job.variant == "default" else f"{job.side}_{job.variant}"
    share = "" if job.side == "grpo" else f"_share_{job.share:g}"
    return f"{side}_{job.vocabulary // 1000}k_{'skewed' if job.skewed else 'equal'}{share}"


def plan(sizes: Sizes, *, peers: bool) -> list[Job]:
    """Every measurement, peers next to what they are compared with; the large vocabulary without those variants of TRL
    that the small one shows to be slower."""
    small, large = (replace(sizes.base, vocabulary=v) for v in sizes.vocabularies)
    jobs: list[Job] = []
    for base in (large, small):
        for skewed in (False, True):
            jobs.append(replace(base, skewed=skewed))
            variants = ["fast"] if skewed or base is large else ["fast", "default", "lean"]
            jobs += [replace(base, side="grpo", variant=v, skewed=skewed) for v in variants if peers]
        jobs += [replace(base, share=share) for share in SHARES if share]
        if peers:
            jobs.append(replace(base, side="sdpo", variant="fast", share=0.25))
    if peers:
        jobs += [replace(large, side="sdpo", variant=v, share=0.25) for v in ("default", "lean")]
        jobs.append(replace(large, side="sdpo", variant="fast", share=1.0))
    jobs.append(replace(large, variant="lean", share=0.25))
    jobs += [replace(small, variant=v, skewed=True) for v in ("small_micro_batch", "packed")]
    jobs.append(replace(large, variant="packed", skewed=True))
    return jobs


class Cost(NamedTuple):
    """Medians over rounds of one measurement; `spread` is the slowest step over the fastest."""

    seconds: float
    peak_bytes: float
    own_bytes: float
    grad_norm: float
    spread: float


def cost_of(job: Job, found: Sequence[Measured]) -> Cost:
    by_processor = job.device == "cpu" and job.threads == 1
    seconds = [s for m in found for s in (m.cpu_s if by_processor else m.wall_s)]
    return Cost(
        statistics.median(seconds),
        statistics.median(m.peak_bytes for m in found),
        statistics.median(m.peak_bytes - m.base_bytes for m in found),
        found[0].grad_norm,
        max(seconds) / min(seconds),
    )


def at_least(name: str, value: float, unit: str, bound: float) -> Row:
    return Row(name, float(f"{value:.4g}"), unit, f">= {bound:g}", value >= bound)


def at_most(name: str, value: float, unit: str, bound: float) -> Row:
    return Row(name, float(f"{value:.4g}"), unit, f"<= {bound:g}", value <= bound)


def step_flops(job: Job, *, teacher: bool = True) -> float:
    """Matmul FLOPs of a step: 6 per weight and token that is trained, 2 where a teacher only reads; the head over
    response positions only. Attention scores and recomputation are left out."""
    hidden, inner, layers, heads, kv_heads, head_size = SHAPES[job.shape]
    body = layers * (hidden * head_size * (2 * heads + 2 * kv_heads) + 3 * hidden * inner)
    response = job.rows * job.completion
    head = job.vocabulary * hidden * response
    trained = 6 * (body * (job.rows * job.prompt + response) + head)
    if not teacher:
        return trained
    context = body * (job.rows * (job.prompt + job.directive) + response) + head
    return trained + 2 * context * job.directed / job.rows


def targets(sizes: Sizes, costs: Mapping[Job, Cost]) -> list[Row]:
    """The issue's promises, as far as both of their sides were measured."""
    rows: list[Row] = []

    def pick(read: str, **wanted: object) -> float | None:
        fits = (c for j, c in costs.items() if all(getattr(j, k) == v for k, v in wanted.items()))
        return min((float(getattr(c, read)) for c in fits), default=None)

    def ratio(name: str, unit: str, over: float | None, under: float | None, bound: float, *, most: bool) -> None:
        if over is not None and under is not None:
            rows.append((at_most if most else at_least)(f"target/{name}", over / under, unit, bound))

    for v in sizes.vocabularies:
        k = f"{v // 1000}k"
        for skewed, bound in ((False, 1.0), (True, 1.5)):
            grpo = pick("seconds", side="grpo", vocabulary=v, skewed=skewed)
            mine = pick("seconds", side="ours", variant="default", vocabulary=v, skewed=skewed, share=0.0)
            lengths = "skewed" if skewed else "equal"
            ratio(f"grpo_over_ours_{k}_{lengths}", "time of TRL / ours", grpo, mine, bound, most=False)
        for read, unit, bound in (("seconds", "time", 1.20), ("peak_bytes", "memory", 1.10)):
            two = pick(read, side="ours", variant="default", vocabulary=v, skewed=False, share=0.25)
            one = pick(read, side="ours", variant="default", vocabulary=v, skewed=False, share=0.0)
            ratio(f"two_channels_over_plain_{k}_{unit}", f"{unit}, share 1/4 / share 0", two, one, bound, most=True)
    v = sizes.vocabularies[1]
    for read, unit, bound in (("peak_bytes", "memory", 3.0), ("seconds", "time", 1.3)):
        # One row a micro-batch ("lean") is another memory for another number of passes: reported, not compared.
        variants = [pick(read, side="sdpo", variant=n, vocabulary=v, share=0.25) for n in ("fast", "default")]
        sdpo = min((x for x in variants if x is not None), default=None)
        mine = pick(read, side="ours", variant="default", vocabulary=v, skewed=False, share=0.25)
        ratio(f"sdpo_over_ours_{v // 1000}k_{unit}", f"{unit} of TRL / ours", sdpo, mine, bound, most=False)
    norms = [(c.grad_norm, pick("grad_norm", **_like(j))) for j, c in costs.items() if j.side == "grpo"]
    worst = max((abs(n / mine - 1) for n, mine in norms if mine), default=None)
    if worst is not None:
        rows.append(at_most("target/grad_norm_difference", worst, "relative, TRL GRPO against ours", 1e-3))
    return rows


def _like(job: Job) -> dict[str, object]:
    """What our own plain measurement of the same rollouts has."""
    return {"side": "ours", "variant": "default", "vocabulary": job.vocabulary, "skewed": job.skewed, "share": 0.0}


def rows_of(sizes: Sizes, costs: Mapping[Job, Cost], failed: Mapping[Job, str], *, peers: bool) -> list[Row]:
    rows = targets(sizes, costs)
    rows.append(
        Row("peers_measured", int(peers), "1: TRL's trainers ran; 0: --peer-python names no Python that has TRL")
    )
    for base in (replace(sizes.base, vocabulary=v) for v in sizes.vocabularies):
        plain = costs.get(base)
        for share in SHARES[1:]:
            job = replace(base, share=share)
            if plain is None or job not in costs:
                continue
            name = f"{job.vocabulary // 1000}k_share_{share:g}"
            limit = step_flops(job) / step_flops(job, teacher=False)
            rows.append(Row(f"limit_{name}", round(limit, 4), "FLOPs of both channels / plain"))
            rows.append(Row(f"ours_{name}", round(costs[job].seconds / plain.seconds, 4), "time / plain"))
    for job, cost in costs.items():
        unit = "processor s" if job.device == "cpu" and job.threads == 1 else "s"
        rows.append(Row(f"time/{label(job)}", round(cost.seconds, 4), unit))
        rows.append(Row(f"peak/{label(job)}", round(cost.peak_bytes / GIB, 3), "GiB of the process"))
        rows.append(Row(f"own/{label(job)}", round(cost.own_bytes / GIB, 3), "GiB added by the steps"))
    rows += [Row(f"failed/{label(job)}", 1, reason[:80]) for job, reason in failed.items()]
    spreads = [cost.spread for cost in costs.values()]
    if max(spreads, default=1.0) > 1:
        rows.append(Row("noise/slowest_over_fastest_round", round(statistics.median(spreads), 3), "median of all"))
        rows.append(Row("noise/worst_slowest_over_fastest", round(max(spreads), 3), "worst of all"))
    return rows

"""The step benchmark's own arithmetic, and one tiny measurement of each kind, so that it does not rot unseen."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import pytest

from tests.benchmarks.step_batch import Job, Measured, lengths, rollouts
from tests.benchmarks.step_rows import FULL, QUICK, Cost, label, plan, rows_of, step_flops
from tests.benchmarks.step_throughput import GROUP, VARIANTS, grouped, row_flops, variant_of
from tests.benchmarks.step_throughput import step_flops as variant_flops

TINY = Job(side="ours", shape="tiny", vocabulary=64, rows=4, prompt=3, directive=2, completion=5)


def test_lengths_have_the_same_sum_and_skewed_ones_differ() -> None:
    assert lengths(4, 8, skewed=False) == [8, 8, 8, 8]
    skewed = lengths(16, 128, skewed=True)
    assert sum(skewed) == 16 * 128
    assert 3.0 < max(skewed) / 128 < 3.6
    assert min(skewed) > 0


def test_rollouts_are_fixed_by_the_seed_and_hold_no_special_id() -> None:
    first, again = rollouts(TINY), rollouts(TINY)
    assert first == again != rollouts(dataclasses.replace(TINY, seed=1))
    assert [r.advantage for r in first] == [-1.0, 1.0, -1.0, 1.0]
    for row in first:
        assert row.context[:3] == row.prompt
        assert (len(row.prompt), len(row.context), len(row.completion)) == (3, 5, 5)
        assert min(row.context + row.completion) > 2


def test_flops_by_hand() -> None:
    # tiny: 2 layers of 32 * 16 * (2*2 + 2*1) + 3 * 32 * 64 = 3072 + 6144 weights, so 18432; head 64 * 32 = 2048.
    # student: 6 * (18432 * 4 * (3 + 5) + 2048 * 20) = 3784704
    # teacher on every row: 2 * (18432 * (4 * (3 + 2) + 20) + 2048 * 20) = 1556480; on a quarter of them: a quarter.
    job = dataclasses.replace(TINY, share=0.25)
    assert step_flops(job, teacher=False) == 3784704
    assert step_flops(job) == 3784704 + 1556480 / 4


def test_the_plan_names_each_measurement_once() -> None:
    for sizes in (FULL, QUICK):
        jobs = plan(sizes, peers=True)
        assert len({label(job) for job in jobs}) == len(jobs)
        assert {job.side for job in jobs} == {"ours", "grpo", "sdpo"}
        assert {job.side for job in plan(sizes, peers=False)} == {"ours"}


def cost(job: Job) -> Cost:
    """1 s and 1 GiB for us, 10 % more with directives; 2 s and 4 GiB for TRL, whose lean variant is slow and small."""
    if job.side == "ours":
        return Cost(1.1 if job.share else 1.0, 1.05 if job.share else 1.0, 0.5, 3.0, 1.0)
    return Cost(9.0, 0.1, 0.1, 3.0, 1.0) if job.variant == "lean" else Cost(2.0, 4.0, 3.5, 3.0, 1.2)


def test_targets_compare_what_they_say() -> None:
    costs = {job: cost(job) for job in plan(FULL, peers=True)}
    rows = {row.name: row for row in rows_of(FULL, costs, {}, peers=True)}
    assert rows["target/grpo_over_ours_32k_equal"].value == 2.0
    assert rows["target/grpo_over_ours_152k_skewed"].holds
    assert rows["target/two_channels_over_plain_32k_time"].value == 1.1
    assert rows["target/two_channels_over_plain_152k_memory"].value == 1.05
    assert rows["target/sdpo_over_ours_152k_memory"].value == pytest.approx(4 / 1.05, rel=1e-3)
    assert rows["target/sdpo_over_ours_152k_time"].value == pytest.approx(2 / 1.1, rel=1e-3)
    assert rows["target/grad_norm_difference"].value == 0
    assert all(row.holds for row in rows.values() if row.target)
    assert rows["peak/sdpo_lean_152k_equal_share_0.25"].value == 0  # 0.1 byte: shown, not compared with


def test_without_peers_no_target_needs_them_and_a_row_says_so() -> None:
    costs = {job: cost(job) for job in plan(FULL, peers=False)}
    rows = {row.name: row for row in rows_of(FULL, costs, {}, peers=False)}
    assert rows["peers_measured"].value == 0
    assert [name for name in rows if name.startswith("target/")] == [
        f"target/two_channels_over_plain_{k}_{what}" for k in ("32k", "152k") for what in ("time", "memory")
    ]


def test_a_failed_measurement_is_a_row() -> None:
    costs = {job: cost(job) for job in plan(FULL, peers=True)}
    lost = next(job for job in costs if job.side == "sdpo")
    del costs[lost]
    names = {row.name: row for row in rows_of(FULL, costs, {lost: "MemoryError: none left"}, peers=True)}
    assert names[f"failed/{label(lost)}"].unit == "MemoryError: none left"


def test_a_group_shares_its_prompt_and_keeps_its_directives() -> None:
    job = dataclasses.replace(TINY, rows=2 * GROUP)
    rows, own = grouped(job), rollouts(job)
    assert len({tuple(row.prompt) for row in rows}) == 2
    for row, before in zip(rows, own, strict=True):
        assert row.context == row.prompt + before.context[3:]
        assert row.completion == before.completion


def test_a_shared_prompt_is_counted_once() -> None:
    # by hand as above: 18432 weights in 2 layers, head 2048, attention 2 layers * 2 * 2 heads * 16 = 128 a T^2
    # alone, forward: 2 * 18432 * 8 + 2 * 2048 * 5 + 128 * 64; behind a known prompt of 3: 5 tokens and T^2 - 9
    whole, behind = 2 * 18432 * 8 + 20480 + 128 * 64, 2 * 18432 * 5 + 20480 + 128 * 55
    assert row_flops(TINY, 5, context=3, trained=False) == whole
    assert row_flops(TINY, 5, context=3, trained=True, given=True) == 3 * behind
    assert variant_flops(TINY, "packed") == variant_flops(TINY, "dense") == 3 * 4 * whole
    assert variant_flops(TINY, "prefix") == 3 * (whole + 3 * behind)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_differ_in_layout_and_head_only(variant: str) -> None:
    with variant_of(TINY, variant, 64) as policy:
        assert policy.layout == VARIANTS[variant].layout
        assert policy.train_step.head.fused == (variant != "dense")


@pytest.mark.slow
def test_a_worker_measures_a_tiny_step_and_survives_a_bad_job() -> None:
    from tests.benchmarks.step import OURS, Worker

    worker = Worker(sys.executable, OURS, threads=1)
    plain = worker.ask(TINY)
    directed = worker.ask(dataclasses.replace(TINY, share=0.5))
    bad = worker.ask(dataclasses.replace(TINY, shape="none"))
    worker.close()
    assert isinstance(plain, Measured) and isinstance(directed, Measured)
    assert plain.peak_bytes > plain.base_bytes > 0
    assert plain.grad_norm > 0
    assert isinstance(bad, str) and "KeyError" in bad


@pytest.mark.slow
def test_the_throughput_suite_runs_on_the_cpu() -> None:
    command = [sys.executable, "-m", "tests.benchmarks.step", "--suite", "throughput", "--quick", "--json"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=600, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    for variant in VARIANTS:
        assert f'"name": "largest_micro_batch/tiny_{variant}"' in done.stdout

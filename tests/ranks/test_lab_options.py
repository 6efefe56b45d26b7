"""Adapters, recomputed layers, shared prompts, an averaged teacher and a KL penalty, with the weights split."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from critique_rl.loop.checkpoint import latest_checkpoint
from tests.lab_runs import lines
from tests.ranks.lab_pair import SHORT, Changes, assert_same, lab_runs

OPTIONS: Changes = {
    **SHORT,
    "policy": {"dtype": "float64", "gradient_checkpointing": True, "lora": {"rank": 4}},
    "distillation": {"teacher": "ema", "ema_rate": 0.5},
    "optimizer": {"micro_batch_tokens": 200, "layout": "prefix"},
    "loss": {"kl_weight": 0.05},
    "engine": {"kind": "continuous"},
    "budget": {"max_steps": 2},
}


def test_two_processes_with_split_weights_make_the_run_of_one(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    runs = lab_runs(tmp_path, OPTIONS, ("fsdp2",))
    for name in ("samples.jsonl", "metrics.jsonl", "events.jsonl"):
        assert_same(lines(runs["fsdp2"] / name), lines(runs["one"] / name))
    steps = [row for row in lines(runs["one"] / "metrics.jsonl") if "loss/total" in row]
    assert all(row["grad/norm"] for row in steps) and any(row["teacher/refreshed"] for row in steps)
    saved = [latest_checkpoint(path / "checkpoints") for path in runs.values()]
    for name in ("policy/adapter_model.safetensors", "teacher.safetensors"):
        one, two = (load_file(run.directory / name) for run in saved if run is not None)
        assert one.keys() == two.keys()
        assert all(torch.allclose(one[key], two[key], rtol=0, atol=1e-10) for key in one)

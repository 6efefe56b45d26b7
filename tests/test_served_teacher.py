"""Whole lab runs with a served teacher: as the same weights give in process, and nothing lost when the server dies."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from critique_rl.config.run import RunConfig
from critique_rl.errors import EngineError
from critique_rl.experiment import PlannedRun, run_one
from critique_rl.lab.packaged import policy_dir
from tests.lab_runs import Tree, lab_config, lines
from tests.servers.vllm import FakeVllm, PromptLogprobs, Trouble

COMPARED = ("loss/pg", "loss/distill", "loss/imitate", "grad/norm", "reward/mean", "teacher/scored")


@contextmanager
def serving(trouble: Trouble | None = None) -> Generator[FakeVllm]:
    """A server that holds the weights that every lab run starts from, as a frozen teacher does."""
    model = AutoModelForCausalLM.from_pretrained(policy_dir(), dtype=torch.float64).eval()
    tokenizer = AutoTokenizer.from_pretrained(policy_dir())

    @torch.no_grad()
    def scores(ids: list[int]) -> list[list[float]]:
        return model(input_ids=torch.tensor([ids])).logits[0, :-1].log_softmax(-1).tolist()

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    with FakeVllm(trouble, scores=scores, encode=encode) as fake:
        yield fake


def config_of(base_url: str | None, **distillation: object) -> RunConfig:
    tree: Tree = {"prompt": "lab_teacher"} | distillation
    if base_url is not None:
        tree |= {"teacher": "served", "server": {"model": "small", "base_url": base_url, "restart_wait_s": 0.05}}
    return lab_config({"policy": {"dtype": "float64"}, "distillation": tree, "checkpoint": {"every": 1}})


def run(config: RunConfig, directory: Path, *, resume: bool = False) -> list[Tree]:
    run_one(PlannedRun(arm="a", seed=0, config=config, directory=directory), resume=resume)
    return steps(directory)


def steps(directory: Path) -> list[Tree]:
    """The metrics of each training step."""
    return [row for row in lines(directory / "metrics.jsonl") if "loss/total" in row]


def assert_equal(left: list[Tree], right: list[Tree]) -> None:
    for one, other in zip(left, right, strict=True):
        for key in COMPARED:
            assert one[key] == pytest.approx(other[key], rel=1e-9, abs=1e-12), key


@pytest.mark.parametrize("support", ["teacher", "sampled"])
def test_a_run_with_the_starting_weights_served_is_the_frozen_run(tmp_path: Path, support: str) -> None:
    frozen = run(config_of(None, support=support), tmp_path / "frozen")
    with serving() as fake:
        served = run(config_of(fake.base_url, support=support), tmp_path / "served")
        assert len(fake.asked("/tokenize")) == 1  # one connection for the whole run
    assert any(cast(float, row["loss/distill"]) > 0 for row in frozen)
    assert_equal(served, frozen)
    assert not [thread for thread in threading.enumerate() if thread.name == "critique-rl-calls"]


def test_a_server_that_stays_away_stops_the_run_and_the_run_goes_on_later(tmp_path: Path) -> None:
    with serving() as fake:
        whole = run(config_of(fake.base_url), tmp_path / "whole")
        first = int(cast(float, whole[0]["teacher/scored"]))
    with serving(Trouble(dies_after=1 + first + 1, looks_down=10**6)) as fake:  # the probe, step one, a row of step two
        config = config_of(fake.base_url)
        with pytest.raises(EngineError, match="no healthy server"):
            run(config, tmp_path / "stopped")
        assert len(steps(tmp_path / "stopped")) == 1
        fake.down = 0
        assert_equal(run(config, tmp_path / "stopped", resume=True), whole)


def test_a_server_that_says_half_of_it_trains_on_that_half(tmp_path: Path) -> None:
    seen: list[int] = []

    def garble(ids: list[int], logprobs: PromptLogprobs) -> PromptLogprobs:
        seen.append(len(ids))
        if len(seen) == 1:  # the proof
            return logprobs
        if len(seen) % 2:
            return logprobs[1:]
        last = logprobs[-1]
        assert last is not None
        return [*logprobs[:-1], {i: entry | {"logprob": None} for i, entry in last.items()}]

    with serving() as fake:
        whole = run(config_of(fake.base_url), tmp_path / "whole")
    with serving(Trouble(garbles=garble)) as fake:
        half = run(config_of(fake.base_url), tmp_path / "half")
    assert len(seen) > 3
    for one, other in zip(half, whole, strict=True):
        tokens, distilled = cast(float, one["tokens/distill"]), cast(float, one["loss/distill"])
        assert 0 < tokens < cast(float, other["tokens/distill"])
        assert math.isfinite(distilled) and distilled > 0 and one["step/applied"] == 1.0
    stories = lines(tmp_path / "half" / "samples.jsonl")
    assert stories and "NaN" not in json.dumps(stories)

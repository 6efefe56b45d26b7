"""What the switch sees of a step, and a run that it acts in: amplified, resumed exactly, and untouched when off."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from critique_rl.loop.checkpoint import latest_checkpoint
from critique_rl.loop.phases import execution_perplexity, formed_share, surprising
from critique_rl.stats.entropy import conditional_entropy, spread
from critique_rl.types import ScoreStatus
from tests.algorithms.groups import group
from tests.lab_runs import Tree, lab_config, lab_trainer, lines, run_lab, same_weights, weights

CHAINS: Tree = {
    "policy": {"model": "lab_school", "device": "cpu", "threads": 1},
    "tasks": {
        "kind": "lab_school",
        "kinds": ["chain"],
        "held_out_kinds": ["chain"],
        "chain_length": 3,
        "train": 8,
        "held_out": 0,
    },
    "rollout": {"prompts_per_step": 2, "group_size": 4, "max_tokens": 30},
    "optimizer": {"learning_rate": 3e-4},
    "budget": {"max_steps": 4},
    "evaluation": {"every": 0},
    "report": {"samples_per_step": 0},
}
PLANS = ["step by step", "from the left", "from the right", "at once"]
REINFORCE: Tree = {
    "algorithm": {"name": "weighted_reinforce"}
}  # it learns from wrong answers alone, which are many here


def test_vector_9_4_strategy_entropy() -> None:
    found = spread([5, 3, 2])
    assert found[:4] == pytest.approx((1.029653, 1.485475, 0.937231, 2.800094), abs=1e-6)
    assert spread([1, 1, 1, 1]).nats == pytest.approx(1.386294, abs=1e-6) and spread([7]).nats == 0.0


def test_vector_9_4_conditional_entropy() -> None:
    pairs = [("s1", "e1")] * 2 + [("s1", "e2")] + [("s2", "e3")] * 2
    assert conditional_entropy(pairs) == pytest.approx(0.381909, abs=1e-6)


def test_execution_perplexity_is_of_own_tokens_outside_plans() -> None:
    (short, long) = group([1, 0]).rollouts
    long = replace(long, behaviour_logprobs=(-3.0, -1.0), policy_mask=(True, True))
    tool = replace(short, id="tool", behaviour_logprobs=(-9.0,), policy_mask=(False,))
    planning = {"r0": np.zeros(1), "r1": np.array([1.0, 0.0]), "tool": np.zeros(1)}
    # r0 has one token at -.5, r1 an execution token at -1
    assert execution_perplexity([short, long, tool], planning) == pytest.approx(math.exp(0.75))
    assert execution_perplexity([short], {}) is None


def test_formed_answers_ended_and_could_be_read() -> None:
    of = group([1, 0, 0, None])
    unread = replace(of.scores[1], status=ScoreStatus.UNPARSED)
    of = replace(of, scores=(of.scores[0], unread, *of.scores[2:]))
    of = replace(of, rollouts=(*of.rollouts[:2], replace(of.rollouts[2], finished=False), of.rollouts[3]))
    assert formed_share([of]) == pytest.approx(1 / 3)
    assert formed_share([group([None])]) is None


def test_surprising_tokens_are_the_least_likely_of_the_batch() -> None:
    rollouts = group([1, 0, 0]).rollouts  # log-probs -.5 | -.5 -.6 | -.5 -.6 -.7
    marks = surprising(rollouts, share=0.3)  # ceil(.3 * 6) = 2 tokens
    assert [marks[r.id].tolist() for r in rollouts] == [[0], [0, 1], [0, 0, 1]]
    assert surprising([], share=0.3) == {}


def rows(directory: Path) -> list[Tree]:
    found = (row for row in lines(directory / "metrics.jsonl") if "loss/total" in row)
    return [{k: v for k, v in row.items() if "time" not in k and k != "steps/total"} for row in found]


def test_a_switched_off_section_measures_and_changes_nothing(tmp_path: Path) -> None:
    plain = run_lab(lab_config(REINFORCE, base=CHAINS), tmp_path / "plain")
    phases: Tree = {"mode": "off", "grams": PLANS}
    watched = run_lab(lab_config({**REINFORCE, "phases": phases}, base=CHAINS), tmp_path / "watched")
    assert same_weights(weights(plain), weights(watched))
    for row in rows(tmp_path / "watched"):
        assert row["phases/alpha"] == 0.0 and row["phases/unmarked"] == 0.0
        assert 0 < cast(float, row["phases/planning_share"]) < 0.8
        assert cast(float, row["phases/strategy_bins"]) == 4.0


def test_a_resumed_run_equals_an_unbroken_one_while_plans_are_amplified(tmp_path: Path) -> None:
    phases: Tree = {"mode": "on", "grams": PLANS, "warmup_steps": 3}
    config = lab_config({**REINFORCE, "phases": phases, "checkpoint": {"every": 1}}, base=CHAINS)
    whole = run_lab(config, tmp_path / "whole")
    half = config.model_copy(update={"budget": config.budget.model_copy(update={"max_steps": 2})})
    run_lab(half, tmp_path / "half")
    saved = latest_checkpoint(tmp_path / "half" / "checkpoints")
    assert saved is not None
    resumed = lab_trainer(config, tmp_path / "half", saved=saved)
    resumed.run()
    resumed.parts.tracker.close()
    told, again = rows(tmp_path / "whole"), rows(tmp_path / "half")
    assert told == again and len(told) == 4
    assert [row["phases/alpha"] for row in told] == pytest.approx([0.2 / 3, 0.4 / 3, 0.2, 0.2])
    assert cast(float, told[-1]["phases/advantage_mean"]) > cast(float, told[-1]["phases/base_mean"])
    assert same_weights(weights(whole), weights(resumed))
    plain = run_lab(lab_config(REINFORCE, base=CHAINS), tmp_path / "plain")
    assert not same_weights(weights(plain), weights(whole))

"""The whole loop on the lab's policy: exact resumption, a failing critic, and both channels at work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from critique_rl.loop.checkpoint import latest_checkpoint
from critique_rl.loop.train import Trainer
from tests.lab_runs import GRPO, LAB, Tree, lab_config, lab_trainer, lines, run_lab, same_weights, weights

LONG: Tree = {"budget": {"max_steps": 6}, "evaluation": {"every": 2}, "checkpoint": {"every": 3, "keep": 9}}


class PowerCut(BaseException):
    """Nothing catches this, and nothing is saved after it."""


def cut_at(trainer: Trainer, step: int) -> None:
    """Let the run die in the middle of a step, after its records of rollouts and critics were written."""
    policy = trainer.parts.policy
    real = policy.step

    def dies(samples: object) -> object:
        if trainer.progress.step == step:
            raise PowerCut
        return real(samples)  # pyright: ignore[reportArgumentType]

    policy.step = dies  # pyright: ignore[reportAttributeAccessIssue]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Path]:
    run_dir = tmp_path_factory.mktemp("straight")
    return run_lab(lab_config(LONG), run_dir), run_dir


def test_both_channels_act_and_the_stall_is_told_first(straight: tuple[Trainer, Path]) -> None:
    _, run_dir = straight
    steps = [row for row in lines(run_dir / "metrics.jsonl") if "loss/total" in row]
    assert [row["step"] for row in steps] == [1, 2, 3, 4, 5, 6]
    for key in ("loss/distill", "loss/imitate", "critic/directives", "refinement/injected"):
        assert any(row[key] for row in steps), key
    told = [(event["kind"], event["step"]) for event in lines(run_dir / "events.jsonl")]
    kinds = [kind for kind, _ in told]
    assert kinds.index("stall") < kinds.index("critic")
    stalled = next(row["step"] for row in steps if row["plateau/plateaued"])
    asked = next(row["step"] for row in steps if row["critic/calls"])
    assert dict(reversed(told))["stall"] == stalled <= asked == dict(reversed(told))["critic"]


def test_a_run_killed_in_the_middle_of_a_step_goes_on_exactly(straight: tuple[Trainer, Path], tmp_path: Path) -> None:
    whole, whole_dir = straight
    killed = lab_trainer(lab_config(LONG), tmp_path)
    cut_at(killed, 4)
    with pytest.raises(PowerCut):
        killed.run()
    killed.parts.tracker.close()
    assert len(lines(tmp_path / "samples.jsonl")) == 5  # one of a step that never ended
    saved = latest_checkpoint(tmp_path / "checkpoints")
    assert saved is not None and saved.directory.name == "step-000003"

    resumed = lab_trainer(lab_config(LONG), tmp_path, saved=saved)
    resumed.run()
    resumed.parts.tracker.close()
    for name in ("metrics.jsonl", "samples.jsonl", "events.jsonl"):
        assert (tmp_path / name).read_bytes() == (whole_dir / name).read_bytes(), name
    assert same_weights(weights(resumed), weights(whole))
    last = "checkpoints/step-000006"
    for name in ("policy/model.safetensors", "policy/config.json"):
        assert (tmp_path / last / name).read_bytes() == (whole_dir / last / name).read_bytes()
    assert_same_optimizer(tmp_path / last, whole_dir / last)
    assert state_of(tmp_path / last) == state_of(whole_dir / last)


def assert_same_optimizer(left: Path, right: Path) -> None:
    one, other = (torch.load(path / "optimizer.pt", weights_only=True) for path in (left, right))
    assert one["steps_taken"] == other["steps_taken"]
    assert one["optimizer"]["param_groups"] == other["optimizer"]["param_groups"]
    moments = one["optimizer"]["state"]
    assert moments.keys() == other["optimizer"]["state"].keys()
    for index, values in moments.items():
        assert all(torch.equal(value, other["optimizer"]["state"][index][key]) for key, value in values.items())


def state_of(checkpoint: Path) -> Tree:
    state = json.loads((checkpoint / "state.json").read_text())
    del state["progress"]["wall_s"]
    return state


# Hot enough that some groups hold both right and wrong answers: at temperature 1 scalar GRPO has nothing to train on.
HOT: Tree = {"rollout": {"temperature": 4.0}, "budget": {"max_steps": 4}}
FAILING: Tree = {**HOT, "critic": {"kind": "scripted", "fail": True}}


@pytest.mark.parametrize("algorithm", ["two_channel", "critique_grpo"])
def test_a_critic_that_fails_on_every_call_leaves_plain_grpo_bit_for_bit(tmp_path: Path, algorithm: str) -> None:
    base = {key: value for key, value in LAB.items() if key != "distillation" or algorithm == "two_channel"}
    config = lab_config({**FAILING, "algorithm": {"name": algorithm}}, base=base)
    failing = run_lab(config, tmp_path / "failing")
    plain = run_lab(lab_config(HOT, base=GRPO), tmp_path / "plain")
    assert failing.progress.critic.calls > 0 and plain.progress.critic.calls == 0
    assert plain.parts.policy.version > 0  # it did train
    assert same_weights(weights(failing), weights(plain))
    critic_keys = ("critic/", "refinement/", "trust/", "teacher/", "guards/")
    rows = [
        [{k: v for k, v in row.items() if not k.startswith(critic_keys)} for row in lines(directory / "metrics.jsonl")]
        for directory in (tmp_path / "failing", tmp_path / "plain")
    ]
    assert rows[0] == rows[1]
    calls = failing.progress.critic.calls
    last = lines(tmp_path / "failing/events.jsonl")[-1]
    message = f"all {calls} critic calls failed (failed: {calls}); the run trained as scalar GRPO"
    assert (last["kind"], last["message"]) == ("critic", message)


def test_the_token_budget_ends_a_run(tmp_path: Path) -> None:
    trainer = run_lab(lab_config({"budget": {"max_steps": 50, "max_generated_tokens": 100}}), tmp_path)
    assert trainer.stopped_because == "generated-token budget spent"
    per_step = [row["tokens/generated"] for row in lines(tmp_path / "metrics.jsonl") if "loss/total" in row]
    assert per_step[-1] == trainer.progress.generated_tokens >= 100
    assert all(isinstance(tokens, float) and tokens < 100 for tokens in per_step[:-1])

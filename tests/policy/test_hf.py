"""The policy as the loop sees it: who the teacher is, and checkpoints that go on exactly where they stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from critique_rl.errors import CheckpointError
from critique_rl.types import Message
from tests.tiny import sample, step_config, tiny_policy, weights

PROMPT, COMPLETION, CONTEXT = (4, 5, 6), (7, 8, 9), (20, 21, 4, 5, 6)
STEP = [sample(PROMPT, COMPLETION, advantage=0.5, pg=1.0), sample(PROMPT, (8, 2), advantage=-0.5, pg=1.0)]


@pytest.mark.parametrize("teacher", ["live", "frozen"])
def test_a_frozen_teacher_stays_what_the_policy_was(teacher: str) -> None:
    policy = tiny_policy(step_config(distillation={"teacher": teacher}))

    def scores(who: str) -> np.ndarray:
        return policy.topk_logprobs([CONTEXT], [COMPLETION], k=5, who=who)[0].sampled_logprobs_T  # pyright: ignore[reportArgumentType]

    start = scores("teacher")
    assert np.array_equal(start, scores("policy"))
    assert policy.step(STEP).applied
    assert not np.allclose(scores("policy"), start, atol=1e-6)
    assert np.array_equal(scores("teacher"), start if teacher == "frozen" else scores("policy"))


def test_encode_and_decode_are_the_codecs() -> None:
    policy = tiny_policy()
    assert policy.encode([Message(role="user", content="w4 w5")]) == (4, 5)
    assert policy.decode((4, 5, 2)) == "w4 w5"


def test_a_restored_policy_takes_the_very_same_next_step(tmp_path: Path) -> None:
    config = step_config(optimizer={"warmup_steps": 3, "weight_decay": 0.01})
    first = tiny_policy(config)
    for _ in range(2):
        assert first.step(STEP).applied
    first.save(tmp_path)
    second = tiny_policy(config, seed=7)  # other weights, no moments
    second.restore(tmp_path)
    assert second.version == first.version == 2
    assert torch.equal(weights(second), weights(first))
    reports = first.step(STEP), second.step(STEP)
    assert reports[0] == reports[1]
    assert torch.equal(weights(second), weights(first))
    for mine, theirs in zip(
        first.train_step.optimizer.state_dict()["state"].values(),
        second.train_step.optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert all(torch.equal(mine[name], theirs[name]) for name in ("step", "exp_avg", "exp_avg_sq"))


def test_a_checkpoint_loads_with_from_pretrained(tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.save(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "policy")
    ids_BT = torch.tensor([[4, 5, 6]])
    assert torch.equal(model(input_ids=ids_BT).logits, policy.model(input_ids=ids_BT).logits)
    assert AutoTokenizer.from_pretrained(tmp_path / "policy").encode("w4 w5") == [4, 5]


def cut(name: str, size: int) -> Callable[[Path], object]:
    return lambda directory: (directory / name).write_bytes((directory / name).read_bytes()[:size])


def drop_a_weight(directory: Path) -> None:
    from safetensors.torch import load_file, save_file

    file = directory / "policy" / "model.safetensors"
    state = load_file(file)
    del state["model.norm.weight"]
    save_file(state, file, metadata={"format": "pt"})


BREAKAGES: dict[str, Callable[[Path], object]] = {
    "no directory": shutil.rmtree,
    "no weights": lambda d: (d / "policy" / "model.safetensors").unlink(),
    "cut weights": cut("policy/model.safetensors", 500),
    "a weight too few": drop_a_weight,
    "no optimizer": lambda d: (d / "optimizer.pt").unlink(),
    "cut optimizer": cut("optimizer.pt", 300),
    "empty optimizer": cut("optimizer.pt", 0),
    "not an optimizer": lambda d: torch.save({"steps_taken": 1}, d / "optimizer.pt"),
    "another model's optimizer": lambda d: torch.save(
        {"steps_taken": 1, "optimizer": torch.optim.AdamW([torch.zeros(2)]).state_dict()}, d / "optimizer.pt"
    ),
}


@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=BREAKAGES.keys())
def test_a_broken_checkpoint_is_one_clear_error(breakage: Callable[[Path], object], tmp_path: Path) -> None:
    policy = tiny_policy()
    policy.step(STEP)
    directory = tmp_path / "step-000001"
    policy.save(directory)
    breakage(directory)
    with pytest.raises(CheckpointError, match=r"step-000001' cannot be read: .+; delete it to go back"):
        policy.restore(directory)

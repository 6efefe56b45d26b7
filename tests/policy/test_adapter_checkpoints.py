"""What a run with adapters leaves on disk: adapters that peft reads, whole weights for a server, and a way back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from critique_rl.engines.sync import write_checkpoint
from critique_rl.errors import CheckpointError
from tests.policy.lora import base_weights, lora_policy, move
from tests.tiny import sample, step_config, tiny_model, tiny_policy, weights

PROMPT, COMPLETION = (4, 5, 6), (7, 8, 9)
IDS = torch.tensor([[4, 5, 6, 7, 8, 9]])
STEP = [sample(PROMPT, COMPLETION, advantage=0.5, pg=1.0), sample(PROMPT, (8, 2), advantage=-0.5, pg=1.0)]
peft_reads_an_old_name = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=IDS).logits


@peft_reads_an_old_name
def test_peft_reads_the_adapters_and_can_merge_them(tmp_path: Path) -> None:
    policy = lora_policy(moved=True)
    policy.save(tmp_path)
    assert {p.name for p in (tmp_path / "policy").iterdir()} >= {"adapter_model.safetensors", "adapter_config.json"}
    assert not (tmp_path / "policy" / "model.safetensors").exists()
    loaded = PeftModel.from_pretrained(tiny_model(), tmp_path / "policy")
    assert torch.equal(logits(loaded), logits(policy.model))
    merged = loaded.merge_and_unload()  # pyright: ignore[reportCallIssue]
    assert torch.allclose(logits(merged), logits(policy.model), rtol=0, atol=1e-12)
    assert AutoTokenizer.from_pretrained(tmp_path / "policy").encode("w4 w5") == [4, 5]


def test_a_restored_policy_takes_the_very_same_next_step(tmp_path: Path) -> None:
    config = step_config(optimizer={"warmup_steps": 3, "weight_decay": 0.01})
    first = lora_policy(config)
    for _ in range(2):
        assert first.step(STEP).applied
    first.save(tmp_path)
    second = lora_policy(config)
    move(second.model, seed=9)
    second.restore(tmp_path)
    assert second.version == 2 and torch.equal(weights(second), weights(first))
    assert first.step(STEP) == second.step(STEP)
    assert torch.equal(weights(second), weights(first))
    assert all(
        torch.equal(weight, base_weights(first.model)[name])
        for name, weight in base_weights(lora_policy().model).items()
    )


def rewrite(directory: Path, **changes: object) -> None:
    file = directory / "policy" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def drop_a_factor(directory: Path) -> None:
    file = directory / "policy" / "adapter_model.safetensors"
    factors = load_file(file)
    factors.pop("base_model.model.model.layers.0.mlp.up_proj.lora_A.weight")
    save_file(factors, file)


BREAKAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no adapters": (lambda d: (d / "policy" / "adapter_model.safetensors").unlink(), "No such file"),
    "nothing": (lambda d: shutil.rmtree(d / "policy"), "No such file"),
    "a factor too few": (drop_a_factor, r"do not fit policy.lora at 1 tensors, first '.*up_proj.lora_A"),
    "another alpha": (lambda d: rewrite(d, lora_alpha=1.0), r"with lora_alpha = 1.0, and policy.lora has 6.0"),
}


@pytest.mark.parametrize(("breakage", "says"), BREAKAGES.values(), ids=BREAKAGES.keys())
def test_adapters_that_cannot_be_read(breakage: Callable[[Path], object], says: str, tmp_path: Path) -> None:
    policy = lora_policy()
    policy.step(STEP)
    policy.save(tmp_path)
    breakage(tmp_path)
    before = weights(policy)
    with pytest.raises(CheckpointError, match=rf"cannot be read: .*{says}.*; delete it to go back"):
        policy.restore(tmp_path)
    assert torch.equal(weights(policy), before)


def test_another_rank_is_refused(tmp_path: Path) -> None:
    lora_policy(rank=2).save(tmp_path)
    with pytest.raises(CheckpointError, match=r"adapters do not fit policy.lora at 28 tensors"):
        lora_policy(rank=3).restore(tmp_path)


def test_whole_weights_are_no_adapters_and_the_other_way_round(tmp_path: Path) -> None:
    tiny_policy().save(tmp_path / "whole")
    lora_policy().save(tmp_path / "adapters")
    with pytest.raises(CheckpointError):
        lora_policy().restore(tmp_path / "whole")
    with pytest.raises(CheckpointError, match=r"it holds adapters, and policy\.lora is not set"):
        tiny_policy().restore(tmp_path / "adapters")


@pytest.mark.parametrize("tied", [False, True])
def test_a_server_gets_whole_weights_under_the_names_of_the_base(tied: bool, tmp_path: Path) -> None:
    policy = lora_policy()
    if tied:
        policy.model.lm_head.weight = policy.model.model.embed_tokens.weight
        policy.model.config.tie_word_embeddings = True
    move(policy.model)
    live = {name: weight.clone() for name, weight in policy.model.state_dict().items()}
    write_checkpoint(policy.model, tmp_path)
    assert all(torch.equal(weight, live[name]) for name, weight in policy.model.state_dict().items())
    written = load_file(tmp_path / "model.safetensors")
    names = set(tiny_model().state_dict())
    assert set(written) == names - ({"lm_head.weight"} if tied else set())
    assert (tmp_path / "head.safetensors").exists() == tied
    served = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float64)
    assert torch.allclose(logits(served), logits(policy.model), rtol=0, atol=1e-12)
    policy.save(tmp_path / "after")  # which still knows its adapters
    assert (tmp_path / "after" / "policy" / "adapter_model.safetensors").exists()

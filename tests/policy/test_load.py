"""Everything that can be wrong with `policy.model` ends as one line that says what was wanted."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig

from critique_rl.config.policy import LoraConfig, PolicyConfig
from critique_rl.errors import MissingExtraError, ModelError
from critique_rl.policy.adapters import add_adapters, save_adapters
from critique_rl.policy.load import end_token_ids, load_policy
from tests.tiny import EOS, tiny_model, tiny_tokenizer


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    directory = tmp_path / "saved"
    tiny_model(dtype=torch.float32).save_pretrained(directory)
    tiny_tokenizer().save_pretrained(directory)
    return directory


def refusal(model: str, **options: object) -> str:
    with pytest.raises(ModelError) as caught:
        load_policy(PolicyConfig.model_validate({"model": model, **options}), lab_directory=Path("/no/lab"))
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(("policy.model: ", "policy.gguf_file: "))
    return message


@pytest.mark.parametrize(
    ("dtype", "master"), [("auto", torch.float32), ("bfloat16", torch.float32), ("float64", torch.float64)]
)
def test_a_directory_loads_in_master_precision(saved: Path, dtype: str, master: torch.dtype) -> None:
    config = PolicyConfig.model_validate({"model": str(saved), "dtype": dtype})
    model, tokenizer = load_policy(config, lab_directory=Path("/no/lab"))
    assert model.dtype == master
    assert not model.training
    assert all(p.requires_grad for p in model.parameters())
    assert tokenizer.encode("w5") == [5]
    expected = tiny_model(dtype=torch.float32).state_dict()
    assert all(torch.equal(weight.float(), expected[name]) for name, weight in model.state_dict().items())


def test_lab_is_the_packaged_directory(saved: Path) -> None:
    assert load_policy(PolicyConfig(model="lab"), lab_directory=saved).model.dtype == torch.float32


def test_a_home_directory_is_expanded(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(saved.parent))
    assert load_policy(PolicyConfig(model="~/saved"), lab_directory=Path("/no/lab")).tokenizer.eos_token_id == EOS


def test_a_directory_that_does_not_exist(tmp_path: Path) -> None:
    assert "does not exist; give a model directory or a Hub name" in refusal(str(tmp_path / "nowhere"))
    assert "'/no/lab' does not exist" in refusal("lab")


def test_a_hub_name_while_offline() -> None:
    assert "'nobody/no-such-model' could not be loaded: " in refusal("nobody/no-such-model")


def test_a_directory_without_a_model(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no model here")
    assert "holds no config.json, so it is no transformers model" in refusal(str(tmp_path))


def rewrite_config(**changes: object) -> Callable[[Path], object]:
    def change(directory: Path) -> None:
        config = json.loads((directory / "config.json").read_text())
        (directory / "config.json").write_text(json.dumps(config | changes))

    return change


BREAKAGES: dict[str, Callable[[Path], object]] = {
    "no weights": lambda d: (d / "model.safetensors").unlink(),
    "cut weights": lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:200]),
    "no tokenizer": lambda d: [file.unlink() for file in d.glob("tokenizer*")],
    "broken tokenizer": lambda d: (d / "tokenizer.json").write_text("{}"),
    "broken config": lambda d: (d / "config.json").write_text("{"),
    "unknown architecture": rewrite_config(model_type="no-such-architecture"),
    "other shapes": rewrite_config(intermediate_size=48),
}


@pytest.mark.parametrize("breakage", BREAKAGES.values(), ids=BREAKAGES.keys())
def test_a_broken_model_directory(breakage: Callable[[Path], object], saved: Path) -> None:
    breakage(saved)
    assert "could not be loaded: " in refusal(str(saved))


def test_weights_that_are_in_no_file_are_not_made_up(saved: Path) -> None:
    rewrite_config(num_hidden_layers=3)(saved)
    assert "9 weights are in none of its files, among them 'model.layers.2." in refusal(str(saved))


def test_a_tokenizer_without_an_end(saved: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = None
    tokenizer.save_pretrained(saved)
    assert "no end-of-sequence token" in refusal(str(saved))


def test_adapters_are_no_policy(saved: Path) -> None:
    model = tiny_model(dtype=torch.float32)
    add_adapters(model, LoraConfig(rank=2))
    save_adapters(model, saved.parent / "adapters")
    assert "holds adapters, not a model; merge them into" in refusal(str(saved.parent / "adapters"))
    save_adapters(model, saved)  # beside the whole weights of a base
    assert "holds adapters, not a model; merge them into" in refusal(str(saved))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_adapters_and_recomputation_come_with_the_policy(saved: Path, dtype: str) -> None:
    tree = {"model": str(saved), "dtype": dtype, "lora": {"rank": 2}, "gradient_checkpointing": True}
    config = PolicyConfig.model_validate(tree)
    loaded = [load_policy(config, lab_directory=Path("/no/lab"), seed=seed).model for seed in (1, 1, 2)]
    name = "model.layers.0.mlp.up_proj.lora_A.default.weight"
    first, again, other = (model.get_parameter(name) for model in loaded)
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert {str(p.dtype) for p in loaded[0].parameters()} == {f"torch.{dtype}"}
    assert all(p.requires_grad == ("lora_" in name) for name, p in loaded[0].named_parameters())
    assert all("forward" in vars(layer) for layer in loaded[0].model.layers)
    plain = load_policy(PolicyConfig(model=str(saved)), lab_directory=Path("/no/lab")).model
    assert not any("forward" in vars(module) for module in plain.modules())


def test_gguf_that_is_missing_or_broken(tmp_path: Path) -> None:
    assert "there is no 'w.gguf' in the directory" in refusal(str(tmp_path), gguf_file="w.gguf")
    (tmp_path / "w.gguf").write_bytes(b"GGUF")
    assert "could not be loaded: " in refusal(str(tmp_path), gguf_file="w.gguf")


def test_gguf_without_its_package(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (saved / "w.gguf").write_bytes(b"GGUF")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"^policy.gguf_file = 'w.gguf' needs gguf.*'critique-rl\[gguf\]'$"):
        load_policy(PolicyConfig(model=str(saved), gguf_file="w.gguf"), lab_directory=Path("/no/lab"))


@pytest.mark.parametrize(("named", "expected"), [(None, (EOS,)), (9, (EOS, 9)), ([9, EOS, 11], (EOS, 9, 11))])
def test_end_tokens_are_the_models_and_the_tokenizers(named: object, expected: tuple[int, ...]) -> None:
    model = tiny_model()
    model.generation_config = GenerationConfig(eos_token_id=named)
    assert end_token_ids(model, tiny_tokenizer()) == expected

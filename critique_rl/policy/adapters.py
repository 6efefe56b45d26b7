"""Low-rank adapters of the policy: which layers get them, what of them is saved, and the policy without them.

Owns: everything that touches peft. Must not know: losses, teachers, steps.
They are injected in place, so the model stays what transformers made: sampling, scoring and the step need not know of
them. The base is frozen, so with the adapters off the model is the run's start, whatever was trained or restored.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from critique_rl.config.policy import LoraConfig
from critique_rl.errors import MissingExtraError, ModelError
from critique_rl.ops.low_rank import adapted_layers, merged_weights

_ADAPTER = "default"
_FILE, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
"""What peft calls its files."""
_PREFIX = "base_model.model."
_KEPT = ("r", "lora_alpha")
"""What an adapter's tensors mean nothing without."""


def has_adapters(model: torch.nn.Module) -> bool:
    """Whether `add_adapters` was here."""
    return bool(adapted_layers(model))


def add_adapters(model: PreTrainedModel, config: LoraConfig, *, seed: int = 0) -> None:
    """Freeze the model and put trainable adapters beside its linear layers; what it computes stays the same at first.

    Each layer becomes W x + alpha / rank * B A x, with B = 0 and A random by `seed`, both in the type of the weights.
    Leaves the global random state as it was. arXiv 2106.09685. Errors: MissingExtraError, ModelError for a layer name
    that is not in the model.
    """
    try:
        import peft
    except ImportError:
        raise MissingExtraError("peft", "peft", "policy.lora") from None
    targets = _targets(model, config)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        model.add_adapter(
            peft.LoraConfig(
                r=config.rank,
                lora_alpha=cast(int, config.alpha),  # a float does as well
                target_modules=sorted(targets),
                lora_dropout=0.0,
                fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in targets.values()),
            ),
            _ADAPTER,
        )
    model.eval()


@contextmanager
def adapters_off(model: PreTrainedModel) -> Generator[None]:
    """Inside, the model computes what it did before any training. Nothing may be sampled or trained meanwhile."""
    if all(layer.disable_adapters for layer in _lora_layers(model)):
        yield  # an outer one switched them off, and will switch them on
        return
    model.disable_adapters()
    try:
        yield
    finally:
        model.enable_adapters()


@torch.no_grad()
def merged_copy(model: PreTrainedModel) -> PreTrainedModel:
    """A model of its own without adapters, with the weights that the given one has once they are merged."""
    twin = copy.deepcopy(model)
    if not has_adapters(model):
        return twin
    for name, layer in adapted_layers(twin).items():
        twin.set_submodule(name, layer.get_base_layer())
    twin._hf_peft_config_loaded = False  # pyright: ignore[reportPrivateUsage]
    del twin.peft_config
    own = twin.state_dict()
    for name, weight in merged_weights(model):
        own[name].copy_(weight)
    return twin


def save_adapters(model: PreTrainedModel, directory: Path) -> None:
    """Write what peft's `PeftModel.from_pretrained(base, directory)` reads. Errors: OSError as it comes."""
    directory.mkdir(parents=True, exist_ok=True)
    weights = {_saved_name(name): weight.detach().cpu().contiguous() for name, weight in _factors(model).items()}
    save_file(weights, directory / _FILE, metadata={"format": "pt"})
    model.peft_config[_ADAPTER].save_pretrained(str(directory))


def read_adapters(model: PreTrainedModel, directory: Path) -> dict[str, torch.Tensor]:
    """What `save_adapters` wrote, under the names of the model's parameters.

    Errors: OSError, SafetensorError, or ValueError for adapters that do not fit the model's.
    """
    saved, factors = load_file(directory / _FILE), _factors(model)
    found = {name: saved.pop(_saved_name(name), None) for name in factors}
    fitting = {
        name: weight for name, weight in found.items() if weight is not None and weight.shape == factors[name].shape
    }
    differing = sorted({*saved, *(factors.keys() - fitting.keys())})
    if differing:
        raise ValueError(f"its adapters do not fit policy.lora at {len(differing)} tensors, first {differing[0]!r}")
    written = json.loads((directory / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    for key in _KEPT:
        present = getattr(model.peft_config[_ADAPTER], key)
        if written[key] != present:
            raise ValueError(f"its adapters were trained with {key} = {written[key]}, and policy.lora has {present}")
    return fitting


def _targets(model: PreTrainedModel, config: LoraConfig) -> dict[str, torch.nn.Module]:
    """The layers that get adapters, by full name: linear ones, never the head, whose product is computed in chunks."""
    head = model.get_output_embeddings()
    linear: dict[str, torch.nn.Module] = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear | Conv1D) and module is not head
    }
    if not linear:
        raise ModelError(f"policy.lora: {type(model).__name__} has no linear layer to put adapters beside; remove it")
    if config.target_modules == "all-linear":
        return linear
    chosen: dict[str, torch.nn.Module] = {}
    for target in config.target_modules:
        matching = {name: m for name, m in linear.items() if name == target or name.endswith(f".{target}")}
        if not matching:
            names = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
            raise ModelError(
                f"policy.lora.target_modules: {target!r} is no linear layer of {type(model).__name__} beside its head; "
                f"wanted any of {names}, a full name such as {next(iter(linear))!r}, or 'all-linear'"
            )
        chosen |= matching
    return chosen


def _lora_layers(model: PreTrainedModel):
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]


def _factors(model: PreTrainedModel) -> dict[str, torch.nn.Parameter]:
    ending = f".{_ADAPTER}.weight"
    return {name: weight for name, weight in model.named_parameters() if ".lora_" in name and name.endswith(ending)}


def _saved_name(name: str) -> str:
    return _PREFIX + name.replace(f".{_ADAPTER}.weight", ".weight")

"""A Hub name, a local directory or a GGUF file -> model and tokenizer, or one clear `ModelError`.

Owns: everything that can go wrong before the first forward pass. Must not know: training.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, cast

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from critique_rl.config.policy import PolicyConfig
from critique_rl.errors import CritiqueRLError, MissingExtraError, ModelError
from critique_rl.policy.adapters import ADAPTER_CONFIG, add_adapters, has_adapters
from critique_rl.policy.recompute import recompute_layers

DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16}


_ADAPTERS = (
    "policy.model: {!r} holds adapters, not a model; merge them into the model that they were trained on, with peft's "
    "PeftModel.from_pretrained(model, adapters).merge_and_unload().save_pretrained(directory), and give that directory"
)


class Loaded(NamedTuple):
    """A model in float32 (or float64) master weights, which of them are trained, and its tokenizer."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase


def load_policy(config: PolicyConfig, *, lab_directory: Path, seed: int = 0) -> Loaded:
    """Load the policy that `config` names; `lab_directory` is where "lab" lies, `seed` draws the start of adapters.

    Weights are kept in float32 (float64 if asked): bfloat16 is a compute type under autocast, never the master copy.
    Errors: ModelError with what was looked for and what to do, MissingExtraError.
    """
    loaded = _load(config, lab_directory)
    if config.lora is not None:
        add_adapters(loaded.model, config.lora, seed=seed)
    if config.gradient_checkpointing:
        recompute_layers(loaded.model)
    return loaded


def _load(config: PolicyConfig, lab_directory: Path) -> Loaded:
    given = str(lab_directory) if config.model == "lab" else config.model
    name = str(Path(given).expanduser())  # which takes a leading "./" away
    dtype = torch.float64 if config.dtype == "float64" else torch.float32
    if _looks_like_a_path(given) and not Path(name).is_dir():
        raise ModelError(f"policy.model: the directory {name!r} does not exist; give a model directory or a Hub name")
    if config.gguf_file is None and (Path(name) / ADAPTER_CONFIG).is_file():
        raise ModelError(_ADAPTERS.format(name))
    if config.gguf_file is None and Path(name).is_dir() and not (Path(name) / "config.json").is_file():
        raise ModelError(
            f"policy.model: the directory {name!r} holds no config.json, so it is no transformers model; "
            "give the directory that save_pretrained wrote, or set policy.gguf_file"
        )
    if config.gguf_file is not None and Path(name).is_dir() and not (Path(name) / config.gguf_file).is_file():
        raise ModelError(f"policy.gguf_file: there is no {config.gguf_file!r} in the directory {name!r}")
    try:
        if config.gguf_file is not None:
            return _from_gguf(name, config.gguf_file, dtype)
        tokenizer = AutoTokenizer.from_pretrained(name)
        return _ready(read_weights(name, dtype), tokenizer)
    except CritiqueRLError:
        raise
    except Exception as error:  # transformers, tokenizers, safetensors and gguf each raise kinds of their own
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"policy.model: {config.model!r} could not be loaded: {first_line} "
            "(wanted: a transformers causal LM by Hub name or directory; for GGUF weights set policy.gguf_file)"
        ) from error


def read_weights(name: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    """A saved causal LM. Errors: as transformers raises them, and ValueError where it would do something unasked: fill
    weights that are in no file with random numbers, or put adapters beside a model from elsewhere."""
    if (Path(name) / ADAPTER_CONFIG).is_file():
        raise ValueError("it holds adapters, and policy.lora is not set")
    model, found = cast(
        "tuple[PreTrainedModel, dict[str, set[str]]]",
        AutoModelForCausalLM.from_pretrained(name, dtype=dtype, output_loading_info=True),
    )
    missing = sorted(found["missing_keys"])
    if missing:
        raise ValueError(f"{len(missing)} weights are in none of its files, among them {missing[0]!r}")
    return model


def _from_gguf(name: str, gguf_file: str, dtype: torch.dtype) -> Loaded:
    try:
        import gguf  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise MissingExtraError("gguf", "gguf", f"policy.gguf_file = {gguf_file!r}") from None
    tokenizer = AutoTokenizer.from_pretrained(name, gguf_file=gguf_file)
    packed = AutoModelForCausalLM.from_pretrained(name, gguf_file=gguf_file, dtype=dtype)
    # The dequantised weights are ordinary, but transformers goes on calling the model quantised: neither trainable
    # nor saveable. A fresh model from the same config without that mark holds the same weights.
    config = packed.config
    if hasattr(config, "quantization_config"):
        delattr(config, "quantization_config")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    model.to_empty(device="cpu")
    model.load_state_dict(packed.state_dict(), strict=True)
    for (_, fresh), (_, loaded) in zip(model.named_buffers(), packed.named_buffers(), strict=True):
        fresh.copy_(loaded)  # rotary frequencies are not in the state dict
    model.tie_weights()
    model.generation_config = packed.generation_config
    return _ready(model, tokenizer)


def _ready(model: object, tokenizer: object) -> Loaded:
    typed_model, typed_tokenizer = cast(PreTrainedModel, model), cast(PreTrainedTokenizerBase, tokenizer)
    if typed_tokenizer.eos_token_id is None:
        raise ModelError("policy.model: its tokenizer names no end-of-sequence token, so no rollout could ever finish")
    if has_adapters(typed_model):  # which transformers loads with the model that they name
        raise ModelError(_ADAPTERS.format(typed_model.name_or_path))
    typed_model.eval()  # dropout would make trainer and sampler disagree about the same token
    typed_model.requires_grad_(True)
    return Loaded(typed_model, typed_tokenizer)


def end_token_ids(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Every id that ends a completion: the generation config may name several (chat models do)."""
    named = getattr(model.generation_config, "eos_token_id", None)
    ids = {int(i) for i in ([named] if isinstance(named, int) else named or [])}
    ids.add(int(cast(int, tokenizer.eos_token_id)))
    return tuple(sorted(ids))


def _looks_like_a_path(name: str) -> bool:
    return name.startswith((".", "/", "~")) or name.count("/") > 1 or Path(name).is_dir()

"""A tiny policy with adapters: as a run builds it, and with factors that are no longer the start's."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from transformers import PreTrainedModel

from critique_rl.config.policy import LoraConfig
from critique_rl.policy.adapters import add_adapters
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.step import StepConfig
from critique_rl.policy.teacher import TargetScorer
from tests.tiny import step_config, tiny_model, tiny_tokenizer

RANK, ALPHA = 3, 6.0


def lora_policy(
    config: StepConfig | None = None,
    *,
    rank: int = RANK,
    alpha: float = ALPHA,
    moved: bool = False,
    served: TargetScorer | None = None,
) -> HFPolicy:
    """A policy with adapters beside every linear layer but the head; `moved`: B is random, too."""
    model = tiny_model()
    add_adapters(model, LoraConfig(rank=rank, alpha=alpha))
    if moved:
        move(model)
    return HFPolicy(model, tiny_tokenizer(), Accelerator(cpu=True), config or step_config(), served=served)


def move(model: PreTrainedModel, *, seed: int = 5) -> None:
    """Random factors B, as after much training."""
    rng = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            weight.data = 0.3 * torch.randn(weight.shape, generator=rng, dtype=weight.dtype)


def base_weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Copies of every weight that adapters must never change."""
    return {name: weight.clone() for name, weight in model.state_dict().items() if "lora_" not in name}

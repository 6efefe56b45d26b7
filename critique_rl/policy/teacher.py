"""Whose weights the teacher has: the policy's own, those it started with, or their slow average.

Owns: when the average follows the policy, and its file in a checkpoint. Must not know: contexts, directives, the loss.
Adapters are not averaged: the average of a product is not the product of its factors' averages.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from critique_rl.config.algorithm import EMA_EVERY, EMA_RATE, DistillationConfig
from critique_rl.errors import ConfigError

EMA_FILE = "teacher.safetensors"


class Teacher:
    """The model that re-scores attempts. `model` is the policy itself where `teacher = "live"`, else a copy of it."""

    def __init__(self, policy: PreTrainedModel, config: DistillationConfig) -> None:
        """Copies the policy as it is now. Errors: ConfigError for the average of a policy with adapters."""
        self.kind = config.teacher
        self.rate = EMA_RATE if config.ema_rate is None else config.ema_rate
        self.every = EMA_EVERY if config.ema_every is None else config.ema_every
        if self.kind == "ema" and hasattr(policy, "peft_config"):
            raise ConfigError(
                "distillation.teacher = 'ema' came with a policy that has adapters; wanted one whose full weights are "
                "trained: choose 'frozen' or 'live', or train without adapters"
            )
        self._policy = policy
        self.model = policy if self.kind == "live" else copy.deepcopy(policy).requires_grad_(False)
        if self.kind == "ema":
            for weight in self.model.parameters():  # a slow average moves by less than bfloat16 can show
                weight.data = weight.data.to(torch.promote_types(weight.dtype, torch.float32))

    @torch.no_grad()
    def follow(self, *, applied: bool, steps_taken: int) -> bool:
        """After a step: theta_T <- (1 - rate) theta_T + rate theta, if the step was applied and a refresh is due.

        A skipped step is refused: its weights were averaged in already. Due is every `ema_every`-th applied step of the
        whole run (`steps_taken`), so that a resumed run refreshes at the same ones. -> whether it did.
        The regularised self-teacher of arXiv 2601.20802.
        """
        if self.kind != "ema" or not applied or steps_taken % self.every:
            return False
        for mine, theirs in zip(self.model.parameters(), self._policy.parameters(), strict=True):
            mine.lerp_(theirs.to(mine.dtype), self.rate)
        return True

    def save(self, directory: Path) -> None:
        """Write the average beside the policy; the other kinds are rebuilt from the policy. Errors: as they come."""
        if self.kind == "ema":
            weights = {name: weight.detach().cpu().contiguous() for name, weight in self._weights().items()}
            save_file(weights, directory / EMA_FILE)

    @torch.no_grad()
    def restore(self, directory: Path) -> None:
        """Take up what `save` wrote, bit for bit. Errors: OSError, SafetensorError, or ValueError for other weights."""
        if self.kind != "ema":
            return
        weights, saved = self._weights(), load_file(directory / EMA_FILE)
        differing = sorted(
            name
            for name in weights.keys() | saved.keys()
            if name not in weights
            or name not in saved
            or (weights[name].shape, weights[name].dtype) != (saved[name].shape, saved[name].dtype)
        )
        if differing:
            raise ValueError(f"{EMA_FILE} does not fit the policy at {len(differing)} weights, first {differing[0]!r}")
        for name, weight in weights.items():
            weight.copy_(saved[name])

    def _weights(self) -> Mapping[str, torch.Tensor]:
        return dict(self.model.named_parameters())  # tied weights once

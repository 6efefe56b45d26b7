"""Whose weights the teacher has: the policy's own, those it started with, their slow average, or another model's.

Owns: when the average follows the policy, and its file in a checkpoint. Must not know: contexts, directives, the loss.
Adapters are merged before they are averaged: the average of a product is not the product of its factors' averages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from critique_rl.config.algorithm import EMA_EVERY, EMA_RATE, DistillationConfig
from critique_rl.ops.low_rank import merged_weights
from critique_rl.policy.adapters import adapters_off, has_adapters, merged_copy
from critique_rl.policy.scoring import Scorer
from critique_rl.types import Array, TeacherTargets, TokenIds

EMA_FILE = "teacher.safetensors"


class TargetScorer(Protocol):
    """Scores attempts as a teacher: a model of this process, or one behind a server."""

    def topk(
        self,
        contexts: Sequence[TokenIds],
        completions: Sequence[TokenIds],
        *,
        k: int,
        support: Sequence[TeacherTargets] | None,
    ) -> list[TeacherTargets]:
        """Log-probs at the ids of `support`, or at the teacher's own top-K, for every completion token."""
        ...


class BaseScorer:
    """Scores with the policy's own model, its adapters switched off: what it was when the run began."""

    def __init__(self, scorer: Scorer, policy: PreTrainedModel) -> None:
        self._scorer = scorer
        self._policy = policy

    def logprobs(self, contexts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> list[Array]:
        with adapters_off(self._policy):
            return self._scorer.logprobs(contexts, completions)

    def topk(
        self,
        contexts: Sequence[TokenIds],
        completions: Sequence[TokenIds],
        *,
        k: int,
        support: Sequence[TeacherTargets] | None,
    ) -> list[TeacherTargets]:
        with adapters_off(self._policy):
            return self._scorer.topk(contexts, completions, k=k, support=support)


class Teacher:
    """The weights that re-score attempts. `model` is a copy of the policy for "ema", and for "frozen" without adapters;
    else it is the policy itself: "frozen" then reads it through `BaseScorer`, and "served" not at all."""

    def __init__(self, policy: PreTrainedModel, config: DistillationConfig) -> None:
        """Copies the policy as it is now, if a copy is needed."""
        self.kind = config.teacher
        self.rate = EMA_RATE if config.ema_rate is None else config.ema_rate
        self.every = EMA_EVERY if config.ema_every is None else config.ema_every
        self._policy = policy
        copied = self.kind == "ema" or (self.kind == "frozen" and not has_adapters(policy))
        self.model = merged_copy(policy).requires_grad_(False) if copied else policy
        if self.kind == "ema":
            for weight in self.model.parameters():  # a slow average moves by less than bfloat16 can show
                weight.data = weight.data.to(torch.promote_types(weight.dtype, torch.float32))

    @torch.no_grad()
    def follow(
        self, *, applied: bool, steps_taken: int, policy: PreTrainedModel | None = None, due: bool | None = None
    ) -> bool:
        """After a step: theta_T <- (1 - rate) theta_T + rate theta, if the step was applied and a refresh is due.

        theta are the weights of `policy` (None: of the model that was given at first) with its adapters merged in. A
        skipped step is refused: its weights were averaged in already. Where `due` does not say, it is every
        `ema_every`-th applied step of the whole run (`steps_taken`), so that a resumed run refreshes at the same ones.
        -> whether it did. The regularised self-teacher of arXiv 2601.20802.
        """
        due = not steps_taken % self.every if due is None else due
        if self.kind != "ema" or not applied or not due:
            return False
        mine = self._weights()
        for name, theirs in merged_weights(self._policy if policy is None else policy):
            if name in mine:  # neither buffers nor the second name of a tied weight
                mine[name].lerp_(theirs.to(mine[name].dtype), self.rate)
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

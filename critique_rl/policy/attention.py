"""Segments as an attention of transformers: registered under a name of its own, which a model is switched to.

Owns: the switch. Without `segments` in a forward pass it is transformers' "sdpa" itself, bit for bit: padded batches,
generation with a cache. Must not know: batching, heads.
Legend: T tokens of the row, H heads, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from critique_rl.policy.segments import Segments, attend_by_segment
from critique_rl.policy.varlen import Kernel, attend_with_kernel, torch_kernel

NAME = "critique_rl_segments"
UNREAD = ("softcap", "s_aux", "position_bias", "cache")
"""What some models hand to their attention, and this one cannot do."""

_SDPA = cast("Callable[..., tuple[Tensor, None]]", sdpa_attention_forward)


def segmented_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    segments: Segments | None = None,
    **kwargs: object,
) -> tuple[Tensor, None]:
    """transformers' signature: [1, H, T, D] -> [1, T, H, D]; with `segments` the mask is not read.

    Errors: ValueError for what a model wants of its attention beyond causality, scale, window and dropout.
    """
    if segments is None:
        return _SDPA(
            module,
            query,
            key,
            value,
            attention_mask,
            dropout=dropout,
            scaling=scaling,
            sliding_window=sliding_window,
            **kwargs,
        )
    wanted = [name for name in UNREAD if kwargs.get(name) is not None]
    causal = kwargs.get("is_causal")
    if not (getattr(module, "is_causal", True) if causal is None else causal):
        wanted.append("no causality")
    if wanted:
        raise ValueError(
            f"{type(module).__name__} asks its attention for {wanted}, which packed sequences do not have; wanted "
            "plain causal attention: take layout 'padded' for this model"
        )
    segments.read_by.add(id(module))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    kernel = kernel_for(query.device) if dropout == 0 else None
    attended = None
    if kernel is not None:
        attended = attend_with_kernel(kernel, query, key, value, segments, scale=scale, window=sliding_window)
    if attended is None:
        attended = attend_by_segment(query, key, value, segments, scale=scale, window=sliding_window, dropout=dropout)
    return attended.transpose(1, 2).contiguous(), None


def kernel_for(device: torch.device) -> Kernel | None:
    """torch's flash kernel on CUDA; elsewhere the plain form does."""
    return torch_kernel() if device.type == "cuda" else None


def can_read_segments(model: PreTrainedModel) -> bool:
    """Switch the model to the attention above if its own is "sdpa"; whether it is switched now."""
    if _name_of(model) == "sdpa":
        model.set_attn_implementation(NAME)
    return _name_of(model) == NAME


def without_segments(model: PreTrainedModel) -> None:
    """Switch the model back."""
    if _name_of(model) == NAME:
        model.set_attn_implementation("sdpa")


def _name_of(model: PreTrainedModel) -> str | None:
    return model.config._attn_implementation  # pyright: ignore[reportPrivateUsage]


AttentionInterface.register(NAME, segmented_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)

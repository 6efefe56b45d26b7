"""Segments on torch's variable-length flash kernel, once it has been seen to compute what the plain form computes.

Owns: how the kernel is called, and its proof: on the first use without gradient, a few random tokens go through kernel
and plain form, forward and backward. That settles what its documentation leaves open: whether causality counts from the
last key where queries are fewer. Must not know: models, batches.
Legend: T tokens of the row, K keys, H heads, D head size.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor

from critique_rl.policy.segments import Segments, Span, attend_by_segment, segments_of

Kernel = Callable[..., Tensor]
CLOSE = 0.05
"""Largest error of the kernel in 16 bits against the plain form in 32, over the largest number that comes out."""


class Shape(NamedTuple):
    """What a proof holds for."""

    kernel: Kernel
    device: torch.device
    dtype: torch.dtype
    heads: int
    key_heads: int
    head_size: int
    windowed: bool


_proven: dict[Shape, bool] = {}


def torch_kernel() -> Kernel | None:
    """torch's own kernel, or None where this torch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return cast(Kernel, varlen_attn)


def attend_with_kernel(
    kernel: Kernel,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segments: Segments,
    *,
    scale: float,
    window: int | None = None,
) -> Tensor | None:
    """As `attend_by_segment` without dropout; None where the kernel cannot do it or is not proven to be right."""
    dtype = _compute_type(query)
    shape = Shape(kernel, query.device, dtype, query.shape[1], key.shape[1], query.shape[3], window is not None)
    if dtype not in (torch.bfloat16, torch.float16) or value.shape != key.shape or not 0 < query.shape[3] <= 256:
        return None
    # A proof while gradients are on could run inside a checkpointed layer, which would count its tensors as its own.
    if shape not in _proven and not torch.is_grad_enabled():
        _proven[shape] = _is_right(shape)
    if not _proven.get(shape, False):
        return None
    return _call(kernel, query.to(dtype), key.to(dtype), value.to(dtype), segments, scale, window)


def _compute_type(query: Tensor) -> torch.dtype:
    """Rotary embeddings widen queries under autocast, which knows attention but not this kernel."""
    device = query.device.type
    narrow = query.dtype == torch.float32 and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if narrow else query.dtype


def _call(
    kernel: Kernel, query: Tensor, key: Tensor, value: Tensor, segments: Segments, scale: float, window: int | None
) -> Tensor:
    """Errors: TypeError for a kernel that lacks what is wanted."""
    options = inspect.signature(kernel).parameters
    query_THD, key_KHD, value_KHD = (x[0].transpose(0, 1) for x in (query, key, value))
    if segments.keys_K is not None:
        key_KHD, value_KHD = (x.index_select(0, segments.keys_K) for x in (key_KHD, value_KHD))
    wanted: dict[str, object] = {"scale": scale, "window_size": (-1 if window is None else window - 1, 0)}
    if query.shape[1] != key.shape[1] and "enable_gqa" in options:
        wanted["enable_gqa"] = True
    elif query.shape[1] != key.shape[1]:
        groups = query.shape[1] // key.shape[1]
        key_KHD, value_KHD = (x.repeat_interleave(groups, dim=1) for x in (key_KHD, value_KHD))
    if "window_size" not in options and window is None:  # an older form
        wanted["is_causal"] = True
        del wanted["window_size"]
    attended_THD = kernel(
        query_THD.contiguous(),
        key_KHD.contiguous(),
        value_KHD.contiguous(),
        segments.query_starts,
        segments.key_starts,
        segments.longest_query,
        segments.longest_key,
        **wanted,
    )
    return attended_THD.transpose(0, 1)[None]


def _is_right(shape: Shape) -> bool:
    """Whether a shared prompt, two sequences that go on from it and a lone one come out right, gradients included."""
    spans = [Span(7), Span(4, 7, 0), Span(1, 7, 0), Span(6)]
    segments = segments_of(spans, shape.device)
    draw = torch.Generator().manual_seed(0)
    window, scale = (3 if shape.windowed else None), shape.head_size**-0.5
    with torch.inference_mode(False), torch.enable_grad(), torch.autocast(shape.device.type, enabled=False):
        query, key, value, upstream = (
            torch.randn(1, heads, sum(segments.lengths), shape.head_size, generator=draw).to(shape.device, shape.dtype)
            for heads in (shape.heads, shape.key_heads, shape.key_heads, shape.heads)
        )
        narrow = [x.requires_grad_() for x in (query, key, value)]
        wide = [x.detach().float().requires_grad_() for x in narrow]
        try:
            found = _call(shape.kernel, query, key, value, segments, scale, window)
            found_parts = [found, *torch.autograd.grad(found, narrow, upstream)]
        except (TypeError, ValueError, RuntimeError):  # no such option, or a device that it does not know
            return False
        wanted = attend_by_segment(wide[0], wide[1], wide[2], segments, scale=scale, window=window)
        wanted_parts = [wanted, *torch.autograd.grad(wanted, wide, upstream.float())]
    pairs = zip(found_parts, wanted_parts, strict=True)
    return all(bool((a.float() - b).abs().max() <= CLOSE * b.abs().max()) for a, b in pairs)

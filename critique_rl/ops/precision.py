"""Dtype promotion and shape checks for tensor mathematics.

Owns: the rule that every reduction happens in float32 or wider (float64 stays float64), and equal-shape errors.
"""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(values: Tensor) -> Tensor:
    """`values` as float32 if it is narrower or not floating point; float32 and float64 come back unchanged."""
    if values.dtype in (torch.float32, torch.float64):
        return values
    return values.to(torch.float32)


def require_same_shape(**tensors: Tensor) -> None:
    """Raise ValueError, naming every tensor and its shape, unless all shapes are equal."""
    if len({tuple(tensor.shape) for tensor in tensors.values()}) > 1:
        found = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
        raise ValueError(f"shapes differ: {found}; these tensors must have one shape, nothing is broadcast")

"""Gradient checkpointing: each decoder layer is computed again in the backward pass, so its insides are not kept.

Owns: which layers, and when. Must not know: training.
Trap: transformers recomputes only in training mode, in which some layers drop out, and takes the cache away from
`generate`, which then reads one token where it should read them all. Here it is the gradient that decides: a pass
without one is left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from critique_rl.errors import ModelError


def recompute_layers(model: PreTrainedModel) -> None:
    """Have every decoder layer keep its input only and run again in the backward pass; gradients stay the same.

    arXiv 1604.06174. Errors: ModelError for an architecture without layers that can be run again.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise ModelError(
            f"policy.gradient_checkpointing: {type(model).__name__} has no layers that transformers can run again; "
            "set it to false"
        )
    for layer in layers:
        # No closure: a deep copy of one would go on calling this very layer, and a teacher is a deep copy.
        layer.forward = partial(_recomputed, layer.forward)


def _recomputed(forward: Callable[..., object], *args: object, **kwargs: object) -> object:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    # In eval mode nothing random is drawn, so no random state needs to be kept for the second run.
    return checkpoint(partial(forward, **kwargs), *args, use_reentrant=False, preserve_rng_state=False)

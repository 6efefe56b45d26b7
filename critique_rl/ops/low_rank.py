"""Low-rank adapters as tensors: a model's weights under the names, and with the values, that they have once merged.

Owns: W + s B A of each adapted layer, made beside the live model, which is never changed. Must not know: peft (a layer
with adapters is known by what it can do), files, training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol, cast

import torch
from torch import Tensor

_BASE, _FACTOR = ".base_layer.", ".lora_"


class AdaptedLayer(Protocol):
    """A layer that holds its own weight as `base_layer` and the factors of what is added to it."""

    @property
    def active_adapters(self) -> Sequence[str]: ...

    def get_base_layer(self) -> torch.nn.Module: ...

    def get_delta_weight(self, adapter: str) -> Tensor:
        """s B A in the shape of the layer's weight."""
        ...


def adapted_layers(model: torch.nn.Module) -> dict[str, AdaptedLayer]:
    """The layers of a model that hold adapters, by name; empty if it has none."""
    return {
        name: cast(AdaptedLayer, module)
        for name, module in model.named_modules()
        if hasattr(module, "base_layer") and hasattr(module, "get_delta_weight")
    }


@torch.no_grad()
def merged_weights(model: torch.nn.Module, *, device: torch.device | None = None) -> Iterator[tuple[str, Tensor]]:
    """The state of a model as one without adapters would have it: (name, W + s B A) or (name, W), one at a time.

    Sums are made in the wider of both types and moved to `device` if one is named; every other tensor is the live one,
    detached, so that tied weights are still seen to be tied. Without adapters this is the model's own state. Adapters
    count even while they are switched off. arXiv 2106.09685.
    """
    layers = adapted_layers(model)
    for name, weight in model.state_dict().items():
        layer_name, _, rest = name.rpartition(_BASE)
        layer = layers.get(layer_name)
        if layer is None:
            if name.partition(_FACTOR)[0] not in layers:
                yield name, weight
            continue
        if rest != "weight":
            yield f"{layer_name}.{rest}", weight
            continue
        for adapter in layer.active_adapters:
            weight = weight + layer.get_delta_weight(adapter)
        yield f"{layer_name}.weight", weight if device is None else weight.to(device)

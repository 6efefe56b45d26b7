"""A model's weights with its adapters merged in: by hand, beside the live model, under the names of a bare one."""

from __future__ import annotations

import torch

from critique_rl.ops.low_rank import adapted_layers, merged_weights


class Adapted(torch.nn.Module):
    """A linear layer with one pair of factors, as an adapter library makes it."""

    active_adapters = ("default",)

    def __init__(self, base: torch.nn.Linear, rank: int, scale: float) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = torch.nn.ModuleDict({"default": torch.nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = torch.nn.ModuleDict({"default": torch.nn.Linear(rank, base.out_features, bias=False)})
        self.scale = scale

    def get_base_layer(self) -> torch.nn.Module:
        return self.base_layer

    def get_delta_weight(self, adapter: str) -> torch.Tensor:
        return self.scale * self.lora_B[adapter].weight @ self.lora_A[adapter].weight  # pyright: ignore[reportOperatorIssue]


def model_of(layer: torch.nn.Module) -> torch.nn.Module:
    model = torch.nn.Module()
    model.embed = torch.nn.Embedding(3, 2)
    model.inner = torch.nn.ModuleDict({"proj": layer})
    model.head = torch.nn.Linear(2, 3, bias=False)
    model.head.weight = model.embed.weight
    model.register_buffer("steps", torch.tensor(7))
    return model


def test_the_product_is_scaled_and_added() -> None:
    # W = [[1, 2]], B = [[3]], A = [[.5, -1]], s = 2: W + 2 * 3 * [.5, -1] = [4, -4]; the bias stays
    layer = Adapted(torch.nn.Linear(2, 1), 1, 2.0)
    layer.base_layer.weight.data = torch.tensor([[1.0, 2.0]])
    layer.base_layer.bias.data = torch.tensor([9.0])
    layer.lora_A["default"].weight.data = torch.tensor([[0.5, -1.0]])
    layer.lora_B["default"].weight.data = torch.tensor([[3.0]])
    merged = dict(merged_weights(model_of(layer)))
    assert merged["inner.proj.weight"].tolist() == [[4.0, -4.0]]
    assert merged["inner.proj.bias"].tolist() == [9.0]
    assert merged["steps"].item() == 7
    assert layer.base_layer.weight.tolist() == [[1.0, 2.0]]  # the live layer is as it was
    assert not any(weight.requires_grad for weight in merged.values())


def test_the_names_are_those_of_a_model_without_adapters() -> None:
    plain = model_of(torch.nn.Linear(2, 4))
    adapted = model_of(Adapted(torch.nn.Linear(2, 4), 1, 1.0))
    assert list(adapted_layers(adapted)) == ["inner.proj"] and adapted_layers(plain) == {}
    assert [name for name, _ in merged_weights(adapted)] == list(plain.state_dict())


def test_without_adapters_it_is_the_models_own_state() -> None:
    plain = model_of(torch.nn.Linear(2, 4))
    for name, weight in merged_weights(plain, device=torch.device("cpu")):
        assert weight.data_ptr() == plain.state_dict()[name].data_ptr()


def test_tied_weights_are_still_seen_to_be_tied() -> None:
    merged = dict(merged_weights(model_of(Adapted(torch.nn.Linear(2, 4), 1, 1.0)), device=torch.device("cpu")))
    assert merged["embed.weight"].data_ptr() == merged["head.weight"].data_ptr()


def test_a_sum_is_made_in_the_wider_type() -> None:
    # 1 + 2^-10 needs eleven bits, and bfloat16 has eight
    layer = Adapted(torch.nn.Linear(1, 1, bias=False, dtype=torch.bfloat16), 1, 1.0)
    layer.base_layer.weight.data.fill_(1.0)
    layer.lora_A["default"].weight.data.fill_(2**-5)
    layer.lora_B["default"].weight.data.fill_(2**-5)
    (weight,) = [w for name, w in merged_weights(model_of(layer)) if name == "inner.proj.weight"]
    assert weight.dtype == torch.float32 and weight.item() == 1 + 2**-10

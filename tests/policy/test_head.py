"""The short path from hidden states to logits is taken only where it equals the model's own forward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM, PreTrainedModel

from critique_rl.policy.batching import MicroBatch, micro_batches
from critique_rl.policy.head import ResponseHead
from tests.tiny import V, tiny_model

SIZES = {
    "vocab_size": V,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
}


def gemma2(cap: float | None) -> PreTrainedModel:
    config = Gemma2Config(**SIZES, head_dim=8, final_logit_softcapping=cap)  # pyright: ignore[reportArgumentType]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Gemma2ForCausalLM(config).eval()


def cohere(scale: float) -> PreTrainedModel:
    config = CohereConfig(**SIZES, logit_scale=scale)  # pyright: ignore[reportArgumentType]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CohereForCausalLM(config).eval()


def batch() -> MicroBatch:
    rows = micro_batches(
        [(4, 5, 6), (7,)], [(8, 9), (10, 11, 12)], max_tokens=100, pad_id=0, device=torch.device("cpu")
    )
    return next(rows)


@torch.no_grad()
def own_logits(model: PreTrainedModel, packed: MicroBatch) -> torch.Tensor:
    logits_BTV = model(input_ids=packed.input_ids_BT, attention_mask=packed.attention_BT).logits
    return logits_BTV.flatten(0, 1)[packed.predicts_N]


@torch.no_grad()
def test_a_plain_head_takes_the_short_path() -> None:
    model = tiny_model()
    head = ResponseHead(model)
    assert head.exact
    packed = batch()
    torch.testing.assert_close(head.logits(packed), own_logits(model, packed), rtol=1e-12, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize(("build", "number"), [(gemma2, 30.0), (gemma2, 1.0), (cohere, 0.0625)])
def test_capped_or_scaled_logits_take_the_models_own(build: Callable[[float], PreTrainedModel], number: float) -> None:
    # untrained logits are of size .1, where a cap of 30 changes them by a millionth: enough to notice
    model = build(number)
    head = ResponseHead(model)
    assert not head.exact
    packed = batch()
    assert torch.equal(head.logits(packed), own_logits(model, packed))


def test_the_same_architectures_without_cap_or_scale_are_exact() -> None:
    assert ResponseHead(gemma2(None)).exact
    assert ResponseHead(cohere(1.0)).exact

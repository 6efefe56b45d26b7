"""The short path from hidden states to logits is taken only where it equals the model's own forward."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import CohereConfig, CohereForCausalLM, Gemma2Config, Gemma2ForCausalLM, PreTrainedModel

from critique_rl.ops.fused import HeadTerms, dense_terms
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


def read(head: ResponseHead, packed: MicroBatch) -> HeadTerms:
    return head(
        packed, temperature=0.7, rows_M=torch.tensor([0, 3]), ids_MK=torch.tensor([[5, 6], [7, 8]]), entropy=True
    )


def read_densely(logits_NV: torch.Tensor, packed: MicroBatch) -> HeadTerms:
    return dense_terms(
        logits_NV,
        packed.response_N,
        temperature=0.7,
        rows_M=torch.tensor([0, 3]),
        ids_MK=torch.tensor([[5, 6], [7, 8]]),
        entropy=True,
    )


def weight_gradient(model: PreTrainedModel, terms: HeadTerms) -> torch.Tensor:
    assert terms.entropy_N is not None
    total = terms.logprobs_N.sum() + 2 * terms.support_MK.sum() + 3 * terms.entropy_N.sum()
    parts = torch.autograd.grad(total, list(model.parameters()))
    return torch.cat([part.flatten() for part in parts])


def tied(model: PreTrainedModel) -> PreTrainedModel:
    model.get_output_embeddings().weight = model.get_input_embeddings().weight  # pyright: ignore
    return model


def watched(model: PreTrainedModel) -> PreTrainedModel:
    """With a hook on the head, which a plain matmul would not call."""
    model.get_output_embeddings().register_forward_hook(lambda module, args, logits: 2 * logits)
    return model


@pytest.mark.parametrize("chunk_bytes", [1, 3 * 8 * V, None])
@pytest.mark.parametrize("change", [lambda model: model, tied], ids=["own", "tied"])
def test_the_short_path_reads_in_chunks_what_whole_logits_say(
    change: Callable[[PreTrainedModel], PreTrainedModel], chunk_bytes: int | None
) -> None:
    model, packed = change(tiny_model()), batch()
    head = ResponseHead(model, chunk_bytes=chunk_bytes)
    assert head.exact and head.fused
    own_NV = model(input_ids=packed.input_ids_BT, attention_mask=packed.attention_BT).logits.flatten(0, 1)
    got, wanted = read(head, packed), read_densely(own_NV[packed.predicts_N], packed)
    torch.testing.assert_close(got, wanted, rtol=0, atol=1e-12)
    torch.testing.assert_close(weight_gradient(model, got), weight_gradient(model, wanted), rtol=0, atol=1e-10)
    top = head.topk(packed, 3, temperature=0.7)
    expected = (own_NV[packed.predicts_N] / 0.7).log_softmax(-1).topk(3)
    assert torch.equal(top.ids_NK, expected.indices)
    torch.testing.assert_close(top.topk_NK, expected.values.detach(), rtol=0, atol=1e-12)
    torch.testing.assert_close(top.logprobs_N, got.logprobs_N.detach(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("build", [lambda: gemma2(1.0), lambda: cohere(0.0625), lambda: watched(tiny_model())])
def test_where_chunks_would_be_wrong_whole_logits_are_read(build: Callable[[], PreTrainedModel]) -> None:
    model, packed = build(), batch()
    head = ResponseHead(model, chunk_bytes=1)
    assert not head.fused
    own_NV = own_logits(model, packed)
    torch.testing.assert_close(read(head, packed), read_densely(own_NV, packed), rtol=1e-6, atol=1e-6)
    assert torch.equal(head.topk(packed, 3, temperature=0.7).ids_NK, own_NV.topk(3).indices)
    assert weight_gradient(model, read(head, packed)).norm() > 0


def test_under_autocast_the_head_multiplies_narrow_and_sums_wide() -> None:
    model, packed = tiny_model(dtype=torch.float32), batch()
    head = ResponseHead(model, chunk_bytes=1)
    with torch.autocast("cpu", torch.bfloat16):
        got = read(head, packed)
        whole_NV = head.logits(packed)
    assert whole_NV.dtype == torch.bfloat16 and got.logprobs_N.dtype == torch.float32
    torch.testing.assert_close(got, read_densely(whole_NV, packed), rtol=0, atol=1e-5)
    exact = weight_gradient(model, read(head, packed))
    narrow = weight_gradient(model, got)
    assert narrow.dtype == torch.float32
    assert 0 < (narrow - exact).norm() < 0.05 * exact.norm()


def test_the_same_architectures_without_cap_or_scale_are_exact() -> None:
    assert ResponseHead(gemma2(None)).exact
    assert ResponseHead(cohere(1.0)).exact

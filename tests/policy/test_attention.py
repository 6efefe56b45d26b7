"""The attention registered with transformers: "sdpa" itself without segments, and a clear no to what it cannot do."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaForCausalLM

import critique_rl.policy.attention as attention
from critique_rl.policy.attention import NAME, can_read_segments, segmented_attention, without_segments
from critique_rl.policy.batching import micro_batches
from critique_rl.policy.head import ResponseHead
from critique_rl.policy.segments import Span, segments_of
from tests.policy.test_varlen import plain_kernel
from tests.tiny import tiny_model

IDS_BT = torch.tensor([[4, 5, 6, 7, 8], [9, 10, 11, 0, 0]])
MASK_BT = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])


def switched() -> LlamaForCausalLM:
    model = tiny_model()
    assert can_read_segments(model)
    return model


def gradients(model: LlamaForCausalLM, **inputs: Tensor) -> list[Tensor]:
    logits = model(**inputs).logits
    return [logits.detach(), *torch.autograd.grad(logits.square().sum(), list(model.parameters()))]


@pytest.mark.parametrize("padded", [True, False])
def test_without_segments_it_is_sdpa_bit_for_bit(padded: bool) -> None:
    inputs = {"input_ids": IDS_BT, **({"attention_mask": MASK_BT} if padded else {})}
    for a, b in zip(gradients(tiny_model(), **inputs), gradients(switched(), **inputs), strict=True):
        assert torch.equal(a, b)


def test_generation_with_a_cache_stays_as_it_is() -> None:
    def sampled(model: LlamaForCausalLM) -> tuple[Tensor, Tensor]:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            out = model.generate(
                IDS_BT.flip(1),
                attention_mask=MASK_BT.flip(1),
                max_new_tokens=6,
                do_sample=True,
                output_scores=True,
                return_dict_in_generate=True,
                pad_token_id=0,
            )
        return out.sequences, torch.stack(out.scores)  # pyright: ignore[reportAttributeAccessIssue]

    for a, b in zip(sampled(tiny_model()), sampled(switched()), strict=True):
        assert torch.equal(a, b)


def test_a_saved_model_does_not_name_it(tmp_path: Path) -> None:
    switched().save_pretrained(tmp_path)
    assert NAME not in (tmp_path / "config.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


def test_a_model_is_switched_once_and_back() -> None:
    model = switched()
    assert can_read_segments(model)
    without_segments(model)
    without_segments(model)
    assert model.config._attn_implementation == "sdpa"
    model.set_attn_implementation("eager")
    assert not can_read_segments(model)
    assert model.config._attn_implementation == "eager"


@pytest.mark.parametrize("asked", [{"softcap": 30.0}, {"s_aux": torch.zeros(2)}, {"is_causal": False}])
def test_what_segments_cannot_do_is_refused(asked: dict[str, object]) -> None:
    query = torch.zeros(1, 2, 3, 4)
    segments = segments_of([Span(3)], torch.device("cpu"))
    with pytest.raises(ValueError, match="take layout 'padded'"):
        segmented_attention(torch.nn.Identity(), query, query, query, None, segments=segments, **asked)  # pyright: ignore[reportArgumentType]


def test_the_kernel_and_the_plain_form_say_the_same_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on CUDA, with a fake kernel; under autocast rotary embeddings leave queries wider than it takes."""
    model = tiny_model(dtype=torch.float32)
    head, kernel = ResponseHead(model), plain_kernel()
    prompts, completions = [(4, 5, 6), (7,), (4, 5, 6)], [(8, 9), (10, 11, 12), (13, 14, 15, 16)]
    (batch,) = micro_batches(prompts, completions, max_tokens=99, pad_id=0, device=torch.device("cpu"), layout="prefix")
    with torch.autocast("cpu", torch.bfloat16):
        wanted = head(batch, temperature=1.0).logprobs_N
        monkeypatch.setattr(attention, "kernel_for", lambda device: kernel)
        with torch.no_grad():
            first = head(batch, temperature=1.0).logprobs_N
        found = head(batch, temperature=1.0).logprobs_N
    assert torch.equal(first, found)
    assert not torch.equal(wanted, found)  # another order of sums: the kernel was used
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.1)
    parameters = list(model.parameters())
    flat = [torch.cat([g.flatten() for g in torch.autograd.grad(x.sum(), parameters)]) for x in (found, wanted)]
    assert (flat[0] - flat[1]).norm() < 0.05 * flat[1].norm()

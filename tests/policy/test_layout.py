"""A layout is used only where the model computes in it what it computes padded; else one warning, and a plainer one."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor
from transformers import (
    FalconH1Config,
    FalconH1ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
)

import critique_rl.policy.attention as attention
from critique_rl.errors import ModelError
from critique_rl.policy.attention import NAME
from critique_rl.policy.batching import Layout, micro_batches
from critique_rl.policy.head import ResponseHead
from critique_rl.policy.layout import LONGEST_WINDOW, usable_layout
from critique_rl.policy.segments import Segments, attend_by_segment
from tests.policy.test_layouts import SIZES, built
from tests.tiny import tiny_model


def mistral(**options: object) -> PreTrainedModel:
    return built(lambda: MistralForCausalLM(MistralConfig(**{**SIZES, **options})))  # pyright: ignore[reportArgumentType]


def gpt2() -> PreTrainedModel:
    """Learned positions, dropout."""
    return built(lambda: GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2)))


def falcon() -> PreTrainedModel:
    """Attention beside a recurrence."""
    options: Mapping[str, object] = {**SIZES, "mamba_d_ssm": 16, "mamba_n_heads": 2, "mamba_d_head": 8}
    return built(lambda: FalconH1ForCausalLM(FalconH1Config(**options)))  # pyright: ignore[reportArgumentType]


def deaf() -> PreTrainedModel:
    """Swallows what it does not know."""
    model = tiny_model()
    body = model.model.forward

    def forward(input_ids: Tensor, attention_mask: Tensor, use_cache: bool, **others: object) -> object:
        return body(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    model.model.forward = forward
    return model


def half_deaf() -> PreTrainedModel:
    """Only its first layer hears of segments."""
    model = tiny_model()
    layer = model.model.layers[1]
    layer.forward = lambda *args, forward=layer.forward, segments=None, **kwargs: forward(*args, **kwargs)
    return model


def eager() -> PreTrainedModel:
    model = tiny_model()
    model.set_attn_implementation("eager")
    return model


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "critique_rl.policy.layout"]


@pytest.mark.parametrize("layout", ["packed", "prefix"])
@pytest.mark.parametrize("build", [tiny_model, lambda: mistral(sliding_window=6), gpt2])
def test_models_that_are_right_keep_the_layout(
    build: Callable[[], PreTrainedModel], layout: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    model = build()
    head, random = ResponseHead(model), torch.get_rng_state()
    assert head.layout == "padded"
    assert usable_layout(head, layout) == head.layout == layout
    assert model.config._attn_implementation == NAME
    assert warnings(caplog) == []
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), random)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_difference(dtype: torch.dtype) -> None:
    head = ResponseHead(tiny_model(dtype=torch.float32))
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        assert usable_layout(head, "prefix") == "prefix"


REASONS = {
    "recurrent": (falcon, "layers of the kind hybrid"),
    "deaf": (deaf, "0 of its 2 layers"),
    "half deaf": (half_deaf, "1 of its 2 layers"),
    "eager": (eager, "cannot be switched"),
    "long window": (lambda: mistral(sliding_window=LONGEST_WINDOW + 1), f"window of {LONGEST_WINDOW + 1} tokens"),
}


@pytest.mark.parametrize(("build", "reason"), REASONS.values(), ids=REASONS.keys())
def test_models_that_are_not_fall_back_with_one_warning(
    build: Callable[[], PreTrainedModel], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = build()
    before = model.config._attn_implementation
    head = ResponseHead(model)
    assert usable_layout(head, "prefix") == head.layout == "padded"
    (warning,) = warnings(caplog)
    assert reason in warning and "padded layout, not the prefix one" in warning
    assert model.config._attn_implementation == before


def test_a_window_beyond_all_positions_is_none() -> None:
    model = mistral(sliding_window=LONGEST_WINDOW + 1, max_position_embeddings=128)
    assert usable_layout(ResponseHead(model), "packed") == "packed"


def wrong_about(what: str) -> Callable[..., Tensor]:
    """The plain form, but blind to windows, or to shared prompts."""

    def attend(query: Tensor, key: Tensor, value: Tensor, segments: Segments, **options: object) -> Tensor:
        if what == "prompts" and segments.keys_K is not None:
            raise RuntimeError("no shared prompts\nhere")
        if what == "windows":
            options["window"] = None
        return attend_by_segment(query, key, value, segments, **options)  # pyright: ignore[reportArgumentType]

    return attend


def test_a_forgotten_window_is_noticed(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(attention, "attend_by_segment", wrong_about("windows"))
    assert usable_layout(ResponseHead(mistral(sliding_window=6)), "prefix") == "padded"
    assert "log-probs differ from the padded layout's by up to" in caplog.text
    assert usable_layout(ResponseHead(tiny_model()), "prefix") == "prefix"


def test_where_only_shared_prompts_fail_rows_are_still_packed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(attention, "attend_by_segment", wrong_about("prompts"))
    head = ResponseHead(tiny_model())
    assert usable_layout(head, "prefix") == head.layout == "packed"
    assert "packed layout, not the prefix one: RuntimeError: no shared prompts" in caplog.text
    assert head.model.config._attn_implementation == NAME


def test_dropout_is_off_while_layouts_are_compared_and_on_again_afterwards() -> None:
    model = gpt2().train()
    model.transformer.wte.eval()  # pyright: ignore
    flags = [module.training for module in model.modules()]
    assert usable_layout(ResponseHead(model), "prefix") == "prefix"
    assert [module.training for module in model.modules()] == flags


@pytest.mark.parametrize("wanted", ["auto", "padded"])
def test_on_a_cpu_padding_stays_unless_asked_otherwise(wanted: str) -> None:
    head = ResponseHead(tiny_model())
    assert usable_layout(head, wanted) == head.layout == "padded"  # pyright: ignore[reportArgumentType]
    assert head.model.config._attn_implementation == "sdpa"


def test_a_packed_batch_for_a_model_that_cannot_is_an_error() -> None:
    (batch,) = micro_batches([(4,)], [(5, 6)], max_tokens=9, pad_id=0, device=torch.device("cpu"), layout="packed")
    with pytest.raises(ModelError, match=r"set optimizer\.layout = 'padded'"):
        ResponseHead(eager())(batch, temperature=1.0)

"""The same batch padded, packed and with shared prompts: equal log-probs, entropies, supports and gradients.

Legend: N response tokens of a micro-batch, T of one row, M of them with a support, K its ids.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, cast

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    GraniteConfig,
    GraniteForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from critique_rl.policy.batching import Layout, MicroBatch, micro_batches
from critique_rl.policy.head import ResponseHead
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.recompute import recompute_layers
from critique_rl.types import TokenIds, TrainSample
from tests.tiny import EOS, V, gradient, random_targets, sample, step_config, tiny_model, tiny_policy

CPU = torch.device("cpu")
K = 3
GROUPS: list[tuple[TokenIds, list[int]]] = [((4, 5, 6, 7, 8), [9, 1, 2, 17]), ((20,), [4]), ((9, 10), [1, 6, 6])]
PROMPTS: list[TokenIds] = [prompt for prompt, lengths in GROUPS for _ in lengths]
LENGTHS = [length for _, lengths in GROUPS for length in lengths]
LAYOUTS: Mapping[str, tuple[Layout, int, int]] = {
    "padded": ("padded", 10_000, 1),
    "padded in 8": ("padded", 1, 8),
    "packed": ("packed", 10_000, 1),
    "packed, split": ("packed", 23, 3),
    "prefix": ("prefix", 10_000, 1),
    "prefix, split": ("prefix", 23, 3),
}
"""Layout, token budget, and how many micro-batches that makes."""


def completions() -> list[TokenIds]:
    """Random words; every second one is ended by EOS."""
    draw = torch.Generator().manual_seed(3)
    drawn = [torch.randint(4, V, (length,), generator=draw).tolist() for length in LENGTHS]
    return [(*words[:-1], EOS) if i % 2 else tuple(words) for i, words in enumerate(drawn)]


COMPLETIONS = completions()


class Told(NamedTuple):
    """What was read of the rows, in the caller's order, and the gradient of a weighted sum of it."""

    logprobs: Tensor
    entropy: Tensor
    support: Tensor
    gradient: Tensor


def support_ids(row: int) -> Tensor:
    return torch.randint(0, V, (LENGTHS[row], K), generator=torch.Generator().manual_seed(row))


def read(head: ResponseHead, batch: MicroBatch) -> tuple[dict[int, Tensor], dict[int, Tensor], dict[int, Tensor]]:
    """By row: log-probs [T], entropies [T], and support log-probs [M, K] of every second token."""
    starts = torch.tensor([0, *batch.lengths]).cumsum(0)
    rows_M = torch.cat([torch.arange(0, n, 2) + s for n, s in zip(batch.lengths, starts[:-1], strict=True)])
    ids_MK = torch.cat([support_ids(i)[::2] for i in batch.rows])
    terms = head(batch, temperature=0.7, rows_M=rows_M, ids_MK=ids_MK, entropy=True)
    assert terms.entropy_N is not None
    thin = [(n + 1) // 2 for n in batch.lengths]
    parts = (terms.logprobs_N.split(batch.lengths), terms.entropy_N.split(batch.lengths), terms.support_MK.split(thin))
    return tuple(dict(zip(batch.rows, part, strict=True)) for part in parts)  # pyright: ignore[reportReturnType]


def tell(model: PreTrainedModel, layout: Layout, max_tokens: int, batches: int | None = None) -> Told:
    head = ResponseHead(model, chunk_bytes=7 * 8 * V)
    trained = [p for p in model.parameters() if p.requires_grad]
    cut = list(micro_batches(PROMPTS, COMPLETIONS, max_tokens=max_tokens, pad_id=0, device=CPU, layout=layout))
    assert batches is None or len(cut) == batches
    found: list[dict[int, Tensor]] = [{}, {}, {}]
    gradient = torch.zeros(sum(p.numel() for p in trained), dtype=torch.float64)
    for batch in cut:
        parts = read(head, batch)
        total = torch.zeros((), dtype=torch.float64)
        for weight, part, into in zip((1.0, 0.3, -0.2), parts, found, strict=True):
            for i, told in part.items():
                total = (
                    total
                    + weight * (torch.linspace(1, 2, told.shape[0])[(...,) + (None,) * (told.ndim - 1)] * told).sum()
                )
                into[i] = told.detach()
        grads = torch.autograd.grad(total, trained, allow_unused=True)
        gradient += torch.cat(
            [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(trained, grads, strict=True)]
        )
    return Told(*(torch.cat([part[i] for i in range(len(PROMPTS))]) for part in found), gradient)


SIZES = {
    "vocab_size": V,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": EOS,
}


def built(make: Callable[[], PreTrainedModel]) -> PreTrainedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().to(torch.float64).eval()  # pyright: ignore[reportArgumentType]


def qwen3(*, tied: bool) -> PreTrainedModel:
    return built(lambda: Qwen3ForCausalLM(Qwen3Config(**SIZES, head_dim=8, tie_word_embeddings=tied)))  # pyright: ignore[reportArgumentType]


def mistral() -> PreTrainedModel:
    """With a window that is shorter than most rows, and than prompt plus completion."""
    return built(lambda: MistralForCausalLM(MistralConfig(**SIZES, sliding_window=6)))  # pyright: ignore[reportArgumentType]


def granite() -> PreTrainedModel:
    """Its scaled logits take the way of whole logits."""
    return built(lambda: GraniteForCausalLM(GraniteConfig(**SIZES, logits_scaling=4.0)))  # pyright: ignore[reportArgumentType]


def recomputing() -> PreTrainedModel:
    model = tiny_model()
    recompute_layers(model)
    return model


def adapted() -> PreTrainedModel:
    peft = pytest.importorskip("peft")
    model = tiny_model()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        model.add_adapter(peft.LoraConfig(r=2, target_modules=["q_proj", "k_proj", "v_proj"], init_lora_weights=False))
    return model.to(torch.float64)  # pyright: ignore[reportArgumentType]


MODELS: Mapping[str, Callable[[], PreTrainedModel]] = {
    "llama": tiny_model,
    "grouped heads": lambda: qwen3(tied=False),
    "tied": lambda: qwen3(tied=True),
    "window": mistral,
    "scaled logits": granite,
    "recomputing": recomputing,
    "adapters": adapted,
}


def wide_norm(module: torch.nn.Module, x: Tensor) -> Tensor:
    weight, epsilon = cast(Tensor, module.weight), cast(float, module.variance_epsilon)
    return weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + epsilon)


def in_float64(model: PreTrainedModel) -> PreTrainedModel:
    """transformers' norms work in float32 whatever the model's type: a shared prompt's gradient, summed before it goes
    through one, is rounded otherwise than its parts. Here they work in float64, so that only layouts are compared."""
    for module in model.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = partial(wide_norm, module)
    return model


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS.keys())
def test_every_layout_and_split_tells_the_same(build: Callable[[], PreTrainedModel]) -> None:
    wanted = tell(in_float64(build()), "padded", 10_000)
    assert wanted.gradient.norm() > 1
    for name, (layout, max_tokens, batches) in LAYOUTS.items():
        found = tell(in_float64(build()), layout, max_tokens, batches)
        for field, a, b in zip(Told._fields, found, wanted, strict=True):
            assert (a - b).abs().max() < 1e-10, (name, field, (a - b).abs().max())


@pytest.mark.parametrize("layout", ["packed", "prefix"])
def test_norms_in_float32_cost_no_more_than_their_rounding(layout: Layout) -> None:
    wanted, found = tell(tiny_model(), "padded", 10_000), tell(tiny_model(), layout, 10_000)
    torch.testing.assert_close(found.logprobs, wanted.logprobs, rtol=0, atol=1e-10)
    assert (found.gradient - wanted.gradient).norm() < 1e-6 * wanted.gradient.norm()


@torch.no_grad()
@pytest.mark.parametrize("layout", ["packed", "prefix"])
def test_another_rows_tokens_change_no_bit(layout: Layout) -> None:
    head = ResponseHead(tiny_model())

    def logprobs(rows: list[TokenIds]) -> dict[int, Tensor]:
        (batch,) = micro_batches(PROMPTS, rows, max_tokens=10_000, pad_id=0, device=CPU, layout=layout)
        return dict(zip(batch.rows, head(batch, temperature=1.0).logprobs_N.split(batch.lengths), strict=True))

    before = logprobs(COMPLETIONS)
    changed = [*COMPLETIONS]
    changed[0] = tuple(39 - token % 30 for token in changed[0])  # of a row that shares its prompt with three others
    after = logprobs(changed)
    assert not torch.equal(before[0], after[0])
    for i in range(1, len(PROMPTS)):
        assert torch.equal(before[i], after[i])


def step_samples() -> list[TrainSample]:
    """Every channel on some rows, both on some; rows without a gradient of their own in between."""
    rng = np.random.default_rng(5)
    made: list[TrainSample] = []
    for i, (prompt, completion) in enumerate(zip(PROMPTS, COMPLETIONS, strict=True)):
        made.append(
            sample(
                prompt,
                completion,
                advantage=(-1.0, 0.0, 1.5)[i % 3],
                pg=1.0,
                distill=float(i % 2),
                imitate=float(i == 3),
                behaviour=(-3 + rng.normal(size=len(completion))).tolist(),
                guided=(-2 + rng.normal(size=len(completion))).tolist(),
                teacher=random_targets(rng, len(completion), 4) if i % 2 else None,
            )
        )
    return made


@pytest.mark.parametrize("layout", ["packed", "prefix"])
@pytest.mark.parametrize("max_tokens", [1, 23, 10_000])
def test_a_step_of_both_channels_has_the_same_gradient(layout: Layout, max_tokens: int) -> None:
    def policy(layout: Layout) -> HFPolicy:
        made = tiny_policy(step_config(temperature=0.9, optimizer={"layout": layout}))
        assert made.layout == layout
        in_float64(made.model)
        return made

    wanted, found = policy("padded"), policy(layout)
    expected = gradient(wanted, step_samples())
    assert expected.norm() > 0.1
    assert (gradient(found, step_samples(), max_tokens=max_tokens) - expected).abs().max() < 1e-10
    a, b = wanted.step(step_samples()), found.step(step_samples())
    assert a.loss == pytest.approx(b.loss, abs=1e-12) and a.grad_norm == pytest.approx(b.grad_norm, rel=1e-10)
    assert a.applied and b.applied

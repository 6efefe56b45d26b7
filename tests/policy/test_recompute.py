"""Recomputed layers: the same gradient from less that is kept, and sampling that does not notice."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import OPTConfig, OPTForCausalLM

from critique_rl.config.policy import LoraConfig
from critique_rl.errors import ModelError
from critique_rl.policy.adapters import add_adapters
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.recompute import recompute_layers
from critique_rl.policy.step import StepConfig
from tests.policy.lora import move
from tests.tiny import gradient, random_targets, sample, step_config, tiny_engine, tiny_model, tiny_tokenizer, weights

PROMPT = (4, 5, 6)
TEACHER = random_targets(np.random.default_rng(0), 3, 5)
STEP = [
    sample(PROMPT, (7, 8, 9), advantage=0.5, pg=1.0, distill=1.0, teacher=TEACHER),
    sample(PROMPT, (8, 2, 8, 9, 7), advantage=-0.5, pg=1.0),
]


def policy_of(*, recomputed: bool, lora: bool = False, config: StepConfig | None = None) -> HFPolicy:
    model = tiny_model()
    if lora:
        add_adapters(model, LoraConfig(rank=2))
        move(model)
    if recomputed:
        recompute_layers(model)
    return HFPolicy(model, tiny_tokenizer(), Accelerator(cpu=True), config or step_config())


def kept_numbers(policy: HFPolicy) -> int:
    """How many numbers the forward passes of a step keep for the backward passes."""
    kept = 0

    def keep(values: torch.Tensor) -> torch.Tensor:
        nonlocal kept
        kept += values.numel()
        return values

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda values: values):
        gradient(policy, STEP)
    return kept


@pytest.mark.parametrize("lora", [False, True])
def test_the_gradient_is_the_same_in_every_bit_and_less_is_kept(lora: bool) -> None:
    # with adapters the layers' input wants no gradient, which recomputation of the older kind would need
    plain, recomputed = policy_of(recomputed=False, lora=lora), policy_of(recomputed=True, lora=lora)
    assert torch.equal(gradient(recomputed, STEP), gradient(plain, STEP))
    assert gradient(plain, STEP).norm() > 0
    assert kept_numbers(recomputed) < kept_numbers(plain) / 3
    for _ in range(2):
        assert recomputed.step(STEP) == plain.step(STEP)
    assert torch.equal(weights(recomputed), weights(plain))


@pytest.mark.parametrize("layout", ["packed", "prefix"])
def test_packed_rows_are_recomputed_as_packed_rows(layout: str) -> None:
    # what keeps them apart must reach the second pass, which runs long after the first
    padded = gradient(policy_of(recomputed=False, lora=True), STEP)
    policy = policy_of(recomputed=True, lora=True, config=step_config(optimizer={"layout": layout}))
    assert policy.layout == layout
    assert torch.allclose(gradient(policy, STEP), padded, rtol=0, atol=1e-12)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampling_keeps_its_cache(temperature: float) -> None:
    widths: list[int] = []
    drawn = []
    for recomputed in (False, True):
        policy = policy_of(recomputed=recomputed)
        policy.model.model.embed_tokens.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
        drawn.append(tiny_engine(policy).generate([PROMPT], max_tokens=5, temperature=temperature, seed=1))
    assert drawn[0] == drawn[1]
    assert widths.count(1) >= 2  # after the prompt, one token at a time


def test_scoring_is_the_same() -> None:
    plain, recomputed = policy_of(recomputed=False), policy_of(recomputed=True)
    assert np.array_equal(*(p.logprobs([PROMPT], [(7, 8)])[0] for p in (plain, recomputed)))


def test_a_copy_computes_with_its_own_weights() -> None:
    # a frozen teacher is a deep copy: it must not go on reading the layers of the policy
    frozen = step_config(distillation={"teacher": "frozen"})
    policy = policy_of(recomputed=True, config=frozen)
    start = policy.topk_logprobs([PROMPT], [(7, 8)], k=3, who="teacher")[0].logprobs_TK
    assert policy.step(STEP).applied
    assert np.array_equal(policy.topk_logprobs([PROMPT], [(7, 8)], k=3, who="teacher")[0].logprobs_TK, start)
    twin = copy.deepcopy(policy.model)
    for layer in policy.model.model.layers:
        layer.mlp.down_proj.weight.data.zero_()
    ids = torch.tensor([[4, 5, 6]])
    assert not torch.allclose(twin(input_ids=ids).logits, policy.model(input_ids=ids).logits)


def test_nothing_drops_out() -> None:
    # OPT drops out in its layers' own forward, where the layer is in training mode
    config = OPTConfig(
        vocab_size=40, hidden_size=16, ffn_dim=24, num_hidden_layers=2, num_attention_heads=2, dropout=0.5,
        max_position_embeddings=32, word_embed_proj_dim=16,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = OPTForCausalLM(config).to(torch.float64).eval()  # pyright: ignore[reportArgumentType]
    ids = torch.tensor([[4, 5, 6, 7]])

    def slope() -> torch.Tensor:
        model.zero_grad()
        model(input_ids=ids).logits.square().mean().backward()
        return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

    plain = slope()
    recompute_layers(model)
    assert torch.equal(slope(), plain)


def test_a_model_without_layers_of_that_kind() -> None:
    class Bare(torch.nn.Module):
        pass

    with pytest.raises(ModelError, match=r"^policy.gradient_checkpointing: Bare has no layers .* set it to false$"):
        recompute_layers(Bare())  # pyright: ignore[reportArgumentType]

"""Adapters in the policy: what they compute, what they leave alone, and which layers they may be put beside."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM

from critique_rl.config.policy import LoraConfig
from critique_rl.errors import MissingExtraError, ModelError
from critique_rl.policy.adapters import adapters_off, add_adapters, has_adapters, merged_copy
from critique_rl.policy.hf import HFPolicy
from tests.policy.lora import ALPHA, RANK, base_weights, lora_policy, move
from tests.tiny import gradient, random_targets, sample, step_config, tiny_engine, tiny_model, tiny_policy

PROMPT, COMPLETION = (4, 5, 6), (7, 8, 9)
IDS = torch.tensor([[4, 5, 6, 7, 8, 9]])
TEACHER = random_targets(np.random.default_rng(0), 3, 5)
STEP = [
    sample(PROMPT, COMPLETION, advantage=0.5, pg=1.0, distill=1.0, teacher=TEACHER),
    sample(PROMPT, (8, 2), advantage=-0.5, pg=1.0),
]
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@torch.no_grad()
def logits(model: torch.nn.Module) -> torch.Tensor:
    return model(input_ids=IDS).logits


def merged(policy: HFPolicy) -> HFPolicy:
    whole = merged_copy(policy.model).requires_grad_(True)
    return HFPolicy(whole, policy.tokenizer, Accelerator(cpu=True), step_config())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_fresh_adapters_change_nothing_and_alone_are_trained(dtype: torch.dtype) -> None:
    model, plain = tiny_model(dtype=dtype), tiny_model(dtype=dtype)
    state = torch.get_rng_state()
    add_adapters(model, LoraConfig(rank=RANK))
    assert torch.equal(torch.get_rng_state(), state)
    assert type(model) is LlamaForCausalLM and has_adapters(model) and not has_adapters(plain)
    assert not any(module.training for module in model.modules())  # dropout off, in the new layers as well
    assert torch.equal(logits(model), logits(plain))
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert len(trained) == 2 * 2 * len(LINEAR)  # A and B, in two layers
    assert all("lora_" in name and p.dtype == dtype for name, p in trained.items())
    assert {p.shape[0] for name, p in trained.items() if "lora_A" in name} == {RANK}


def test_the_seed_decides_where_they_start() -> None:
    def start(seed: int) -> torch.Tensor:
        model = tiny_model()
        add_adapters(model, LoraConfig(rank=2), seed=seed)
        return model.get_parameter("model.layers.0.mlp.up_proj.lora_A.default.weight")

    assert torch.equal(start(1), start(1)) and not torch.equal(start(1), start(2))


def test_the_head_is_still_one_matmul() -> None:
    policy = lora_policy()
    assert policy.train_step.head.exact and policy.train_step.head.fused  # pyright: ignore[reportAttributeAccessIssue]


def test_a_step_moves_the_adapters_and_nothing_else() -> None:
    policy = lora_policy(moved=True)
    before = base_weights(policy.model)
    factors = {name: p.detach().clone() for name, p in policy.model.named_parameters() if p.requires_grad}
    scored = policy.logprobs([PROMPT], [COMPLETION])[0]
    assert policy.step(STEP).applied
    assert all(torch.equal(weight, before[name]) for name, weight in base_weights(policy.model).items())
    assert not any(torch.equal(policy.model.get_parameter(name), was) for name, was in factors.items())
    assert not np.allclose(policy.logprobs([PROMPT], [COMPLETION])[0], scored, atol=1e-6)


def test_the_gradient_is_that_of_the_merged_weights_projected_on_the_factors() -> None:
    # W' = W + s B A: dL/dB = s dL/dW' A^T and dL/dA = s B^T dL/dW'
    policy = lora_policy(moved=True)
    whole = merged(policy)
    gradient(policy, STEP)
    gradient(whole, STEP)
    scale = ALPHA / RANK
    for layer in range(2):
        for name in (f"model.layers.{layer}.self_attn.v_proj", f"model.layers.{layer}.mlp.down_proj"):
            factor_A = policy.model.get_parameter(f"{name}.lora_A.default.weight")
            factor_B = policy.model.get_parameter(f"{name}.lora_B.default.weight")
            slope = whole.model.get_parameter(f"{name}.weight").grad
            assert slope is not None and factor_A.grad is not None and factor_B.grad is not None
            assert torch.allclose(factor_B.grad, scale * slope @ factor_A.T, rtol=0, atol=1e-12)
            assert torch.allclose(factor_A.grad, scale * factor_B.T @ slope, rtol=0, atol=1e-12)
            assert factor_A.grad.abs().max() > 1e-6


def test_sampling_and_scoring_are_those_of_the_merged_weights() -> None:
    policy = lora_policy(moved=True)
    whole = merged(policy)
    prompts = [(4, 5, 6), (7,), (8, 9, 10, 11)]
    ours, theirs = (tiny_engine(p).generate(prompts, max_tokens=6, temperature=0.0, seed=0) for p in (policy, whole))
    assert [c.completion_ids for c in ours] == [c.completion_ids for c in theirs]
    scored = policy.logprobs(prompts, [c.completion_ids for c in ours])
    for completion, logprobs_T in zip(theirs, scored, strict=True):
        np.testing.assert_allclose(completion.behaviour_logprobs, logprobs_T, atol=2e-6)


def test_a_merged_copy_has_a_life_of_its_own() -> None:
    model = tiny_model()
    add_adapters(model, LoraConfig(rank=RANK))
    move(model)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    copied = merged_copy(model)
    assert torch.allclose(logits(copied), logits(model), rtol=0, atol=1e-12)
    assert list(copied.state_dict()) == list(tiny_model().state_dict())
    assert not has_adapters(copied) and not hasattr(copied, "peft_config")
    for weight in copied.parameters():
        weight.data.zero_()
    assert all(torch.equal(weight, before[name]) for name, weight in model.state_dict().items())
    untouched = merged_copy(tiny_model())
    assert torch.equal(logits(untouched), logits(tiny_model()))


def test_adapters_off_is_the_start_and_ends_with_its_block() -> None:
    policy = lora_policy(moved=True)
    on, start = logits(policy.model), logits(tiny_model())
    gradient(policy, STEP)
    with adapters_off(policy.model):
        assert torch.equal(logits(policy.model), start)
        with adapters_off(policy.model):
            assert torch.equal(logits(policy.model), start)
        assert torch.equal(logits(policy.model), start)  # an inner block does not switch them on
    assert torch.equal(logits(policy.model), on)
    trained = [p for name, p in policy.model.named_parameters() if "lora_" in name]
    assert all(p.requires_grad and p.grad is not None for p in trained)
    with pytest.raises(RuntimeError, match="inside"), adapters_off(policy.model):
        raise RuntimeError("inside")
    assert torch.equal(logits(policy.model), on)
    with adapters_off(tiny_policy().model):
        pass  # nothing to switch off


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        (["q_proj", "down_proj"], {"q_proj", "down_proj"}),
        (["model.layers.1.mlp.up_proj"], {"model.layers.1.mlp.up_proj"}),
        ("all-linear", set(LINEAR)),
    ],
)
def test_the_layers_that_are_named_get_adapters(targets: object, expected: set[str]) -> None:
    model = tiny_model()
    add_adapters(model, LoraConfig.model_validate({"target_modules": targets}))
    adapted = {name.removesuffix(".lora_A") for name, _ in model.named_modules() if name.endswith(".lora_A")}
    linear = {name for name, m in tiny_model().named_modules() if isinstance(m, torch.nn.Linear) and name != "lm_head"}
    assert adapted == {name for name in linear if any(f".{name}".endswith(f".{wanted}") for wanted in expected)}


@pytest.mark.parametrize("bad", ["Wqkv", "lm_head", "embed_tokens", "self_attn", "proj", "q_proj."])
def test_a_name_that_is_no_linear_layer_is_refused_with_those_that_are(bad: str) -> None:
    model = tiny_model()
    with pytest.raises(ModelError) as caught:
        add_adapters(model, LoraConfig(target_modules=("q_proj", bad)))
    assert f"policy.lora.target_modules: {bad!r} is no linear layer of LlamaForCausalLM" in str(caught.value)
    assert f"wanted any of {', '.join(sorted(LINEAR))}, a full name such as" in str(caught.value)
    assert not has_adapters(model) and all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("bad", [[], [""], ["all-linear", "q_proj"], "q_proj"])
def test_target_modules_that_name_nothing(bad: object) -> None:
    with pytest.raises(ValueError, match="target_modules"):
        LoraConfig.model_validate({"target_modules": bad})


def test_layers_that_keep_their_weights_transposed() -> None:
    config = GPT2Config(vocab_size=40, n_positions=32, n_embd=16, n_layer=2, n_head=2, bos_token_id=1, eos_token_id=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config).to(torch.float64).eval()  # pyright: ignore[reportArgumentType]
    plain = logits(model)
    add_adapters(model, LoraConfig(rank=2))
    assert torch.equal(logits(model), plain)
    move(model)
    assert torch.allclose(logits(merged_copy(model)), logits(model), rtol=0, atol=1e-12)
    assert not torch.allclose(logits(model), plain, atol=1e-3)


def test_without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r"^policy.lora needs peft.*'critique-rl\[peft\]'$"):
        add_adapters(tiny_model(), LoraConfig())

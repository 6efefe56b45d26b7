"""A bfloat16 step on the CPU: near float32, with wide sums, masters and states, and finite whatever it reports."""

from __future__ import annotations

import math
from collections.abc import Generator

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from critique_rl.config.policy import LoraConfig
from critique_rl.policy.adapters import add_adapters
from critique_rl.policy.batching import micro_batches
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.recompute import recompute_layers
from tests.policy.lora import move
from tests.tiny import gradient, random_targets, sample, step_config, tiny_engine, tiny_model, tiny_tokenizer

PROMPT, COMPLETION, CONTEXT = (4, 5, 6), (7, 8, 9, 10, 11, 12), (20, 21, 4, 5, 6)
CONFIG = step_config(
    loss={"kl_weight": 0.05, "entropy_weight": 0.01, "normalizer": "tokens"}, distillation={"teacher": "ema"}
)


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Generator[None]:
    """Mixed precision is a state of the whole process in accelerate."""
    AcceleratorState._reset_state()  # pyright: ignore[reportPrivateUsage]
    yield
    AcceleratorState._reset_state()  # pyright: ignore[reportPrivateUsage]


def policy_of(precision: str, *, lora: bool = False, recomputed: bool = False) -> HFPolicy:
    AcceleratorState._reset_state()  # pyright: ignore[reportPrivateUsage]
    model = tiny_model(dtype=torch.float32)
    if lora:
        add_adapters(model, LoraConfig(rank=2, alpha=4.0))
        move(model)
    if recomputed:
        recompute_layers(model)
    return HFPolicy(model, tiny_tokenizer(), Accelerator(cpu=True, mixed_precision=precision), CONFIG)


def batch_for(policy: HFPolicy):
    """All three channels, with ratios near one."""
    teacher = random_targets(np.random.default_rng(0), len(COMPLETION), 5)
    behaviour = policy.logprobs([PROMPT], [COMPLETION])[0].tolist()
    return [
        sample(
            PROMPT, COMPLETION, advantage=0.5, pg=1.0, behaviour=behaviour, distill=1.0, teacher=teacher
        ),
        sample(PROMPT, (8, 9, 2), advantage=-0.5, pg=1.0),
        sample(PROMPT, (8, 9, 10), advantage=0.9, imitate=1.0),
    ]  # fmt: skip


@pytest.mark.parametrize("lora", [False, True])
def test_losses_and_gradients_are_near_those_of_float32(lora: bool) -> None:
    wide, narrow = policy_of("no", lora=lora), policy_of("bf16", lora=lora)
    rows = batch_for(wide)
    slopes = [gradient(policy, wide._with_reference(rows)) for policy in (wide, narrow)]  # pyright: ignore[reportPrivateUsage]
    reports = [policy.train_step.accumulate(wide._with_reference(rows)) for policy in (wide, narrow)]  # pyright: ignore[reportPrivateUsage]
    assert reports[0] is not None and reports[1] is not None
    # bfloat16 keeps 8 bits: about 0.4 % a product, and the logits of two layers are that far off
    for name in ("pg_loss", "distill_loss", "imitate_loss"):
        assert getattr(reports[1], name) == pytest.approx(getattr(reports[0], name), rel=0.05, abs=0.02)
    cosine = torch.nn.functional.cosine_similarity(*slopes, dim=0)
    assert cosine > 0.995
    assert float(slopes[1].norm() / slopes[0].norm()) == pytest.approx(1.0, abs=0.05)
    assert not torch.equal(*slopes)  # it really ran in bfloat16
    assert all(slope.dtype == torch.float32 for slope in slopes)


def test_what_is_summed_is_float32_and_the_masters_stay_so() -> None:
    policy = policy_of("bf16")
    rows = batch_for(policy)
    (batch,) = micro_batches(
        [PROMPT], [COMPLETION], max_tokens=99, pad_id=policy.pad_id, device=policy.accelerator.device
    )
    with policy.accelerator.autocast():
        head = policy._scorer.head  # pyright: ignore[reportPrivateUsage]
        ids_MK = torch.tensor([[4, 5]])
        terms = head(batch, temperature=1.0, rows_M=torch.tensor([0]), ids_MK=ids_MK, entropy=True)
        assert head.logits(batch).dtype == torch.bfloat16
    assert terms.entropy_N is not None
    assert {terms.logprobs_N.dtype, terms.support_MK.dtype, terms.entropy_N.dtype} == {torch.float32}
    assert policy.step(rows).applied
    assert {p.dtype for p in policy.model.parameters()} == {torch.float32}
    moments = policy.train_step.optimizer.state_dict()["state"][0]
    assert {moments["exp_avg"].dtype, moments["exp_avg_sq"].dtype} == {torch.float32}
    assert {p.dtype for p in policy.teacher.model.parameters()} == {torch.float32}


@pytest.mark.parametrize("options", [{}, {"lora": True}, {"recomputed": True}, {"lora": True, "recomputed": True}])
def test_a_runs_reports_are_finite(options: dict[str, bool]) -> None:
    policy = policy_of("bf16", **options)
    for _ in range(3):
        targets = policy.topk_logprobs([CONTEXT], [COMPLETION], k=5, who="teacher")
        assert np.isfinite(targets[0].logprobs_TK).all() and targets[0].mask_T.all()
        row = sample(PROMPT, COMPLETION, advantage=0.5, pg=1.0, distill=1.0, teacher=targets[0])
        report = policy.step([row, sample(PROMPT, (8, 9, 2), advantage=-0.5, pg=1.0)])
        assert report.applied and report.reason == ""
        numbers = [value for value in report if isinstance(value, float)] + list(report.diagnostics.values())
        assert all(math.isfinite(value) for value in numbers)
        assert report.grad_norm > 0


def test_recomputation_runs_in_the_same_precision() -> None:
    plain, recomputed = policy_of("bf16"), policy_of("bf16", recomputed=True)
    rows = plain._with_reference(batch_for(plain))  # pyright: ignore[reportPrivateUsage]
    assert torch.equal(gradient(plain, rows), gradient(recomputed, rows))


def test_rollouts_are_scored_as_they_were_sampled() -> None:
    # a cache and left padding there, one pass here: a few bfloat16 steps apart, where float32 is 1e-6 apart
    policy = policy_of("bf16")
    prompts = [(4, 5, 6), (7,)]
    completions = tiny_engine(policy).generate(prompts, max_tokens=6, temperature=1.0, seed=3)
    scored = policy.logprobs(prompts, [c.completion_ids for c in completions])
    for completion, logprobs_T in zip(completions, scored, strict=True):
        assert np.abs(np.array(completion.behaviour_logprobs) - logprobs_T).mean() < 0.1

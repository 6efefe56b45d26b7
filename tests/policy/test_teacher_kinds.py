"""Teachers that are no copy of the policy, and the average of one with adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from critique_rl.errors import ConfigError
from critique_rl.ops.low_rank import merged_weights
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.teacher import EMA_FILE
from critique_rl.types import TeacherTargets, TokenIds
from tests.policy.lora import lora_policy, move
from tests.tiny import random_targets, sample, step_config, tiny_model, tiny_policy, weights

PROMPT, COMPLETION, CONTEXT = (4, 5, 6), (7, 8, 9), (20, 21, 4, 5, 6)
STEP = [sample(PROMPT, COMPLETION, advantage=0.5, pg=1.0), sample(PROMPT, (8, 2), advantage=-0.5, pg=1.0)]
UP = "model.layers.0.mlp.up_proj"


def taught(policy: HFPolicy) -> np.ndarray:
    return policy.topk_logprobs([CONTEXT], [COMPLETION], k=5, who="teacher")[0].logprobs_TK


def average(policy: HFPolicy, name: str) -> torch.Tensor:
    return policy.teacher.model.get_parameter(name)


def test_a_frozen_teacher_with_adapters_is_the_start_without_a_copy(tmp_path: Path) -> None:
    policy = lora_policy(step_config(distillation={"teacher": "frozen"}))
    assert policy.teacher.model is policy.model
    start = taught(tiny_policy())
    assert np.array_equal(taught(policy), start)
    for _ in range(3):
        assert policy.step(STEP).applied
    assert np.array_equal(taught(policy), start)
    assert not np.allclose(policy.topk_logprobs([CONTEXT], [COMPLETION], k=5, who="policy")[0].logprobs_TK, start)
    support = policy.topk_logprobs([CONTEXT], [COMPLETION], k=5, who="policy")
    (at_the_policys,) = policy.topk_logprobs([CONTEXT], [COMPLETION], k=5, who="teacher", support=support)
    assert np.array_equal(at_the_policys.sampled_logprobs_T, tiny_policy().logprobs([CONTEXT], [COMPLETION])[0])
    policy.save(tmp_path)
    resumed = lora_policy(step_config(distillation={"teacher": "frozen"}))
    resumed.restore(tmp_path)
    assert torch.equal(weights(resumed), weights(policy))
    assert np.array_equal(taught(resumed), start)


def test_a_live_teacher_with_adapters_is_the_policy() -> None:
    policy = lora_policy(step_config(distillation={"teacher": "live"}), moved=True)
    policy.step(STEP)
    own = policy.topk_logprobs([CONTEXT], [COMPLETION], k=5, who="policy")[0].logprobs_TK
    assert np.array_equal(taught(policy), own) and not np.allclose(own, taught(tiny_policy()))


@pytest.mark.parametrize("teacher", ["live", "frozen", "ema"])
def test_the_kl_reference_with_adapters_is_the_start(teacher: str) -> None:
    config = step_config(loss={"kl_weight": 0.1}, distillation={"teacher": teacher})
    policy = lora_policy(config)
    (start,) = tiny_policy().logprobs([PROMPT], [COMPLETION])
    for _ in range(2):
        assert policy.step(STEP).applied
    (now,) = policy.logprobs([PROMPT], [COMPLETION])
    report = policy.step([sample(PROMPT, COMPLETION, advantage=0.5, pg=1.0)])
    assert report.diagnostics["policy/kl"] == pytest.approx(float((now - start).mean()), abs=1e-12)
    assert report.diagnostics["policy/kl"] != 0


def test_the_average_is_that_of_the_product() -> None:
    # s B A = 1 * 3 * 2 = 6 in every entry, from zero with .05: .30; of the factors it would be .10 * .15 = .015
    policy = lora_policy(step_config(distillation={"teacher": "ema", "ema_rate": 0.05}), rank=1, alpha=1.0)
    average(policy, f"{UP}.weight").zero_()
    policy.model.get_parameter(f"{UP}.base_layer.weight").data.zero_()
    policy.model.get_parameter(f"{UP}.lora_A.default.weight").data.fill_(2.0)
    policy.model.get_parameter(f"{UP}.lora_B.default.weight").data.fill_(3.0)
    assert policy.teacher.follow(applied=True, steps_taken=1)
    assert torch.allclose(average(policy, f"{UP}.weight"), torch.tensor(0.30, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_average_of_moving_adapters_is_that_of_the_merged_weights() -> None:
    policy = lora_policy(step_config(distillation={"teacher": "ema", "ema_rate": 0.3}))
    expected = {name: weight.clone() for name, weight in tiny_model().named_parameters()}
    assert all(torch.equal(average(policy, name), weight) for name, weight in expected.items())  # starts as the policy
    for seed in range(3):
        move(policy.model, seed=seed)
        assert policy.step(STEP).diagnostics["teacher/refreshed"] == 1.0
        for name, weight in merged_weights(policy.model):
            expected[name] = 0.7 * expected[name] + 0.3 * weight
    for name, weight in expected.items():
        assert torch.allclose(average(policy, name), weight, rtol=0, atol=1e-12)
    alone = tiny_policy()
    alone.model.load_state_dict(expected)
    own = alone.topk_logprobs([CONTEXT], [COMPLETION], k=5, who="policy")[0].logprobs_TK
    assert np.allclose(taught(policy), own, rtol=0, atol=1e-10)


def test_the_average_with_adapters_comes_back_bit_for_bit(tmp_path: Path) -> None:
    config = step_config(distillation={"teacher": "ema", "ema_rate": 0.3, "ema_every": 2})
    first = lora_policy(config)
    for _ in range(3):
        first.step(STEP)
    first.save(tmp_path)
    assert set(load_file(tmp_path / EMA_FILE)) == {name for name, _ in tiny_model().named_parameters()}
    second = lora_policy(config)
    second.restore(tmp_path)
    for _ in range(2):
        assert first.step(STEP) == second.step(STEP)
        assert np.array_equal(taught(first), taught(second))


class Served:
    """A teacher somewhere else, that says the same of every attempt."""

    def __init__(self) -> None:
        self.asked: list[tuple[Sequence[TokenIds], Sequence[TokenIds], int, object]] = []
        self.targets = random_targets(np.random.default_rng(3), len(COMPLETION), 5)

    def topk(
        self,
        contexts: Sequence[TokenIds],
        completions: Sequence[TokenIds],
        *,
        k: int,
        support: Sequence[TeacherTargets] | None,
    ) -> list[TeacherTargets]:
        self.asked.append((contexts, completions, k, support))
        return [self.targets for _ in completions]


def test_a_served_teacher_is_asked_in_place_of_a_model(tmp_path: Path) -> None:
    served = Served()
    policy = lora_policy(step_config(distillation={"teacher": "served", "server": {"model": "big"}}), served=served)
    assert policy.teacher.model is policy.model  # nothing was copied
    (targets,) = policy.topk_logprobs([CONTEXT], [COMPLETION], k=5, who="teacher")
    assert targets is served.targets
    assert served.asked == [([CONTEXT], [COMPLETION], 5, None)]
    support = policy.topk_logprobs([CONTEXT], [COMPLETION], k=5, who="policy")
    policy.topk_logprobs([CONTEXT], [COMPLETION], k=5, who="teacher", support=support)
    assert served.asked[-1][-1] is support and len(served.asked) == 2  # the policy's own were not asked for there
    report = policy.step([sample(PROMPT, COMPLETION, distill=1.0, teacher=targets)])
    assert report.applied and "teacher/refreshed" not in report.diagnostics
    policy.save(tmp_path)
    assert not (tmp_path / EMA_FILE).exists()
    policy.restore(tmp_path)


def test_a_served_teacher_without_a_server() -> None:
    config = step_config(distillation={"teacher": "served", "server": {"model": "big"}})
    with pytest.raises(ConfigError, match=r'teacher = "served" came without a server.*choose another teacher'):
        tiny_policy(config)

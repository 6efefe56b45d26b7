"""The teacher's weights: what the slow average is after n steps, when it moves, and what a checkpoint keeps of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import PreTrainedModel

from critique_rl.config.algorithm import EMA_EVERY, EMA_RATE, DistillationConfig
from critique_rl.policy.teacher import EMA_FILE, Teacher


class Numbers(torch.nn.Module):
    """Named weights and nothing else."""

    def __init__(self, weights: Mapping[str, torch.Tensor]) -> None:
        super().__init__()
        for name, value in weights.items():
            self.register_parameter(name, torch.nn.Parameter(value.clone()))

    def set(self, **values: float) -> None:
        for name, value in values.items():
            self.get_parameter(name).data.fill_(value)


def zeros(*names: str, dtype: torch.dtype = torch.float64) -> Numbers:
    return Numbers({name: torch.zeros(1, dtype=dtype) for name in names})


def teacher_of(policy: Numbers, **options: object) -> Teacher:
    config = DistillationConfig.model_validate({"teacher": "ema", **options})
    return Teacher(cast(PreTrainedModel, policy), config)


def value(teacher: Teacher, name: str = "w") -> float:
    return teacher.model.get_parameter(name).item()


@pytest.mark.parametrize(
    ("rate", "steps", "expected"),
    [(0.05, 1, 0.05), (0.05, 10, 0.401263), (0.05, 20, 0.641514), (0.05, 50, 0.923055), (0.01, 100, 0.633968)],
)
def test_the_average_covers_one_minus_one_minus_rate_to_the_steps(rate: float, steps: int, expected: float) -> None:
    policy = zeros("w")
    teacher = teacher_of(policy, ema_rate=rate)
    policy.set(w=1.0)
    for step in range(1, steps + 1):
        assert teacher.follow(applied=True, steps_taken=step)
    assert value(teacher) == pytest.approx(expected, abs=1e-6)
    assert policy.get_parameter("w").item() == 1.0


def test_the_average_of_a_moving_policy_is_the_weighted_sum_of_where_it_was() -> None:
    rng = torch.Generator().manual_seed(0)
    policy = Numbers({"w": torch.randn(3, 2, generator=rng, dtype=torch.float64)})
    teacher = teacher_of(policy, ema_rate=0.3)
    expected = policy.get_parameter("w").detach().clone()
    for step in range(1, 6):
        policy.get_parameter("w").data.add_(torch.randn(3, 2, generator=rng, dtype=torch.float64))
        teacher.follow(applied=True, steps_taken=step)
        expected = 0.7 * expected + 0.3 * policy.get_parameter("w").detach()
    assert torch.allclose(teacher.model.get_parameter("w"), expected, rtol=0, atol=1e-15)


def test_averaging_the_factors_of_a_product_is_not_averaging_the_product() -> None:
    # from zero with .05: the product 2 * 3 averages to .30, the factors to .10 and .15, whose product is .015
    policy = zeros("a", "b", "product")
    teacher = teacher_of(policy, ema_rate=0.05)
    policy.set(a=2.0, b=3.0, product=6.0)
    teacher.follow(applied=True, steps_taken=1)
    assert value(teacher, "product") == pytest.approx(0.30)
    assert value(teacher, "a") * value(teacher, "b") == pytest.approx(0.015)


def test_a_skipped_step_never_refreshes() -> None:
    policy = zeros("w")
    teacher = teacher_of(policy, ema_rate=0.5)
    policy.set(w=1.0)
    assert not teacher.follow(applied=False, steps_taken=0)
    assert value(teacher) == 0.0
    assert teacher.follow(applied=True, steps_taken=1)
    assert not teacher.follow(applied=False, steps_taken=1)
    assert value(teacher) == 0.5


def test_ema_every_counts_the_runs_applied_steps() -> None:
    policy = zeros("w")
    teacher = teacher_of(policy, ema_rate=0.5, ema_every=3)
    policy.set(w=1.0)
    assert [teacher.follow(applied=True, steps_taken=n) for n in range(1, 8)] == [n % 3 == 0 for n in range(1, 8)]
    assert value(teacher) == 0.75  # two refreshes


def test_what_is_not_said_is_slow_and_every_step() -> None:
    teacher = teacher_of(zeros("w"))
    assert (teacher.rate, teacher.every) == (EMA_RATE, EMA_EVERY) == (0.01, 1)


def test_live_is_the_policy_and_frozen_never_moves() -> None:
    policy = zeros("w")
    live, frozen = teacher_of(policy, teacher="live"), teacher_of(policy, teacher="frozen")
    assert live.model is policy
    policy.set(w=1.0)
    assert not live.follow(applied=True, steps_taken=1)
    assert not frozen.follow(applied=True, steps_taken=1)
    assert (value(live), value(frozen)) == (1.0, 0.0)
    assert policy.get_parameter("w").requires_grad and not frozen.model.get_parameter("w").requires_grad


def test_tied_weights_are_averaged_once_and_stay_tied(tmp_path: Path) -> None:
    policy = zeros("w")
    policy.register_parameter("tied", policy.get_parameter("w"))
    teacher = teacher_of(policy, ema_rate=0.5)
    policy.set(w=1.0)
    teacher.follow(applied=True, steps_taken=1)
    assert value(teacher, "w") == value(teacher, "tied") == 0.5
    assert teacher.model.get_parameter("w") is teacher.model.get_parameter("tied")
    teacher.save(tmp_path)
    assert list(load_file(tmp_path / EMA_FILE)) == ["w"]


def test_the_average_of_a_half_precision_policy_is_kept_in_float32() -> None:
    # 1 -> 1 + 1/128 is one bfloat16 step; .01 of it is 7.8e-5, which bfloat16 would round away every time
    policy = Numbers({"w": torch.ones(1, dtype=torch.bfloat16)})
    teacher = teacher_of(policy, ema_rate=0.01)
    policy.set(w=1.0 + 1 / 128)
    for step in range(1, 101):
        teacher.follow(applied=True, steps_taken=step)
    assert teacher.model.get_parameter("w").dtype == torch.float32
    assert value(teacher) == pytest.approx(1.0 + 0.633968 / 128, abs=2e-6)


def test_a_saved_average_comes_back_bit_for_bit(tmp_path: Path) -> None:
    rng = torch.Generator().manual_seed(1)
    policy = Numbers({name: torch.randn(5, generator=rng) for name in ("a", "b")})
    teacher = teacher_of(policy, ema_rate=0.3)
    policy.set(a=0.1, b=-0.7)
    teacher.follow(applied=True, steps_taken=1)
    teacher.save(tmp_path)
    other = teacher_of(Numbers({name: torch.zeros(5) for name in ("a", "b")}), ema_rate=0.3)
    kept = other.model.get_parameter("a")
    other.restore(tmp_path)
    for name in ("a", "b"):
        assert torch.equal(other.model.get_parameter(name), teacher.model.get_parameter(name))
    assert other.model.get_parameter("a") is kept and not kept.requires_grad


@pytest.mark.parametrize("kind", ["live", "frozen"])
def test_the_other_kinds_have_no_file(kind: str, tmp_path: Path) -> None:
    teacher = teacher_of(zeros("w"), teacher=kind)
    teacher.save(tmp_path)
    assert list(tmp_path.iterdir()) == []
    teacher.restore(tmp_path)


@pytest.mark.parametrize(
    "weights",
    [
        {"w": torch.zeros(2, dtype=torch.float64)},  # another shape
        {"w": torch.zeros(1, dtype=torch.float32)},  # another precision, which would not be bit for bit
        {"v": torch.zeros(1, dtype=torch.float64)},  # another name
        {},
        {"w": torch.zeros(1, dtype=torch.float64), "w2": torch.zeros(1)},
    ],
)
def test_other_weights_are_refused_and_change_nothing(weights: dict[str, torch.Tensor], tmp_path: Path) -> None:
    policy = zeros("w")
    policy.set(w=4.0)
    teacher = teacher_of(policy)
    save_file(weights, tmp_path / EMA_FILE)
    with pytest.raises(ValueError, match=r"teacher.safetensors does not fit the policy at \d weights, first '\w+'"):
        teacher.restore(tmp_path)
    assert value(teacher) == 4.0


@pytest.mark.parametrize("teacher", ["live", "frozen"])
@pytest.mark.parametrize("key", ["ema_rate", "ema_every"])
def test_keys_of_the_average_are_refused_without_it(teacher: str, key: str) -> None:
    with pytest.raises(ValidationError, match=rf"{key} = 1.* has no effect with teacher = '{teacher}'; remove it, or"):
        DistillationConfig.model_validate({"teacher": teacher, key: 1})


@pytest.mark.parametrize(("key", "bad"), [("ema_rate", 0.0), ("ema_rate", 1.1), ("ema_every", 0)])
def test_rates_and_periods_have_bounds(key: str, bad: float) -> None:
    with pytest.raises(ValidationError, match=key):
        DistillationConfig.model_validate({"teacher": "ema", key: bad})


@pytest.mark.parametrize("options", [{}, {"teacher": "ema"}, {"teacher": "ema", "ema_rate": 0.05, "ema_every": 2}])
def test_a_dumped_section_is_read_back_as_it_was(options: dict[str, object]) -> None:
    config = DistillationConfig.model_validate(options)
    assert DistillationConfig.model_validate(config.model_dump(mode="json")) == config

"""Group and union advantages: hand numbers, degenerate groups, order."""

from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from critique_rl.ops.advantages import Baseline, Scale, group_advantages, union_advantages


def rewards(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


SCALES: tuple[Scale, ...] = get_args(Scale)
ALL_FAIL = rewards(*[0.0] * 7)
THREE_OF_SEVEN = rewards(1, 1, 1, 0, 0, 0, 0)


def test_all_fail_with_one_correct_refinement() -> None:
    result = union_advantages(ALL_FAIL, rewards(1))
    assert result.rollouts_n.tolist() == [-0.125] * 7  # 0 - 1/8
    assert result.refinements_k.tolist() == [0.875]
    assert (result.rollouts_n.sum() + result.refinements_k.sum()).item() == 0.0


@pytest.mark.parametrize(("ddof", "initial", "refined"), [(1, -0.353552, 2.474867), (0, -0.377963, 2.645743)])
def test_all_fail_with_one_correct_refinement_scaled(ddof: int, initial: float, refined: float) -> None:
    result = union_advantages(ALL_FAIL, rewards(1), scale="std", eps=1e-6, ddof=ddof)
    assert result.rollouts_n.tolist() == pytest.approx([initial] * 7, abs=1e-6)
    assert result.refinements_k.item() == pytest.approx(refined, abs=1e-6)


@pytest.mark.parametrize("n", [1, 4, 8])
def test_general_all_fail_form(n: int) -> None:
    result = union_advantages(torch.zeros(n, dtype=torch.float64), rewards(1))
    assert result.refinements_k.item() == pytest.approx(n / (n + 1))
    assert result.rollouts_n.tolist() == pytest.approx([-1 / (n + 1)] * n)


def test_eight_failures_with_one_correct_and_one_wrong_refinement() -> None:
    result = union_advantages(torch.zeros(8, dtype=torch.float64), rewards(1, 0))
    assert result.rollouts_n.tolist() == pytest.approx([-0.1] * 8)
    assert result.refinements_k.tolist() == pytest.approx([0.9, -0.1])


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("baseline", ["union", "first_turn"])
def test_all_wrong_union_is_exactly_zero(scale: Scale, baseline: Baseline) -> None:
    result = union_advantages(ALL_FAIL, rewards(0), baseline=baseline, scale=scale)
    assert result.rollouts_n.tolist() == [0.0] * 7 and result.refinements_k.tolist() == [0.0]


def test_partly_solved_groups() -> None:
    correct = union_advantages(THREE_OF_SEVEN, rewards(1))
    assert correct.rollouts_n.tolist() == [0.5] * 3 + [-0.5] * 4 and correct.refinements_k.tolist() == [0.5]
    wrong = union_advantages(THREE_OF_SEVEN, rewards(0))
    assert wrong.rollouts_n.tolist() == [0.625] * 3 + [-0.375] * 4 and wrong.refinements_k.tolist() == [-0.375]


def test_first_turn_baseline() -> None:
    assert union_advantages(ALL_FAIL, rewards(1), baseline="first_turn").refinements_k.item() == 1.0
    partly = union_advantages(THREE_OF_SEVEN, rewards(1), baseline="first_turn")
    assert partly.refinements_k.item() == pytest.approx(0.571429, abs=1e-6)  # 1 - 3/7
    assert partly.rollouts_n.sum().item() == pytest.approx(0.0, abs=1e-12)


def test_first_turn_rounding_leaves_no_push_behind() -> None:
    # (.1 + .2 + .3) / 3 is not .2 in binary
    result = union_advantages(rewards(0.1, 0.2, 0.3), rewards(0.2, 0.5), baseline="first_turn")
    assert result.rollouts_n[1].item() == 0.0 and result.refinements_k[0].item() == 0.0
    assert result.refinements_k[1].item() == pytest.approx(0.3)


def test_first_turn_scaled_uses_the_spread_of_the_union() -> None:
    # first attempts alone have no spread; dividing by eps would give 1e6
    result = union_advantages(ALL_FAIL, rewards(1), baseline="first_turn", scale="std")
    assert result.refinements_k.item() == pytest.approx(1 / (math.sqrt(1 / 8) + 1e-6))
    assert result.rollouts_n.tolist() == [0.0] * 7


def test_group_of_four_by_hand() -> None:
    group = rewards(1, 0, 0, 1)
    assert group_advantages(group).tolist() == [0.5, -0.5, -0.5, 0.5]
    # population std .5; sample std sqrt(1/3) = .577350
    assert group_advantages(group, scale="std", eps=0.0, ddof=0).tolist() == [1.0, -1.0, -1.0, 1.0]
    assert group_advantages(group, scale="std", eps=0.0).tolist() == pytest.approx(
        [0.866025, -0.866025, -0.866025, 0.866025], abs=1e-6
    )


def test_leave_one_out_by_hand() -> None:
    # (1, 0, 0, .5): means of the others .166667, .5, .5, .333333
    group = rewards(1, 0, 0, 0.5)
    assert group_advantages(group, scale="loo").tolist() == pytest.approx([0.833333, -0.5, -0.5, 0.166667], abs=1e-6)
    assert group_advantages(rewards(1, 0), scale="loo").tolist() == [1.0, -1.0]


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0]), min_size=2, max_size=9))
def test_leave_one_out_against_a_plain_loop(values: list[float]) -> None:
    others = [[r for j, r in enumerate(values) if j != i] for i in range(len(values))]
    wanted = [r - sum(rest) / len(rest) for r, rest in zip(values, others, strict=True)]
    assert group_advantages(rewards(*values), scale="loo").tolist() == pytest.approx(wanted, abs=1e-12)


def test_leave_one_out_with_refinements() -> None:
    # union: (1, 0 | 1), means of the others .5, 1, .5
    both = union_advantages(rewards(1, 0), rewards(1), scale="loo")
    assert both.rollouts_n.tolist() == pytest.approx([0.5, -1.0]) and both.refinements_k.tolist() == pytest.approx(
        [0.5]
    )
    # first_turn: a refinement is not in the mean of the first attempts, so nothing is left out for it
    first = union_advantages(rewards(1, 0), rewards(1), baseline="first_turn", scale="loo")
    assert first.rollouts_n.tolist() == [1.0, -1.0] and first.refinements_k.tolist() == [0.5]
    alone = union_advantages(rewards(0), rewards(1), baseline="first_turn", scale="loo")
    assert alone.rollouts_n.tolist() == [0.0] and alone.refinements_k.tolist() == [1.0]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize(
    "group",
    [
        rewards(0.0),
        rewards(0.7),
        rewards(1, 1, 1),
        rewards(0.3, 0.1 + 0.2, 0.3),
        rewards(0.0, 0.1 + 0.2 - 0.3),
        torch.tensor([0.1, 0.1 + 2**-27, 0.1], dtype=torch.float32),
        torch.full((5,), 1e9, dtype=torch.float32),
    ],
)
def test_no_contrast_teaches_exactly_nothing(group: Tensor, scale: Scale) -> None:
    advantages = group_advantages(group, scale=scale)
    assert advantages.tolist() == [0.0] * group.shape[0]


def test_small_but_real_contrast_survives() -> None:
    assert group_advantages(rewards(0.0, 1e-4)).tolist() == pytest.approx([-5e-5, 5e-5])


def test_without_refinements_it_is_the_plain_group_bit_for_bit() -> None:
    group = torch.rand(9, generator=torch.Generator().manual_seed(0))
    baselines: tuple[Baseline, ...] = ("union", "first_turn")
    for scale in SCALES:
        for baseline in baselines:
            result = union_advantages(group, group[:0], baseline=baseline, scale=scale)
            assert torch.equal(result.rollouts_n, group_advantages(group, scale=scale))
            assert result.refinements_k.shape == (0,)


@settings(deadline=None, max_examples=50, derandomize=True)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=12), st.lists(st.floats(0, 1), max_size=4))
def test_union_sums_to_zero_and_ignores_order(first: list[float], second: list[float]) -> None:
    result = union_advantages(rewards(*first), rewards(*second))
    assert (result.rollouts_n.sum() + result.refinements_k.sum()).item() == pytest.approx(0.0, abs=1e-9)
    order = torch.randperm(len(first), generator=torch.Generator().manual_seed(len(first)))
    shuffled = union_advantages(rewards(*first)[order], rewards(*second))
    assert torch.allclose(shuffled.rollouts_n, result.rollouts_n[order], atol=1e-12)
    shifted = union_advantages(rewards(*first) + 3.0, rewards(*second) + 3.0)
    assert torch.allclose(shifted.rollouts_n, result.rollouts_n, atol=1e-5)


def test_advantages_carry_no_graph_and_accept_whole_numbers() -> None:
    learned = torch.tensor([0.0, 1.0], requires_grad=True)
    assert not group_advantages(learned).requires_grad
    assert group_advantages(torch.tensor([0, 1])).tolist() == [-0.5, 0.5]


@pytest.mark.parametrize("bad", [torch.tensor([0.0, math.nan]), torch.zeros(0), torch.zeros(2, 2)])
def test_unusable_rewards_are_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="rewards_G"):
        group_advantages(bad)
    with pytest.raises(ValueError, match="rewards_n"):
        union_advantages(bad, torch.zeros(1))

"""Combiners against a plain loop, what may not change them, and what they refuse.

Legend: N rollouts, K objectives, G groups.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random
from typing import get_args

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from critique_rl.ops.combiners import Ddof, Method, combine
from tests.ops.objectives import advantages, combined

R1, R2 = [1.0, 0, 0, 1], [0.2, 0.9, 0.4, 0.5]
METHODS: tuple[Method, ...] = get_args(Method)
NAN = math.nan


def near(*values: float) -> object:
    return pytest.approx(list(values), abs=1e-6)


# -- a plain loop ------------------------------------------------------------------------------------------------------


def spread(values: Sequence[float], ddof: int) -> float:
    if len(values) < 2:
        return 0.0
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - ddof))


def plain(
    rewards: Sequence[Sequence[float]], groups: Sequence[int], weights: Sequence[float], method: str, ddof: int
) -> list[float]:
    """Group by group and rollout by rollout; rewards[n][k], NaN for missing."""
    count, wide = len(rewards), len(weights)
    if method == "mo_grpo":
        weights = [1.0] * wide
    if method == "sa_mrpo":
        known = [[row[k] for row in rewards if not math.isnan(row[k])] for k in range(wide)]
        means = [math.fsum(column) / len(column) if column else 0.0 for column in known]
        weights = [w * (1 - mean) for w, mean in zip(weights, means, strict=True)]
    found = [0.0] * count
    for group in set(groups):
        rows = [n for n in range(count) if groups[n] == group]
        centred = {n: [0.0] * wide for n in rows}
        sigmas: list[float] = []
        for k in range(wide):
            have = [n for n in rows if not math.isnan(rewards[n][k])]
            mean = math.fsum(rewards[n][k] for n in have) / len(have) if have else 0.0
            sigmas.append(spread([rewards[n][k] for n in have], ddof))
            for n in have:
                centred[n][k] = rewards[n][k] - mean if sigmas[k] > 1e-8 else 0.0
        sums = {n: sum(w * c for w, c in zip(weights, centred[n], strict=True)) for n in rows}
        present = [n for n in rows if not all(math.isnan(r) for r in rewards[n])]
        of_sum = math.sqrt(math.fsum(sums[n] ** 2 for n in present) / (len(present) - ddof)) if len(present) > 1 else 0
        total = sum(w * s for w, s in zip(weights, sigmas, strict=True))
        for n in present:
            if method == "sum":
                found[n] = sums[n] / of_sum if of_sum > 1e-9 else 0.0
            elif method == "sum_unscaled":
                found[n] = sums[n]
            elif method == "dvao":
                found[n] = sums[n] / total if total > 1e-9 else 0.0
            else:
                found[n] = sum(w * c / s for w, c, s in zip(weights, centred[n], sigmas, strict=True) if s > 1e-8)
    if method in ("gdpo", "sa_mrpo"):
        rows = [n for n in range(count) if not all(math.isnan(r) for r in rewards[n])]
        mean, std = math.fsum(found[n] for n in rows) / max(1, len(rows)), spread([found[n] for n in rows], ddof)
        found = [(a - mean) / std if n in rows and std > 1e-8 and abs(a) > 1e-9 else a for n, a in enumerate(found)]
    return found


LEVELS = st.sampled_from([0.0, 0.2, 0.5, 0.7, 1.0])
BATCHES = st.lists(st.tuples(st.integers(0, 2), st.tuples(*[LEVELS | st.just(NAN)] * 3)), min_size=1, max_size=9)
WEIGHTS = st.tuples(*[st.sampled_from([0.25, 0.5, 1.0, 3.0])] * 3)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(BATCHES, WEIGHTS, st.sampled_from(METHODS), st.sampled_from(get_args(Ddof)))
def test_against_a_plain_loop(
    batch: list[tuple[int, tuple[float, ...]]], weights: tuple[float, ...], method: Method, ddof: Ddof
) -> None:
    groups, rewards = [g for g, _ in batch], [list(r) for _, r in batch]
    columns = [list(column) for column in zip(*rewards, strict=True)]
    found = combined(*columns, groups=groups, weights=weights, method=method, ddof=ddof)
    wanted = plain(rewards, groups, weights, method, ddof)
    assert found.advantages_N.tolist() == pytest.approx(wanted, abs=1e-6)
    assert found.objective_advantages_NK.sum(1).tolist() == pytest.approx(wanted, abs=1e-6)


# -- what holds for every batch ----------------------------------------------------------------------------------------

FULL = st.lists(st.tuples(LEVELS, LEVELS), min_size=2, max_size=8)


@settings(deadline=None, max_examples=60, derandomize=True)
@given(FULL, st.tuples(*[st.sampled_from([0.25, 0.5, 2.0])] * 2), st.sampled_from(get_args(Ddof)))
def test_dynamic_weights_only_scale_the_summed_reward(
    rows: list[tuple[float, float]], weights: tuple[float, float], ddof: Ddof
) -> None:
    one, other = (list(column) for column in zip(*rows, strict=True))
    dynamic = combined(one, other, weights=weights, method="dvao", ddof=ddof)
    of_sum = combined(one, other, weights=weights, method="sum", ddof=ddof)
    # A_dvao S = A_sum sigma_R, so A_dvao = c A_sum, and c is at most 1
    agreement = dynamic.agreement_G.nan_to_num(0.0)
    assert dynamic.advantages_N.tolist() == pytest.approx((agreement * of_sum.advantages_N).tolist(), abs=1e-9)
    assert agreement.max().item() <= 1 + 1e-9
    assert bool((dynamic.advantages_N.abs() <= of_sum.advantages_N.abs() + 1e-9).all())
    bound = math.sqrt(len(rows) - 1) if ddof == 0 else (len(rows) - 1) / math.sqrt(len(rows))
    assert of_sum.advantages_N.abs().max().item() <= bound + 1e-9


@settings(deadline=None, max_examples=40, derandomize=True)
@given(FULL, st.sampled_from(["advantage_sum", "mo_grpo", "gdpo"]), st.floats(0.1, 50), st.floats(-20, 20))
def test_a_reward_may_be_on_any_scale_where_each_is_normalised(
    rows: list[tuple[float, float]], method: Method, scale: float, shift: float
) -> None:
    one, other = (list(column) for column in zip(*rows, strict=True))
    moved = advantages(one, [scale * r + shift for r in other], method=method)
    assert moved == pytest.approx(advantages(one, other, method=method), abs=1e-6)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(BATCHES, WEIGHTS, st.sampled_from(METHODS), st.randoms(use_true_random=False))
def test_the_order_of_the_batch_does_not_matter_and_groups_sum_to_zero(
    batch: list[tuple[int, tuple[float, ...]]], weights: tuple[float, ...], method: Method, random: Random
) -> None:
    def run(rows: list[tuple[int, tuple[float, ...]]]) -> list[float]:
        columns = [list(column) for column in zip(*(r for _, r in rows), strict=True)]
        return advantages(*columns, groups=[g for g, _ in rows], weights=weights, method=method)

    order = list(range(len(batch)))
    random.shuffle(order)
    straight, shuffled = run(batch), run([batch[i] for i in order])
    assert shuffled == pytest.approx([straight[i] for i in order], abs=1e-9)
    for group in {g for g, _ in batch}:
        assert sum(a for a, (g, _) in zip(straight, batch, strict=True) if g == group) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_what_is_missing_is_in_no_statistic(method: Method) -> None:
    # rollout 3 lacks the second objective, rollout 4 has nothing
    found = combined([1.0, 0, 0, 1, NAN], [0.2, 0.9, 0.4, NAN, NAN], method=method, ddof=1)
    assert found.figures.missing_K.tolist() == near(0.2, 0.4)
    assert found.figures.mean_K.tolist() == near(0.5, 0.5)  # 1.5 / 3
    assert found.advantages_N[4].item() == 0.0 and found.objective_advantages_NK[3, 1].item() == 0.0
    without = combined([1.0, 0, 0, 1], [0.2, 0.9, 0.4, NAN], method=method, ddof=1)
    assert found.advantages_N[:4].tolist() == pytest.approx(without.advantages_N.tolist(), abs=1e-12)
    assert found.advantages_N.sum().item() == pytest.approx(0.0, abs=1e-12)


def test_nan_under_the_mask_reaches_nothing() -> None:
    rewards = torch.tensor([[1.0, NAN], [0.0, math.inf], [0.0, 1.0]])
    valid = torch.tensor([[True, False], [True, False], [True, True]])
    found = combine(rewards, valid, torch.zeros(3, dtype=torch.long), torch.ones(2), method="gdpo")
    assert bool(torch.isfinite(found.advantages_N).all() & torch.isfinite(found.objective_advantages_NK).all())


def test_a_batch_of_nothing() -> None:
    none = torch.zeros(0, 2)
    for method in METHODS:
        found = combine(none, none.bool(), torch.zeros(0, dtype=torch.long), torch.ones(2), method=method)
        assert found.advantages_N.shape == (0,) and bool(torch.isnan(found.figures.mean_K).all())


@pytest.mark.parametrize("bad", [NAN, math.inf, -math.inf])
def test_a_reward_that_is_no_number_is_named(bad: float) -> None:
    rewards = torch.tensor([[1.0, 0.0], [0.0, bad]])
    with pytest.raises(ValueError, match=r"rewards_NK\[1, 1\] is (nan|inf|-inf)"):
        combine(rewards, torch.ones(2, 2).bool(), torch.zeros(2, dtype=torch.long), torch.ones(2), method="sum")


def tensors() -> dict[str, Tensor]:
    """What `combine` takes, in its order."""
    return {
        "rewards_NK": torch.zeros(2, 2),
        "valid_NK": torch.ones(2, 2).bool(),
        "group_N": torch.zeros(2, dtype=torch.long),
        "weights_K": torch.ones(2),
    }


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"rewards_NK": torch.zeros(2)}, r"rewards_NK is \[2\]"),
        ({"valid_NK": torch.ones(2, 1).bool()}, r"valid_NK \[2, 1\]; wanted both"),
        ({"group_N": torch.zeros(3, dtype=torch.long)}, r"group_N is \[3\].*wanted \[2\] and \[2\]"),
        ({"weights_K": torch.ones(1)}, r"weights_K \[1\]"),
        ({"weights_K": torch.tensor([1.0, -1.0])}, r"weights_K is \[1.0, -1.0\]; wanted finite"),
        ({"weights_K": torch.tensor([1.0, NAN])}, r"weights_K is \[1.0, nan\]; wanted finite"),
    ],
)
def test_tensors_that_do_not_fit(changed: dict[str, Tensor], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        combine(*{**tensors(), **changed}.values(), method="sum")


def test_tokens_must_be_counted_to_normalise_over_them() -> None:
    with pytest.raises(ValueError, match='batch_norm = "tokens" needs lengths_N'):
        combine(*tensors().values(), method="gdpo", batch_norm="tokens")


def test_a_weight_of_zero_is_measured_and_pushes_nothing() -> None:
    for method in METHODS:
        if method == "mo_grpo":
            continue
        found = combined(R1, R2, weights=(1.0, 0.0), method=method)
        alone = combined(R1, [0.0] * 4, weights=(1.0, 0.0), method=method)
        assert found.advantages_N.tolist() == pytest.approx(alone.advantages_N.tolist(), abs=1e-12)
        assert found.figures.mean_K[1].item() == pytest.approx(0.5) and found.figures.weight_K[1].item() == 0.0

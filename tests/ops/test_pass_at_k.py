"""The closed form of pass@k training against the mean over every draw, and against what it must be at the ends."""

from __future__ import annotations

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from critique_rl.ops.pass_at_k import pass_at_k_advantages


def flags(right: int, wrong: int) -> torch.Tensor:
    return torch.tensor([True] * right + [False] * wrong)


def by_drawing(right: list[bool], k: int) -> list[float]:
    """Every draw of k is rewarded 1 if one of it is right; each rollout gets the mean advantage of its draws."""
    draws = list(combinations(range(len(right)), k))
    outcome = {draw: float(any(right[i] for i in draw)) for draw in draws}
    mean = sum(outcome.values()) / len(draws)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in outcome.values()) / len(draws))
    if deviation < 1e-12:
        return [0.0] * len(right)
    found: list[float] = []
    for i in range(len(right)):
        own = [(outcome[draw] - mean) / deviation for draw in draws if i in draw]
        found.append(sum(own) / len(own))
    return found


def test_spec_9_7_pass_at_k_training() -> None:
    # one wrong rollout: every draw of 4 has a right one, R = 1
    assert pass_at_k_advantages(flags(7, 1), k=4).tolist() == [0.0] * 8
    # 4 wrong: 1 - R = 1 / 70, s = sqrt(69) / 70, so 1 / sqrt(69) = .120386
    assert pass_at_k_advantages(flags(4, 4), k=4).tolist() == pytest.approx([0.120386] * 4 + [-0.120386] * 4, abs=1e-6)
    # 7 wrong: C(7, 4) = 35 of 70 fail, R = s = .5; right 1; wrong (.5 - 20 / 35) / .5 = -1 / 7
    assert pass_at_k_advantages(flags(1, 7), k=4).tolist() == pytest.approx([1.0] + [-1 / 7] * 7)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=8), st.integers(1, 8))
def test_it_is_the_mean_over_all_draws(right: list[bool], k: int) -> None:
    k = min(k, len(right))
    found = pass_at_k_advantages(torch.tensor(right), k=k)
    assert found.tolist() == pytest.approx(by_drawing(right, k), abs=1e-9)
    assert float(found.sum()) == pytest.approx(0.0, abs=1e-9)


@settings(deadline=None)
@given(st.lists(st.booleans(), min_size=2, max_size=12))
def test_k_of_1_is_grpo_over_the_population_std(right: list[bool]) -> None:
    rewards = torch.tensor(right, dtype=torch.float64)
    deviation = rewards.std(correction=0)
    wanted = torch.zeros_like(rewards) if deviation == 0 else (rewards - rewards.mean()) / deviation
    torch.testing.assert_close(pass_at_k_advantages(torch.tensor(right), k=1), wanted)


def test_hard_prompts_teach_more_than_easy_ones() -> None:
    """The whole push on a prompt's rollouts shrinks from k - 1 wrong ones on; GRPO's peaks where half are right."""
    size = [float(pass_at_k_advantages(flags(right, 8 - right), k=4).abs().sum()) for right in range(2, 8)]
    assert size == sorted(size, reverse=True) and size[3:] == [0.0, 0.0, 0.0] and size[2] > 0


def test_many_rollouts_stay_finite() -> None:
    found = pass_at_k_advantages(flags(1, 2047), k=512)
    assert bool(torch.isfinite(found).all()) and float(found.sum()) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("k", [0, 5, -1])
def test_a_k_that_cannot_be_drawn(k: int) -> None:
    with pytest.raises(ValueError, match="wanted k from 1"):
        pass_at_k_advantages(flags(2, 2), k=k)


def test_rewards_are_no_verdicts() -> None:
    with pytest.raises(ValueError, match="booleans"):
        pass_at_k_advantages(torch.tensor([1.0, 0.0]), k=1)
    with pytest.raises(ValueError, match="one dimension"):
        pass_at_k_advantages(torch.ones(2, 2, dtype=torch.bool), k=1)

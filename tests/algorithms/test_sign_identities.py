"""What right and wrong answers teach in exact expectation, by enumeration: why the mean is part of the method.

L_psr = -P(right) and L_nsr = P(wrong) = 1 - P(right) have one gradient. What tells the methods apart is what a loss is
divided by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from critique_rl.algorithms.weighted_reinforce import WeightedReinforce
from critique_rl.config.algorithm import WeightedReinforceConfig
from critique_rl.ops.ratios import clipped_surrogate, sequence_mean_weights
from tests.algorithms.groups import group

Paths = Callable[[Tensor], list[Tensor]]
"""Token log-probs [T] of every outcome under these logits."""
BANDIT, ARMS_RIGHT = torch.tensor([1.0, 0.5, 0.0, -0.5], dtype=torch.float64), [True, False, True, False]
TREE = torch.tensor([0.3, -0.2, 0.4, 0.1], dtype=torch.float64)  # {stop, continue}, then {c, d}
PATHS_RIGHT = [False, True, False]  # stop, continue-c, continue-d


def arms(logits: Tensor) -> list[Tensor]:
    return list(logits.log_softmax(0)[:, None])


def paths(logits: Tensor) -> list[Tensor]:
    first, second = logits[:2].log_softmax(0), logits[2:].log_softmax(0)
    return [first[:1], torch.stack([first[1], second[0]]), torch.stack([first[1], second[1]])]


def advantages_of(right: Sequence[bool], preset: str | None, positive: float = 0.1) -> list[float]:
    """What the method stamps on one answer of each outcome."""
    options = {"preset": preset} if preset else {"positive_weight": positive}
    method = WeightedReinforce(WeightedReinforceConfig.model_validate(options))
    return [float(s.advantages[0]) for s in method.assemble([group([float(r) for r in right])])]


def expected(
    outcomes: Paths, logits: Tensor, advantages: Sequence[float], *, per_sequence: bool = False, kept: bool = False
) -> list[float]:
    """Ascent direction: each outcome's gradient times its probability; `kept`: over the probability of being kept."""
    leaf = logits.clone().requires_grad_()
    total, share = leaf.new_zeros(()), 0.0
    for logprobs_T, advantage in zip(outcomes(leaf), advantages, strict=True):
        chance = float(logprobs_T.detach().sum().exp())
        terms_T = clipped_surrogate(logprobs_T, logprobs_T.detach(), torch.full_like(logprobs_T, advantage).detach())
        ones = torch.ones_like(terms_T).detach()
        weights_T = sequence_mean_weights(ones, [len(terms_T)]) if per_sequence else ones
        total = total + chance * (terms_T * weights_T).sum()
        share += chance * (advantage != 0)
    (gradient,) = torch.autograd.grad(total / (share if kept else 1.0), leaf)
    return gradient.tolist()


def test_the_bandit_of_the_spec() -> None:
    pi = BANDIT.softmax(0)
    assert pi.tolist() == pytest.approx([0.455054, 0.276004, 0.167405, 0.101536], abs=1e-6)
    assert float(pi[0] + pi[2]) == pytest.approx(0.622459, abs=1e-6)
    wanted = [0.171801, -0.171801, 0.063202, -0.063202]
    for preset in ("psr", "nsr"):
        assert expected(arms, BANDIT, advantages_of(ARMS_RIGHT, preset)) == pytest.approx(wanted, abs=1e-6)
    weighted = expected(arms, BANDIT, advantages_of(ARMS_RIGHT, "w_reinforce"))
    assert weighted == pytest.approx([0.188982, -0.188982, 0.069522, -0.069522], abs=1e-6)


def test_a_mean_over_what_is_kept_tells_them_apart() -> None:
    positive = expected(arms, BANDIT, advantages_of(ARMS_RIGHT, "psr"), kept=True)
    negative = expected(arms, BANDIT, advantages_of(ARMS_RIGHT, "nsr"), kept=True)
    assert positive == pytest.approx([0.276004, -0.276004, 0.101536, -0.101536], abs=1e-6)
    assert negative == pytest.approx([0.455054, -0.455054, 0.167405, -0.167405], abs=1e-6)


def test_the_tree_of_the_spec() -> None:
    wanted = [-0.134996, 0.134996, 0.092293, -0.092293]
    for preset in ("psr", "nsr"):
        assert expected(paths, TREE, advantages_of(PATHS_RIGHT, preset)) == pytest.approx(wanted, abs=1e-6)
    positive, negative = (
        expected(paths, TREE, advantages_of(PATHS_RIGHT, preset), per_sequence=True) for preset in ("psr", "nsr")
    )
    assert positive == pytest.approx([-0.067498, 0.067498, 0.046146, -0.046146], abs=1e-6)
    assert negative == pytest.approx([-0.185, 0.185, 0.046146, -0.046146], abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_the_identity_is_that_of_the_success_probability(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for outcomes, size, right in ((arms, 4, ARMS_RIGHT), (paths, 4, PATHS_RIGHT)):
        logits = torch.randn(size, dtype=torch.float64, generator=generator).requires_grad_()
        chances = torch.stack([lp.sum().exp() for lp, good in zip(outcomes(logits), right, strict=True) if good])
        (wanted,) = torch.autograd.grad(chances.sum(), logits)
        found = [expected(outcomes, logits.detach(), advantages_of(right, preset)) for preset in ("psr", "nsr")]
        for one, other in pairwise([wanted.tolist(), *found]):
            assert one == pytest.approx(other, abs=1e-12)
        weighted = expected(outcomes, logits.detach(), advantages_of(right, None, positive=0.4))
        assert weighted == pytest.approx([1.4 * x for x in wanted.tolist()], abs=1e-12)

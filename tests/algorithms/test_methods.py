"""Each method's name gives the objective that its file states: from rewards to the loss, against the equation in plain
loops over probabilities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from critique_rl.algorithms.cispo import Cispo
from critique_rl.algorithms.dapo import Dapo
from critique_rl.algorithms.dr_grpo import DrGrpo
from critique_rl.algorithms.grpo import Grpo
from critique_rl.algorithms.gspo import Gspo
from critique_rl.algorithms.rloo import Rloo
from critique_rl.config import algorithm as methods
from critique_rl.config.load import validate
from critique_rl.config.loss import LossConfig
from critique_rl.ops.losses import channel_sum
from critique_rl.ops.ratios import policy_objective, sequence_mean_weights
from critique_rl.types import TrainSample
from tests.algorithms.groups import ERROR, advantages, assert_same_samples, group

MAX_TOKENS = 8
REWARDS: list[list[float | None]] = [[1, 0, 0, 1], [0, ERROR, 0.5], [1, 1]]
ALGORITHMS = {
    "grpo": Grpo(methods.GrpoConfig()),
    "dr_grpo": DrGrpo(methods.DrGrpoConfig()),
    "dapo": Dapo(methods.DapoConfig()),
    "gspo": Gspo(methods.GspoConfig()),
    "cispo": Cispo(methods.CispoConfig()),
    "rloo": Rloo(methods.RlooConfig()),
}
Tokens = list[tuple[float, float]]
"""(p, b) of each token of one rollout."""
Gradient = list[list[float]]
"""dJ / d log p of each token of each rollout."""


def batch(name: str) -> list[TrainSample]:
    """Rollouts with 1 to 4 tokens each, of three groups; the second of the second group cannot be scored."""
    return ALGORITHMS[name].assemble([group(rewards, task=f"t{i}") for i, rewards in enumerate(REWARDS)])


def drifted(samples: Sequence[TrainSample]) -> list[Tokens]:
    """The same tokens under a policy that has moved since: ratios from e^-.5 to e^2.4, sequence by sequence."""
    rng = np.random.default_rng(3)
    log_ratios = [rng.choice([-0.5, -0.1, 0.0, 1e-4, 0.1, 0.5, 2.4], size=len(s.completion_ids)) for s in samples]
    return [
        [(math.exp(b + d), math.exp(b)) for b, d in zip(s.behaviour_logprobs, moved, strict=True)]
        for s, moved in zip(samples, log_ratios, strict=True)
    ]


def ours(name: str, samples: Sequence[TrainSample], tokens: Sequence[Tokens]) -> Gradient:
    """What [loss] of the method makes of the samples, through the ops that the step calls."""
    loss: LossConfig = validate({"algorithm": {"name": name}}, source="test").loss
    policy = torch.tensor([math.log(p) for row in tokens for p, _ in row], dtype=torch.float64, requires_grad=True)
    behaviour = torch.as_tensor(np.concatenate([s.behaviour_logprobs for s in samples]))
    moved = torch.as_tensor(np.concatenate([s.advantages for s in samples]))
    weights = torch.as_tensor(np.concatenate([s.pg_weight * s.loss_mask for s in samples]))
    lengths = [len(s.completion_ids) for s in samples]
    terms = policy_objective(
        policy,
        behaviour,
        moved,
        weights,
        lengths,
        objective=loss.objective,
        clip_low=loss.clip_low,
        clip_high=loss.clip_high,
        dual_clip=loss.dual_clip,
        tis_cap=loss.tis_cap,
    )
    rows = sum(bool(s.pg_weight.any()) for s in samples)
    denominator = {"constant": rows * MAX_TOKENS, "tokens": int((weights > 0).sum()), "sequences": rows}
    if loss.normalizer == "sequences":
        weights = sequence_mean_weights(weights, lengths)
    (gradient,) = torch.autograd.grad(channel_sum(terms, weights, denominator[loss.normalizer]), policy)
    return [part.tolist() for part in gradient.split(lengths)]


def judged() -> list[tuple[int, list[float]]]:
    """(index of its rollout in the batch, rewards of its group) of every rollout that could be scored."""
    found: list[tuple[int, list[float]]] = []
    start = 0
    for rewards in REWARDS:
        known = [float(r) for r in rewards if r is not None]
        found += [(start + i, known) for i, r in enumerate(rewards) if r is not None]
        start += len(rewards)
    return found


def rewards_flat() -> list[float]:
    return [0.0 if r is None else float(r) for rewards in REWARDS for r in rewards]


def centred(reward: float, known: Sequence[float]) -> float:
    return reward - sum(known) / len(known)


def standardised(reward: float, known: Sequence[float]) -> float:
    mean = sum(known) / len(known)
    deviation = math.sqrt(sum((r - mean) ** 2 for r in known) / (len(known) - 1))
    return 0.0 if deviation == 0 else (reward - mean) / (deviation + 1e-6)


def against_the_others(reward: float, known: Sequence[float]) -> float:
    return 0.0 if len(set(known)) == 1 else reward - (sum(known) - reward) / (len(known) - 1)


def surrogate_slope(ratio: float, advantage: float, low: float, high: float) -> float:
    """d min(r A, clip(r) A) / d log r."""
    dead = (advantage > 0 and ratio > 1 + high) or (advantage < 0 and ratio < 1 - low)
    return 0.0 if dead else ratio * advantage


def plain(name: str, tokens: Sequence[Tokens]) -> Gradient:
    """The equation of the method's file, differentiated by hand, rollout by rollout."""
    advantage_of: dict[str, Callable[[float, Sequence[float]], float]] = {
        "grpo": centred, "dr_grpo": centred, "dapo": standardised, "gspo": standardised, "cispo": standardised,
        "rloo": against_the_others,
    }  # fmt: skip
    scored = judged()
    all_tokens = sum(len(tokens[i]) for i, _ in scored)
    result: Gradient = [[0.0] * len(row) for row in tokens]
    for i, known in scored:
        row = tokens[i]
        advantage = advantage_of[name](rewards_flat()[i], known)
        mean_log_ratio = sum(math.log(p / b) for p, b in row) / len(row)
        for t, (p, b) in enumerate(row):
            result[i][t] = {
                "grpo": surrogate_slope(p / b, advantage, 0.2, 0.2) / (len(scored) * MAX_TOKENS),
                "dr_grpo": surrogate_slope(p / b, advantage, 0.2, 0.2) / (len(scored) * MAX_TOKENS),
                "dapo": surrogate_slope(p / b, advantage, 0.2, 0.28) / all_tokens,
                "gspo": surrogate_slope(math.exp(mean_log_ratio), advantage, 3e-4, 4e-4) / len(row) / len(scored),
                "cispo": min(p / b, 5.0) * advantage / all_tokens,
                "rloo": advantage / (len(scored) * MAX_TOKENS),
            }[name]
    return result


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_gradient_is_that_of_the_equation(name: str) -> None:
    samples = batch(name)
    tokens = drifted(samples)
    mine, wanted = ours(name, samples, tokens), plain(name, tokens)
    assert any(any(row) for row in wanted)
    for own, row in zip(mine, wanted, strict=True):
        assert own == pytest.approx(row, abs=1e-12)


def test_the_methods_really_differ() -> None:
    tokens = drifted(batch("grpo"))
    gradients = {name: [x for row in plain(name, tokens) for x in row] for name in ALGORITHMS if name != "dr_grpo"}
    for one in gradients:
        for other in gradients:
            if one < other:
                a, b = np.array(gradients[one]), np.array(gradients[other])
                assert a @ b < 0.9999 * np.linalg.norm(a) * np.linalg.norm(b), (one, other)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_a_named_method_only_stamps_rewards(name: str) -> None:
    algorithm = ALGORITHMS[name]
    assert algorithm.name == name and algorithm.needs == frozenset() and algorithm.assemble([]) == []
    for sample in batch(name):
        assert sample.teacher is None and not sample.distill_weight.any() and not sample.imitate_weight.any()
    flat = algorithm.assemble([group([0.5, 0.5, 0.5])])
    assert advantages(flat) == [0.0] * 3 and all(s.pg_weight.all() for s in flat)


def test_which_methods_share_their_advantages() -> None:
    assert_same_samples(batch("dr_grpo"), batch("grpo"))
    with_std = Grpo(methods.GrpoConfig(scale="std")).assemble([group(r, task=f"t{i}") for i, r in enumerate(REWARDS)])
    for name in ("dapo", "gspo", "cispo"):
        assert_same_samples(batch(name), with_std)
    without = Dapo(methods.DapoConfig(scale="none")).assemble([group([1, 0])])
    assert advantages(without) == [0.5, -0.5]

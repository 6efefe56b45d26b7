"""The ratio modes' own keys in the step, and a refinement trained under its refine context."""

from __future__ import annotations

import math

import pytest
import torch

from critique_rl.types import TrainSample
from tests.tiny import gradient, sample, step_config, tiny_policy

PROMPT, COMPLETION = (4, 5, 6), (7, 8, 9)


def refined(**logprobs: list[float]) -> TrainSample:
    return sample(PROMPT, COMPLETION, advantage=0.5, imitate=1.0, **logprobs)


def of_mode(row: TrainSample, **refinement: object) -> torch.Tensor:
    return gradient(tiny_policy(step_config(refinement=refinement)), [row])


def score_sum(weights: list[float]) -> torch.Tensor:
    """Gradient of - sum_t w_t log p_t / 3 under the prompt, over all weights of the model."""
    model = tiny_policy().model
    logits = model(input_ids=torch.tensor([[*PROMPT, *COMPLETION]])).logits[0, 2:-1]
    chosen = logits.log_softmax(dim=-1).gather(-1, torch.tensor(COMPLETION)[:, None])[:, 0]
    parts = torch.autograd.grad(
        -(torch.tensor(weights, dtype=torch.float64) * chosen).sum() / 3, list(model.parameters())
    )
    return torch.cat([part.flatten() for part in parts])


@pytest.fixture(scope="module")
def own() -> list[float]:
    (found,) = tiny_policy().logprobs([PROMPT], [COMPLETION])
    return found.tolist()


def test_awrs_coefficient_and_floor(own: list[float]) -> None:
    row = refined(behaviour=own, guided=own)
    assert torch.allclose(of_mode(row, ratio_mode="awr"), score_sum([0.05 * (x >= -5) for x in own]), atol=1e-10)
    middle = sorted(own)[1]
    floored = of_mode(row, ratio_mode="awr", awr_coefficient=1.0, awr_floor=middle)
    assert torch.allclose(floored, score_sum([0.5 * (x >= middle) for x in own]), atol=1e-10)


def test_the_cap_of_oc_is(own: list[float]) -> None:
    row = refined(behaviour=own, guided=[x - 2.0 for x in own])  # each ratio is e^2 = 7.4
    assert torch.allclose(of_mode(row, ratio_mode="oc_is"), score_sum([1.0] * 3), atol=1e-10)
    assert torch.allclose(of_mode(row, ratio_mode="oc_is", ratio_cap=4.0), score_sum([2.0] * 3), atol=1e-10)


def test_in_context_it_is_the_policy_gradient_under_the_very_prompt(own: list[float]) -> None:
    row = refined(behaviour=own, guided=own)
    assert torch.allclose(of_mode(row, ratio_mode="in_context"), score_sum([0.5] * 3), atol=1e-10)
    drifted = refined(behaviour=own, guided=[own[0] - 1.0, own[1], own[2] + 1.0])
    # the first ratio e is above the clip and praised: no gradient; the last, e^-1, is below it and praised: kept
    kept = score_sum([0.0, 0.5, 0.5 * math.exp(-1)])
    assert torch.allclose(of_mode(drifted, ratio_mode="in_context"), kept, atol=1e-10)

"""Ends and padding in training: an end that was sampled is learned, padding never is, even where both are one id."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.step import count_denominators
from critique_rl.types import TrainSample
from tests.tiny import EOS, PAD, gradient, random_targets, sample, step_config, tiny_model, tiny_policy, tiny_tokenizer

PROMPTS = [(4, 5, 6), (7,), (8, 9, 10, 11, 12, 13)]
TURN_END = 33  # a chat model's second end
COMPLETIONS = [(7, 8, 9, EOS), (8, TURN_END), (9, 10, 11, 12, 13, 14, 15)]  # the last one was cut off
TEACHER = random_targets(np.random.default_rng(0), 4, 5)


def rows() -> list[TrainSample]:
    advantages = (0.5, -0.5, 0.25)
    held = [sample(p, c, advantage=a, pg=1.0) for p, c, a in zip(PROMPTS, COMPLETIONS, advantages, strict=True)]
    return [*held, sample(PROMPTS[0], COMPLETIONS[0], distill=1.0, teacher=TEACHER)]


def policy_without_padding_id() -> HFPolicy:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    return HFPolicy(tiny_model(), tokenizer, Accelerator(cpu=True), step_config())


def test_without_a_padding_id_the_end_pads() -> None:
    assert (policy_without_padding_id().pad_id, tiny_policy().pad_id) == (EOS, PAD)


@pytest.mark.parametrize("max_tokens", [1, 20, 999])
def test_what_pads_changes_no_log_prob_and_no_gradient(max_tokens: int) -> None:
    with_end, with_own = policy_without_padding_id(), tiny_policy()
    for policy in (with_end, with_own):
        policy.train_step.layout = "padded"
    found, expected = (gradient(policy, rows(), max_tokens=max_tokens) for policy in (with_end, with_own))
    assert expected.norm() > 0
    assert torch.allclose(found, expected, rtol=0, atol=1e-14)
    scored = zip(with_end.logprobs(PROMPTS, COMPLETIONS), with_own.logprobs(PROMPTS, COMPLETIONS), strict=True)
    assert all(np.allclose(one, other, rtol=0, atol=1e-14) for one, other in scored)


@pytest.mark.parametrize("end", [EOS, TURN_END])
def test_an_end_that_was_sampled_is_a_token_like_any_other(end: int) -> None:
    policy = policy_without_padding_id()
    completion = (7, 8, end)
    whole = sample(PROMPTS[0], completion, advantage=0.5, pg=1.0)
    without_end = sample(PROMPTS[0], completion, advantage=0.5, pg=1.0, mask=[1, 1, 0])
    assert count_denominators([whole], step_config(loss={"normalizer": "tokens"})).pg == 3
    assert not torch.allclose(gradient(policy, [whole]), gradient(policy, [without_end]), atol=1e-6)
    # a positive advantage makes it more likely
    (before,) = policy.logprobs([PROMPTS[0]], [completion])
    assert policy.step([sample(PROMPTS[0], completion, advantage=0.5, pg=1.0, mask=[0, 0, 1])]).applied
    assert policy.logprobs([PROMPTS[0]], [completion])[0][2] > before[2] + 1e-4


def test_a_completion_that_was_cut_off_is_learned_to_its_last_token_and_no_further() -> None:
    policy = policy_without_padding_id()
    cut = sample(PROMPTS[2], COMPLETIONS[2], advantage=0.25, pg=1.0)
    assert count_denominators([cut], step_config(loss={"normalizer": "tokens"})).pg == len(COMPLETIONS[2])
    beside = gradient(policy, [cut, sample(PROMPTS[1], (8, EOS), pg=1.0)])
    alone = gradient(policy, [cut, sample(PROMPTS[1], (EOS,), pg=1.0)])
    assert torch.equal(beside, alone)  # rows without an advantage count for the size of the batch only

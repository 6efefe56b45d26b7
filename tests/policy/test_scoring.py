"""Re-scoring fixed tokens: against plain full-logit log-probs, in the caller's order, with and without a support."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from critique_rl.policy.batching import Layout
from critique_rl.policy.head import ResponseHead
from critique_rl.policy.hf import HFPolicy
from critique_rl.policy.scoring import Scorer
from critique_rl.types import Array, TokenIds
from tests.policy.bigram import Bigram
from tests.tiny import V, step_config, tiny_model, tiny_policy

PROMPTS: list[TokenIds] = [(4, 5, 6), (7,), (8, 9, 10, 11, 12), (4, 5)]
COMPLETIONS: list[TokenIds] = [(13, 14), (15, 16, 17, 18, 19, 20), (2,), (7, 7, 7)]


@torch.no_grad()
def dense_logprobs(policy: HFPolicy, prompt: TokenIds, completion: TokenIds, temperature: float) -> Array:
    """[T, V], one unpadded row at a time."""
    logits_TV = policy.model(input_ids=torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    return (logits_TV / temperature).log_softmax(-1).numpy()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("micro_batch_tokens", [1, 14, 10_000])
def test_log_probs_of_the_completions_own_tokens(temperature: float, micro_batch_tokens: int) -> None:
    policy = tiny_policy(step_config(temperature=temperature, optimizer={"micro_batch_tokens": micro_batch_tokens}))
    scored = policy.logprobs(PROMPTS, COMPLETIONS)
    for prompt, completion, logprobs_T in zip(PROMPTS, COMPLETIONS, scored, strict=True):
        dense_TV = dense_logprobs(policy, prompt, completion, temperature)
        np.testing.assert_allclose(logprobs_T, dense_TV[range(len(completion)), completion], rtol=1e-10)
    assert policy.logprobs([], []) == []


@pytest.mark.parametrize("k", [1, 5, V, V + 30])
def test_top_k_of_the_scoring_model(k: int) -> None:
    policy = tiny_policy(step_config(temperature=0.8, optimizer={"micro_batch_tokens": 14}))
    scored = policy.topk_logprobs(PROMPTS, COMPLETIONS, k=k, who="policy")
    for prompt, completion, found in zip(PROMPTS, COMPLETIONS, scored, strict=True):
        dense_TV = dense_logprobs(policy, prompt, completion, 0.8)
        order_TV = np.argsort(-dense_TV, axis=1)[:, :k]  # K beyond the vocabulary means all of it
        assert found.ids_TK.tolist() == order_TV.tolist()
        np.testing.assert_allclose(found.logprobs_TK, np.take_along_axis(dense_TV, order_TV, axis=1), rtol=1e-10)
        np.testing.assert_allclose(found.sampled_logprobs_T, dense_TV[range(len(completion)), completion], rtol=1e-10)
        assert found.mask_T.tolist() == [1.0] * len(completion)
        assert found.context_ids == prompt


def test_log_probs_at_the_ids_of_a_support() -> None:
    policy = tiny_policy(step_config(optimizer={"micro_batch_tokens": 14}))
    support = policy.topk_logprobs(PROMPTS, COMPLETIONS, k=3, who="policy")
    contexts = [(20, 21, *prompt) for prompt in PROMPTS]
    scored = policy.topk_logprobs(contexts, COMPLETIONS, k=99, who="teacher", support=support)
    for context, completion, wanted, found in zip(contexts, COMPLETIONS, support, scored, strict=True):
        assert found.ids_TK.tolist() == wanted.ids_TK.tolist()
        dense_TV = dense_logprobs(policy, context, completion, 1.0)
        np.testing.assert_allclose(found.logprobs_TK, np.take_along_axis(dense_TV, wanted.ids_TK, axis=1), rtol=1e-10)


def test_no_chunk_size_of_the_head_changes_a_score() -> None:
    policy = tiny_policy(step_config(temperature=0.8))
    wanted = policy.topk_logprobs(PROMPTS, COMPLETIONS, k=3, who="policy")
    policy.train_step.head.chunk_bytes = 1
    at_support = policy.topk_logprobs(PROMPTS, COMPLETIONS, k=3, who="policy", support=wanted)
    for scored in (policy.topk_logprobs(PROMPTS, COMPLETIONS, k=3, who="policy"), at_support):
        for a, b in zip(scored, wanted, strict=True):
            assert a.ids_TK.tolist() == b.ids_TK.tolist()
            np.testing.assert_allclose(a.logprobs_TK, b.logprobs_TK, rtol=1e-12)
            np.testing.assert_allclose(a.sampled_logprobs_T, b.sampled_logprobs_T, rtol=1e-12)


def test_a_teacher_that_is_not_finite_is_masked_where_it_is_not() -> None:
    # after token 3 the model overflows; after token 2 it rules token 0 out, which matters only if that is asked for
    model = Bigram(5, {1: [0.2] * 5, 2: [0.0, 0.4, 0.3, 0.2, 0.1], 3: [math.nan] * 5})
    scorer = Scorer(cast(ResponseHead, model), Accelerator(cpu=True), temperature=1.0, max_tokens=99, pad_id=0)
    (found,) = scorer.topk([(1,)], [(2, 3, 4, 1)], k=4, support=None)
    assert found.mask_T.tolist() == [1.0, 1.0, 0.0, 1.0]
    support = [replace(found, ids_TK=np.array([[0], [0], [0], [0]]))]
    (found,) = scorer.topk([(1,)], [(2, 3, 4, 1)], k=1, support=support)
    assert found.mask_T.tolist() == [1.0, 0.0, 0.0, 1.0]


@pytest.mark.parametrize("layout", ["packed", "prefix"])
@pytest.mark.parametrize("max_tokens", [1, 14, 10_000])
def test_no_layout_changes_a_score(layout: Layout, max_tokens: int) -> None:
    prompts, completions = [*PROMPTS, PROMPTS[0]], [*COMPLETIONS, (21, 22, 23)]
    head = ResponseHead(tiny_model())
    padded, other = (
        Scorer(head, Accelerator(cpu=True), temperature=0.8, max_tokens=max_tokens, pad_id=0, layout=how)
        for how in ("padded", layout)
    )
    for a, b in zip(padded.logprobs(prompts, completions), other.logprobs(prompts, completions), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-10)
    wanted = padded.topk(prompts, completions, k=4, support=None)
    for support in (None, wanted):
        for a, b in zip(wanted, other.topk(prompts, completions, k=4, support=support), strict=True):
            assert a.ids_TK.tolist() == b.ids_TK.tolist() and a.context_ids == b.context_ids
            np.testing.assert_allclose(a.logprobs_TK, b.logprobs_TK, rtol=0, atol=1e-10)


def test_scoring_leaves_no_gradient() -> None:
    policy = tiny_policy()
    policy.logprobs(PROMPTS, COMPLETIONS)
    policy.topk_logprobs(PROMPTS, COMPLETIONS, k=3, who="teacher")
    assert all(p.grad is None for p in policy.model.parameters())

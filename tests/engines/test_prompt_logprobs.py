"""Prompt log-probs read by hand; what is wrong with a whole answer is in test_vllm_teacher.py."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from critique_rl.engines.prompt_logprobs import nothing, read_targets


def test_an_answer_by_hand() -> None:
    # V = 4, K = 2: token 3 with 0.1 comes first and lies outside the top two, 0.6 and 0.2
    log = {0: math.log(0.2), 1: math.log(0.6), 3: math.log(0.1)}
    entry = {str(i): {"logprob": log[i], "rank": r} for i, r in ((3, 3), (1, 1), (0, 2))}
    within = {str(i): {"logprob": log[i], "rank": r} for i, r in ((0, 2), (1, 1))}
    text = json.dumps({"prompt_logprobs": [None, entry, entry, within]})
    found = read_targets(text, (2, 3), (3, 0), k=2, vocabulary=4)
    assert found.ids_TK.tolist() == [[1, 0], [1, 0]]
    np.testing.assert_allclose(np.exp(found.logprobs_TK), [[0.6, 0.2], [0.6, 0.2]])
    np.testing.assert_allclose(np.exp(found.sampled_logprobs_T), [0.1, 0.2])
    assert found.mask_T.tolist() == [1.0, 1.0]


def test_equal_log_probs_keep_the_token_outside_the_top_k() -> None:
    log = math.log(0.25)
    entry = {str(i): {"logprob": log, "rank": 4} for i in (3, 0, 1)}
    text = json.dumps({"prompt_logprobs": [None, entry]})
    found = read_targets(text, (2,), (3,), k=2, vocabulary=4)
    assert (found.ids_TK.tolist(), found.mask_T.tolist()) == ([[0, 1]], [1.0])


def test_the_own_log_prob_may_not_be_better_than_one_of_the_top_k() -> None:
    # 0.5 for the token itself, which would then be one of the top two: these ids are not the top two
    values = {3: 0.5, 0: 0.2, 1: 0.1}
    entry = {str(i): {"logprob": math.log(p)} for i, p in values.items()}
    text = json.dumps({"prompt_logprobs": [None, entry]})
    assert read_targets(text, (2,), (3,), k=2, vocabulary=4).mask_T.tolist() == [0.0]


@pytest.mark.parametrize("text", ["", "null", "{}", '{"prompt_logprobs": [null, {"3": 1}]}', "[" * 9999])
def test_no_answer_at_all(text: str) -> None:
    with pytest.raises(ValueError, match=r"prompt_logprobs|JSON|Answer"):
        read_targets(text, (2,), (3,), k=2, vocabulary=4)


def test_nothing_is_not_a_number() -> None:
    targets = nothing((1, 2), 3, 2)
    assert targets.ids_TK.shape == (3, 2) and targets.context_ids == (1, 2)
    assert np.isnan(targets.logprobs_TK).all() and np.isnan(targets.sampled_logprobs_T).all()
    assert targets.mask_T.tolist() == [0.0, 0.0, 0.0]

"""Sampling with `generate`: its log-probs are the trainer's, its ends are real, and nothing is inherited."""

from __future__ import annotations

import logging
import random

import numpy as np
import pytest
import torch
from transformers import GenerationConfig
from transformers.utils import logging as transformers_logging

from critique_rl.errors import ModelError
from critique_rl.policy.hf import HFPolicy
from critique_rl.types import Completion, TokenIds
from tests.tiny import EOS, V, step_config, tiny_engine, tiny_policy

PROMPTS: list[TokenIds] = [(4, 5, 6), (7,), (8, 9, 10, 11, 12, 13), (7, 14), (15, 4, 5), (6,)]
ENDS = (EOS, 20, 21, 22, 23, 24)


@torch.no_grad()
def greedy(policy: HFPolicy, prompt: TokenIds, ends: tuple[int, ...], max_tokens: int) -> TokenIds:
    """The most likely next token, again and again, without cache or padding."""
    written: list[int] = []
    while len(written) < max_tokens and not (written and written[-1] in ends):
        logits_V = policy.model(input_ids=torch.tensor([[*prompt, *written]])).logits[0, -1]
        written.append(int(logits_V.argmax()))
    return tuple(written)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.6])
@pytest.mark.parametrize("batch_size", [1, 4, 8])
def test_behaviour_log_probs_are_the_trainers(temperature: float, batch_size: int) -> None:
    # left padding and a cache here, right padding and one forward pass there
    policy = tiny_policy(step_config(temperature=temperature))
    completions = tiny_engine(policy, end_ids=ENDS, batch_size=batch_size).generate(
        PROMPTS, max_tokens=7, temperature=temperature, seed=3
    )
    scored = policy.logprobs(PROMPTS, [c.completion_ids for c in completions])
    for completion, logprobs_T in zip(completions, scored, strict=True):
        np.testing.assert_allclose(completion.behaviour_logprobs, logprobs_T, atol=2e-6)  # generate works in float32


def test_a_completion_ends_with_the_first_end_token_or_is_unfinished() -> None:
    policy = tiny_policy()
    engine = tiny_engine(policy, end_ids=ENDS)
    completions = engine.generate(PROMPTS * 8, max_tokens=6, temperature=1.0, seed=0)
    last = {c.completion_ids[-1] for c in completions if c.finished}
    assert len(last & set(ENDS)) == len(last) >= 3  # several ends really occurred
    assert any(not c.finished for c in completions)
    for c in completions:
        ends = [t for t, token in enumerate(c.completion_ids) if token in ENDS]
        assert ends == ([len(c.completion_ids) - 1] if c.finished else [])
        assert c.finished or len(c.completion_ids) == 6
        assert len(c.behaviour_logprobs) == len(c.completion_ids)
        assert c.text == policy.tokenizer.decode(list(c.completion_ids), skip_special_tokens=True)


def test_padding_that_is_itself_an_end_token_is_no_second_end() -> None:
    policy = tiny_policy()
    policy.pad_id = EOS
    with_own_pad = tiny_engine(tiny_policy(), end_ids=ENDS).generate(PROMPTS, max_tokens=6, temperature=1.0, seed=0)
    assert tiny_engine(policy, end_ids=ENDS).generate(PROMPTS, max_tokens=6, temperature=1.0, seed=0) == with_own_pad


def test_one_token_of_room() -> None:
    completions = tiny_engine(tiny_policy()).generate(PROMPTS, max_tokens=1, temperature=1.0, seed=0)
    assert [len(c.completion_ids) for c in completions] == [1] * len(PROMPTS)
    assert tiny_engine(tiny_policy()).generate([], max_tokens=1, temperature=1.0, seed=0) == []


def test_completions_come_in_the_order_of_the_prompts() -> None:
    policy = tiny_policy()
    completions = tiny_engine(policy, end_ids=ENDS, batch_size=4).generate(
        PROMPTS, max_tokens=5, temperature=0.0, seed=0
    )
    assert [c.completion_ids for c in completions] == [greedy(policy, p, ENDS, 5) for p in PROMPTS]


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_greedy_does_not_depend_on_batch_or_seed(batch_size: int) -> None:
    policy = tiny_policy()
    whole = tiny_engine(policy, batch_size=99).generate(PROMPTS, max_tokens=6, temperature=0.0, seed=0)
    parts = tiny_engine(policy, batch_size=batch_size).generate(PROMPTS, max_tokens=6, temperature=0.0, seed=1)
    assert [c.completion_ids for c in parts] == [c.completion_ids for c in whole]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.behaviour_logprobs, other.behaviour_logprobs, atol=2e-6)


@pytest.mark.parametrize("temperature", [0.6, 1.0])
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_a_completion_does_not_depend_on_the_batch(temperature: float, batch_size: int) -> None:
    policy = tiny_policy()  # in float64, so that logits do not depend on it either
    whole = tiny_engine(policy, end_ids=ENDS, batch_size=99).generate(
        PROMPTS, max_tokens=6, temperature=temperature, seed=4
    )
    parts = tiny_engine(policy, end_ids=ENDS, batch_size=batch_size).generate(
        PROMPTS, max_tokens=6, temperature=temperature, seed=4
    )
    assert [(c.completion_ids, c.text, c.finished) for c in parts] == [
        (c.completion_ids, c.text, c.finished) for c in whole
    ]
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.behaviour_logprobs, other.behaviour_logprobs, atol=2e-6)


@pytest.mark.parametrize("shares", [[[0, 2, 4], [1, 3, 5]], [[5, 1, 0], [4], [], [3, 2]]])
def test_processes_that_share_a_call_out_give_what_one_gives(shares: list[list[int]]) -> None:
    engine = tiny_engine(tiny_policy(), end_ids=ENDS, batch_size=2)
    whole = engine.generate(PROMPTS, max_tokens=6, temperature=1.0, seed=4)
    for share in shares:
        told: dict[int, TokenIds] = {}
        part = engine.generate_rows(
            [PROMPTS[i] for i in share],
            share,
            max_tokens=6,
            temperature=1.0,
            seed=4,
            on_done=lambda i, c, told=told: told.update({i: c.completion_ids}),
        )
        assert [c.completion_ids for c in part] == [whole[i].completion_ids for i in share]
        assert told == {n: c.completion_ids for n, c in enumerate(part)}  # counted as the share's prompts are


def test_equal_prompts_get_draws_of_their_own() -> None:
    engine = tiny_engine(tiny_policy())
    drawn = engine.generate([(4, 5)] * 30, max_tokens=4, temperature=1.0, seed=0)
    assert len({c.completion_ids for c in drawn}) > 20


def test_a_shorter_limit_cuts_the_same_completion() -> None:
    engine = tiny_engine(tiny_policy(), end_ids=ENDS)
    long, short = (engine.generate(PROMPTS, max_tokens=n, temperature=1.0, seed=0) for n in (6, 3))
    assert [c.completion_ids[:3] for c in long] == [c.completion_ids for c in short]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_finite(temperature: float) -> None:
    policy = tiny_policy()
    with torch.no_grad():
        next(policy.model.lm_head.parameters()).fill_(torch.nan)  # pyright: ignore
    with pytest.raises(ModelError, match=r"logits are not finite.*resume from an earlier checkpoint"):
        tiny_engine(policy).generate(PROMPTS, max_tokens=3, temperature=temperature, seed=0)


def test_a_seed_decides_and_the_global_random_state_is_left_alone() -> None:
    engine = tiny_engine(tiny_policy(), batch_size=4)

    def draw(seed: int) -> list[TokenIds]:
        return [c.completion_ids for c in engine.generate(PROMPTS, max_tokens=6, temperature=1.0, seed=seed)]

    torch.manual_seed(123)
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()  # pyright: ignore[reportIndexIssue,reportCallIssue,reportArgumentType]
    first = draw(5)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1] and np.random.get_state()[1].tolist() == states[2]  # pyright: ignore[reportIndexIssue,reportCallIssue,reportArgumentType]
    torch.manual_seed(456)
    assert draw(5) == first
    assert draw(6) != first


def test_sampling_follows_the_models_distribution() -> None:
    policy = tiny_policy()
    engine = tiny_engine(policy, batch_size=4000)
    drawn = engine.generate([(4, 5)] * 4000, max_tokens=1, temperature=1.5, seed=0)
    counts = np.bincount([c.completion_ids[0] for c in drawn], minlength=V) / 4000
    with torch.no_grad():
        expected = (policy.model(input_ids=torch.tensor([[4, 5]])).logits[0, -1] / 1.5).softmax(-1).numpy()
    # three standard deviations of a share of 4000 draws, and no id is out of reach
    assert (np.abs(counts - expected) < 3.5 * np.sqrt(expected / 4000) + 1 / 4000).all()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nothing_is_inherited_from_the_models_generation_config(temperature: float) -> None:
    plain, loaded = tiny_policy(), tiny_policy()
    own = GenerationConfig(
        do_sample=True,
        temperature=0.1,
        top_k=1,
        top_p=0.1,
        min_p=0.9,
        repetition_penalty=5.0,
        no_repeat_ngram_size=1,
        min_new_tokens=6,
        suppress_tokens=list(range(4, 30)),
        num_beams=2,
        num_return_sequences=2,
        eos_token_id=33,
        max_length=3,
    )
    loaded.model.generation_config = own

    def drawn(policy: HFPolicy) -> list[Completion]:
        return tiny_engine(policy, end_ids=ENDS).generate(PROMPTS, max_tokens=6, temperature=temperature, seed=2)

    assert drawn(loaded) == drawn(plain)
    assert loaded.model.generation_config is own


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_transformers_has_nothing_to_complain_about(temperature: float, caplog: pytest.LogCaptureFixture) -> None:
    transformers_logging.warning_once.cache_clear()  # or a complaint made by an earlier test is not repeated
    library = transformers_logging.get_logger("transformers")
    library.addHandler(caplog.handler)
    try:
        with caplog.at_level(logging.WARNING, logger="transformers"):
            tiny_engine(tiny_policy()).generate(PROMPTS, max_tokens=3, temperature=temperature, seed=0)
    finally:
        library.removeHandler(caplog.handler)
    assert caplog.messages == []

"""Continuous batching gives what `generate` gives, and leaves the model as it found it."""

from __future__ import annotations

import itertools
import random
import weakref
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, cast

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from transformers import MistralConfig, MistralForCausalLM
from transformers.generation.continuous_batching import ContinuousBatchingManager

from critique_rl.build import build_sampler
from critique_rl.config.run import RunConfig
from critique_rl.engines import continuous
from critique_rl.engines.continuous import ContinuousEngine
from critique_rl.engines.local import as_completion
from critique_rl.errors import ModelError
from critique_rl.policy.hf import HFPolicy
from critique_rl.types import Completion, TokenIds
from tests.tiny import EOS, step_config, tiny_engine, tiny_policy

PROMPTS: list[TokenIds] = [(4, 5, 6), (7,), (8, 9, 10, 11, 12, 13), (7, 14), (15, 4, 5), (6,), (9, 9)]
ENDS = (EOS, 20, 21, 22)


def test_an_older_transformers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuous, "NEEDED", "transformers>=99")
    with pytest.raises(
        ModelError, match=r"transformers>=99 is required.*: pip install 'transformers>=99', or sample with"
    ):
        engine_of(tiny_policy())


def engine_of(
    policy: HFPolicy, *, batch_size: int = 3, memory_share: float = 0.5, kind: type[ContinuousEngine] = ContinuousEngine
) -> ContinuousEngine:
    return kind(
        policy.model,
        policy.tokenizer,
        policy.accelerator,
        end_ids=ENDS,
        batch_size=batch_size,
        memory_share=memory_share,
    )


def generate(engine: object, *, temperature: float = 1.0, seed: int = 3, max_tokens: int = 9) -> list[Completion]:
    made = cast(ContinuousEngine, engine)
    return made.generate(PROMPTS, max_tokens=max_tokens, temperature=temperature, seed=seed)


def ids_of(completions: list[Completion]) -> list[TokenIds]:
    return [c.completion_ids for c in completions]


class Tight(ContinuousEngine):
    """With room for one of the longest sequences, and a little."""

    def _made(self, pages: int | None) -> ContinuousBatchingManager:
        return super()._made(5)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
@pytest.mark.parametrize("temperature", [0.0, 0.7, 1.0])
def test_it_is_what_generate_gives(batch_size: int, temperature: float) -> None:
    policy = tiny_policy()
    found = generate(engine_of(policy, batch_size=batch_size), temperature=temperature)
    wanted = generate(tiny_engine(policy, end_ids=ENDS), temperature=temperature)
    assert ids_of(found) == ids_of(wanted)
    assert [(c.text, c.finished) for c in found] == [(c.text, c.finished) for c in wanted]
    assert {c.finished for c in found} == {True, False} or temperature == 0.0
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one.behaviour_logprobs, other.behaviour_logprobs, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_behaviour_log_probs_are_the_trainers(dtype: torch.dtype) -> None:
    policy = tiny_policy(step_config(temperature=0.8))
    policy.model.to(dtype)  # pyright: ignore[reportArgumentType]
    completions = generate(engine_of(policy), temperature=0.8)
    scored = policy.logprobs(PROMPTS, ids_of(completions))
    for completion, logprobs_T in zip(completions, scored, strict=True):
        np.testing.assert_allclose(completion.behaviour_logprobs, logprobs_T, atol=5e-6)


def test_prompts_longer_than_a_step_are_read_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tiny_policy()
    whole = generate(engine_of(policy))
    monkeypatch.setattr(continuous, "STEP_TOKENS", 4)
    pieces = generate(engine_of(policy))
    assert ids_of(pieces) == ids_of(whole)
    for one, other in zip(pieces, whole, strict=True):
        np.testing.assert_allclose(one.behaviour_logprobs, other.behaviour_logprobs, atol=2e-6)


def test_sequences_that_make_room_for_others_begin_anew_with_the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuous, "PAGE_TOKENS", 4)
    policy = tiny_policy()
    whole = generate(engine_of(policy, batch_size=7), max_tokens=14)
    asked: list[int] = []
    forward = policy.model.forward
    policy.model.forward = lambda **kwargs: (asked.append(kwargs["input_ids"].shape[1]), forward(**kwargs))[1]  # pyright: ignore
    tight = generate(engine_of(policy, batch_size=7, kind=Tight), max_tokens=14)
    assert sum(asked) > sum(len(p) + len(c.completion_ids) - 1 for p, c in zip(PROMPTS, whole, strict=True))
    assert ids_of(tight) == ids_of(whole)
    for one, other in zip(tight, whole, strict=True):
        np.testing.assert_allclose(one.behaviour_logprobs, other.behaviour_logprobs, atol=2e-6)


def test_such_sequences_stop_where_they_would_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuous, "PAGE_TOKENS", 4)
    policy = tiny_policy()
    plain = generate(engine_of(policy, batch_size=7), max_tokens=14)
    asked: list[int] = []
    forward = policy.model.forward
    policy.model.forward = lambda **kwargs: (asked.append(kwargs["input_ids"].shape[1]), forward(**kwargs))[1]  # pyright: ignore
    sampled: list[int] = []

    def counted(ids: Sequence[int], *rest: Any) -> Completion:
        sampled.append(len(ids))
        return as_completion(ids, *rest)

    monkeypatch.setattr(continuous, "as_completion", counted)

    def sample(kind: type[ContinuousEngine], stop: str) -> list[TokenIds]:
        sampled.clear()
        engine = engine_of(policy, batch_size=7, kind=kind)
        return ids_of(engine.generate(PROMPTS, max_tokens=14, temperature=1.0, seed=3, stop=[stop]))

    # Any two neighbours of the longest prompt's row, which has to begin anew: two stand on both sides of that.
    for one, other in itertools.pairwise(plain[2].text.split()[:-1]):
        stop = f"{one} {other}"[1:-1]
        whole = sample(ContinuousEngine, stop)
        assert whole != ids_of(plain)
        asked.clear()
        assert sample(Tight, stop) == whole
        assert sum(asked) > sum(len(p) + len(ids) - 1 for p, ids in zip(PROMPTS, whole, strict=True))
        assert sorted(sampled) == sorted(map(len, whole))  # not an id was sampled for nothing


def test_rows_of_a_larger_call() -> None:
    policy = tiny_policy()
    whole = generate(engine_of(policy))
    engine = engine_of(policy)
    told: list[tuple[int, Completion]] = []
    for rows in ([5, 0, 2], [1, 3, 4, 6]):
        part = engine.generate_rows(
            [PROMPTS[i] for i in rows],
            rows,
            max_tokens=9,
            temperature=1.0,
            seed=3,
            on_done=lambda i, c: told.append((i, c)),
        )
        assert part == [whole[i] for i in rows]
    assert sorted(i for i, _ in told) == [0, 0, 1, 1, 2, 2, 3]


def test_a_completion_is_told_when_it_ends_and_the_model_is_free_then() -> None:
    policy = tiny_policy()
    before = policy.logprobs(PROMPTS, PROMPTS)
    told: list[int] = []
    lengths: list[int] = []

    def hear(i: int, completion: Completion) -> None:
        told.append(i)
        lengths.append(len(completion.completion_ids))
        for now, then in zip(policy.logprobs(PROMPTS, PROMPTS), before, strict=True):
            np.testing.assert_array_equal(now, then)

    engine = engine_of(policy, batch_size=50)
    completions = engine.generate(PROMPTS, max_tokens=9, temperature=1.0, seed=3, on_done=hear)
    assert sorted(told) == list(range(len(PROMPTS)))
    assert lengths == sorted(lengths) and len(set(lengths)) > 1  # the short ones did not wait for the long ones
    assert [len(completions[i].completion_ids) for i in told] == lengths


def test_the_model_is_left_as_it_was_even_by_an_error() -> None:
    policy = tiny_policy()
    policy.model.train()
    attention = policy.model.config._attn_implementation  # pyright: ignore[reportPrivateUsage]
    own = policy.model.generation_config
    before = policy.logprobs(PROMPTS, PROMPTS)

    def fail(i: int, completion: Completion) -> None:
        raise KeyError(i)

    for on_done in (None, fail):
        try:
            engine_of(policy).generate(PROMPTS, max_tokens=9, temperature=1.0, seed=0, on_done=on_done)
        except KeyError:
            assert on_done is fail
        assert policy.model.config._attn_implementation == attention  # pyright: ignore[reportPrivateUsage]
        assert policy.model.training and policy.model.generation_config is own
        for now, then in zip(policy.logprobs(PROMPTS, PROMPTS), before, strict=True):
            np.testing.assert_array_equal(now, then)


def test_weights_are_read_live() -> None:
    policy = tiny_policy()
    engine = engine_of(policy)
    first = generate(engine)
    with torch.no_grad():
        for p in policy.model.parameters():
            p.mul_(1.3)
    second = generate(engine)
    assert ids_of(second) != ids_of(first)
    assert ids_of(second) == ids_of(generate(tiny_engine(policy, end_ids=ENDS)))


def test_the_cache_lives_for_one_call() -> None:
    held: list[weakref.ref[object]] = []

    class Watched(ContinuousEngine):
        def _made(self, pages: int | None) -> ContinuousBatchingManager:
            manager = super()._made(pages)
            assert manager.batch_processor is not None
            held.append(weakref.ref(manager.batch_processor.cache))
            return manager

    generate(engine_of(tiny_policy(), kind=Watched))
    assert [reference() for reference in held] == [None]


def test_a_seed_decides_and_the_global_random_state_is_left_alone() -> None:
    engine = engine_of(tiny_policy())
    torch.manual_seed(123)
    states = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    first = generate(engine, seed=5)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), str(np.random.get_state())) == states[1:]
    torch.manual_seed(456)
    assert generate(engine, seed=5) == first
    assert generate(engine, seed=6) != first


class HalfPrecision:
    """An accelerator of which only the compute type is asked."""

    def autocast(self) -> AbstractContextManager[None]:
        return cast(AbstractContextManager[None], torch.autocast("cpu", torch.bfloat16))


def test_float32_weights_with_bfloat16_arithmetic() -> None:
    policy = tiny_policy()
    policy.model.float()
    policy.accelerator = cast(Accelerator, HalfPrecision())
    found = generate(engine_of(policy))
    wanted = generate(tiny_engine(policy, end_ids=ENDS))
    for one, other in zip(found, wanted, strict=True):
        # bfloat16 has 8 bits: logits of about 4 are known to about 0.02, and only until two draws part
        shared = [a == b for a, b in zip(one.completion_ids, other.completion_ids, strict=False)]
        same = shared.index(False) if False in shared else len(shared)
        np.testing.assert_allclose(one.behaviour_logprobs[:same], other.behaviour_logprobs[:same], atol=0.1)
    exact = policy.model(input_ids=torch.tensor([PROMPTS[0]])).logits[0, -1].log_softmax(-1)
    first = found[0]
    assert exact[first.completion_ids[0]].item() != first.behaviour_logprobs[0]  # it really is another arithmetic


def test_sliding_windows_are_left_to_the_other_engine() -> None:
    policy = tiny_policy()
    windowed = MistralForCausalLM(
        MistralConfig(
            vocab_size=40,
            hidden_size=16,
            intermediate_size=24,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=1,
            sliding_window=8,
        )
    )
    policy.model = windowed.eval()
    attention = windowed.config._attn_implementation  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(ModelError, match=r"full attention in every layer.*sliding_attention; set engine\.kind = 'hf'"):
        generate(engine_of(policy))
    assert windowed.config._attn_implementation == attention  # pyright: ignore[reportPrivateUsage]


def test_too_little_memory() -> None:
    with pytest.raises(ModelError, match=r"no cache .* in engine\.memory_share = 1e-09 of free memory.*raise it"):
        generate(engine_of(tiny_policy(), memory_share=1e-9))


def test_a_cache_that_holds_no_whole_sequence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(continuous, "PAGE_TOKENS", 4)
    with pytest.raises(ModelError, match=r"holds no whole sequence .*raise it, lower rollout\.max_tokens"):
        generate(engine_of(tiny_policy(), kind=Tight), max_tokens=40)


def test_logits_that_are_not_finite() -> None:
    policy = tiny_policy()
    with torch.no_grad():
        policy.model.get_output_embeddings().weight.fill_(torch.nan)  # pyright: ignore
    with pytest.raises(ModelError, match="logits are not finite"):
        generate(engine_of(policy))


def test_an_empty_prompt_and_no_prompt() -> None:
    engine = engine_of(tiny_policy())
    assert engine.generate([], max_tokens=3, temperature=1.0, seed=0) == []
    with pytest.raises(ValueError, match="prompt 1 holds no token"):
        engine.generate([(4,), ()], max_tokens=3, temperature=1.0, seed=0)


def test_a_run_file_names_it() -> None:
    config = RunConfig.model_validate(
        {
            "algorithm": {"name": "grpo"},
            "tasks": {"kind": "lab"},
            "policy": {"device": "cpu"},
            "engine": {"kind": "continuous", "memory_share": 0.25},
            "rollout": {"batch_size": 5},
        }
    )
    policy, engine = build_sampler(config)
    assert isinstance(engine, ContinuousEngine)
    assert engine.model is policy.model
    assert (engine.batch_size, engine.memory_share) == (5, 0.25)

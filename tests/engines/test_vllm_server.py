"""Sampling over HTTP: nothing but the asked-for distribution, the right weights, and no completion lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from critique_rl.config.engine import VllmEngineConfig
from critique_rl.engines.vllm_server import VllmServerEngine, request_seed, vllm_engine
from critique_rl.errors import ConfigError, EngineError
from critique_rl.types import Array, Completion, Message, TokenIds
from tests.servers.vllm import BASE_SCALE, END, WEIGHTS_FILE, FakeVllm, Trouble, logprob, sample

PROMPTS: list[TokenIds] = [(5, 6), (7,), (5, 6), (8, 9, 10), (11,), (12, 13)]
KEY = "a-key-that-must-not-show"


class FakePolicy:
    """Scores as the fake server does; `scale` is its one weight."""

    def __init__(self, temperature: float = 1.0) -> None:
        self.version = 0
        self.scale = 1.5
        self.temperature = temperature

    def encode(self, messages: Sequence[Message]) -> TokenIds:
        return tuple(len(message.content) for message in messages)

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(str(i) for i in ids if i != END)

    def logprobs(self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> list[Array]:
        return [np.array([logprob(i, self.scale, self.temperature) for i in ids]) for ids in completions]

    def save(self, directory: Path) -> None:
        (directory / WEIGHTS_FILE).write_text(json.dumps(self.scale), encoding="utf-8")


@contextmanager
def running(
    directory: Path, trouble: Trouble | None = None, policy: FakePolicy | None = None, **options: object
) -> Generator[tuple[VllmServerEngine, FakeVllm, FakePolicy]]:
    """An engine before a fake server."""
    policy = policy or FakePolicy()
    with FakeVllm(trouble) as fake:
        config = VllmEngineConfig.model_validate(
            {"kind": "vllm", "model": "small", "base_url": fake.base_url, "weights_directory": str(directory)}
            | {"timeout_s": 5.0, "restart_wait_s": 5.0}
            | options
        )
        engine = vllm_engine(config, policy, policy.save, end_ids=[END], temperature=policy.temperature, poll_s=0.005)
        try:
            yield engine, fake, policy
        finally:
            engine.close()


def generate(
    engine: VllmServerEngine,
    *,
    temperature: float = 1.0,
    seed: int = 3,
    on_done: Callable[[int, Completion], None] | None = None,
    stop: Sequence[str] = (),
) -> list[Completion]:
    return engine.generate(PROMPTS, max_tokens=9, temperature=temperature, seed=seed, on_done=on_done, stop=stop)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_completions_are_what_the_server_sampled(tmp_path: Path, temperature: float) -> None:
    with running(tmp_path, policy=FakePolicy(temperature)) as (engine, _, policy):
        completions = generate(engine, temperature=temperature)
    for i, completion in enumerate(completions):
        ids = sample(list(PROMPTS[i]), request_seed(3, i), 9)
        assert completion.completion_ids == tuple(ids)
        assert completion.behaviour_logprobs == tuple(logprob(t, policy.scale, temperature) for t in ids)
        assert completion.finished == (ids[-1] == END)
        assert completion.text == policy.decode(ids)
    assert {c.finished for c in completions} == {True, False}


def test_sampling_is_unmodified_and_ends_at_our_ids(tmp_path: Path) -> None:
    with running(tmp_path) as (engine, fake, _):
        generate(engine, temperature=0.7)
        last = fake.asked("/inference/v1/generate")[-len(PROMPTS) :]
    unmodified = {"n": 1, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
    unmodified |= {"presence_penalty": 0.0, "frequency_penalty": 0.0, "min_tokens": 0}
    for body in last:
        sampling = body["sampling_params"]
        assert isinstance(sampling, dict)
        assert unmodified.items() <= sampling.items()
        assert (sampling["stop_token_ids"], sampling["ignore_eos"], sampling["logprobs"]) == ([END], True, 0)
        assert (sampling["temperature"], sampling["max_tokens"]) == (0.7, 9)
        assert sampling["detokenize"] is False and "stop" not in sampling
    assert sorted(tuple(body["token_ids"]) for body in last) == sorted(PROMPTS)  # pyright: ignore[reportArgumentType]


def stops_of(whole: list[Completion]) -> list[str]:
    """One across two ids, one inside an id."""
    ids = next(c.completion_ids for c in whole if len(c.completion_ids) > 4)
    return [f"{ids[2]} {ids[3]}"[1:], "3"]


@pytest.mark.parametrize("overshoots", [0, 2])
def test_stop_strings_are_the_servers_to_look_for_and_ours_to_cut_at(tmp_path: Path, overshoots: int) -> None:
    with running(tmp_path, Trouble(overshoots=overshoots)) as (engine, fake, policy):
        whole = generate(engine)
        stop = stops_of(whole)
        before = len(fake.requests)
        found = generate(engine, stop=stop)
        asked = [body["sampling_params"] for at, body in fake.requests[before:] if at.endswith("/generate")]
    assert len(asked) == len(PROMPTS)
    for sampling in asked:
        assert isinstance(sampling, dict)
        wanted = {"stop": stop, "include_stop_str_in_output": True, "detokenize": True, "skip_special_tokens": True}
        assert wanted.items() <= sampling.items()
        assert (sampling["stop_token_ids"], sampling["ignore_eos"]) == ([END], True)
    stopped = 0
    for one, other in zip(found, whole, strict=True):
        kept = next(
            (
                n
                for n in range(1, len(other.completion_ids) + 1)
                if any(text in policy.decode(other.completion_ids[:n]) for text in stop)
            ),
            None,
        )
        stopped += kept is not None
        assert one.completion_ids == other.completion_ids[:kept]
        assert one.behaviour_logprobs == other.behaviour_logprobs[:kept]
        assert one.text == policy.decode(one.completion_ids)
        assert one.finished == (other.finished or kept is not None)
    assert stopped >= 2


def test_stop_strings_that_are_never_met_change_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as (engine, _, _):
        assert generate(engine, stop=["</search>"]) == generate(engine)


def test_a_stop_that_our_text_does_not_hold_is_told(tmp_path: Path) -> None:
    class Other(FakePolicy):
        def decode(self, ids: Sequence[int]) -> str:
            return ""

    said = pytest.raises(EngineError, match=r"stopped at id \d+, which ends none here, and its text here holds none of")
    with running(tmp_path, policy=Other()) as (engine, _, _), said:
        generate(engine, stop=["3"])


def test_equal_prompts_differ_and_equal_calls_agree(tmp_path: Path) -> None:
    with running(tmp_path) as (engine, _, _):
        first, again, other = generate(engine), generate(engine), generate(engine, seed=4)
    assert first == again != other
    assert first[0] != first[2]  # the same prompt


def test_seeds_are_distinct_and_fit_json() -> None:
    seeds = {request_seed(seed, i) for seed in range(20) for i in range(50)}
    assert len(seeds) == 1000 and max(seeds) < 2**53
    assert request_seed(1, 23) != request_seed(12, 3)


def test_each_completion_is_told_once_on_the_callers_thread(tmp_path: Path) -> None:
    told: dict[int, Completion] = {}
    threads: set[int] = set()

    def take(i: int, completion: Completion) -> None:
        assert i not in told
        told[i] = completion
        threads.add(threading.get_ident())

    with running(tmp_path) as (engine, _, _):
        completions = generate(engine, on_done=take)
    assert [told[i] for i in range(len(PROMPTS))] == completions
    assert threads == {threading.get_ident()}


def test_no_prompts(tmp_path: Path) -> None:
    with running(tmp_path) as (engine, _, _):
        assert engine.generate([], max_tokens=3, temperature=1.0, seed=0) == []


def test_what_on_done_raises_comes_out_and_the_engine_goes_on(tmp_path: Path) -> None:
    def stop(_i: int, _completion: Completion) -> None:
        raise KeyboardInterrupt

    with running(tmp_path) as (engine, _, _):
        with pytest.raises(KeyboardInterrupt):
            generate(engine, on_done=stop)
        assert len(generate(engine)) == len(PROMPTS)


def test_weights_follow_the_policys_version(tmp_path: Path) -> None:
    with running(tmp_path) as (engine, fake, policy):
        generate(engine)
        generate(engine)
        assert len(fake.asked("/collective_rpc")) == 1
        policy.version, policy.scale = 1, 2.5
        completions = generate(engine)
        assert len(fake.asked("/collective_rpc")) == 2
        assert fake.scale == 2.5
    assert completions[0].behaviour_logprobs[0] == logprob(completions[0].completion_ids[0], 2.5, 1.0)


def test_a_server_that_dies_midway_gets_the_weights_again_and_nothing_is_lost(tmp_path: Path) -> None:
    with running(tmp_path) as (engine, _, _):
        whole = generate(engine)
    told: list[int] = []
    trouble = Trouble(dies_after=4)  # two probes and two completions
    with running(tmp_path, trouble, max_in_flight=1) as (engine, fake, policy):
        completions = generate(engine, on_done=lambda i, _: told.append(i))
        assert len(fake.asked("/collective_rpc")) == 2
        assert fake.scale == policy.scale != BASE_SCALE
    assert completions == whole
    assert sorted(told) == list(range(len(PROMPTS)))


def test_completions_of_a_server_that_restarted_unseen_are_not_used(tmp_path: Path) -> None:
    with running(tmp_path) as (engine, _, _):
        right = generate(engine)
    with running(tmp_path, Trouble(forgets_after=4), max_in_flight=1) as (engine, fake, policy):
        assert generate(engine) == right
        assert len(fake.asked("/collective_rpc")) == 2
        assert fake.scale == policy.scale != BASE_SCALE


def test_a_server_that_stays_away_is_one_clear_error(tmp_path: Path) -> None:
    trouble = Trouble(dies_after=3, looks_down=10**6)
    said = pytest.raises(EngineError, match=r"no healthy server at 127.0.0.1:\d+ for 0.05 s; start it and resume")
    with running(tmp_path, trouble, restart_wait_s=0.05) as (engine, _, _), said:
        generate(engine)


def test_a_server_that_dies_too_often(tmp_path: Path) -> None:
    said = pytest.raises(EngineError, match="went away 1 times within one batch")
    with running(tmp_path, Trouble(dies_after=3), max_restarts=0) as (engine, _, _), said:
        generate(engine)


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (Trouble(logprobs_mode="raw_logprobs"), "--logprobs-mode processed_logprobs"),
        (Trouble(served="large"), r"serves \['large'\], not 'small'"),
        (Trouble(no_dev=True), "VLLM_SERVER_DEV_MODE=1"),
        (Trouble(refuses=(403, "Scale-out endpoints are disabled")), "Scale-out endpoints are disabled"),
        (Trouble(refuses=(400, "prompt too long")), r"refused \(400\).*prompt too long"),
        (Trouble(cache_stays=True), "did not reset its prefix cache"),
        (Trouble(answer={"logprobs": {"content": []}}), "wanted one each"),
        (Trouble(answer={"token_ids": [4], "logprobs": {"content": [{"token_id": 4, "logprob": -9999.0}]}}), "finite"),
        (Trouble(answer={"weight_versions": None}), "cannot be used"),
        (
            Trouble(
                answer={
                    "token_ids": [4],
                    "logprobs": {"content": [{"token_id": 4, "logprob": -1.0}]},
                    "finish_reason": "stop",
                }
            ),
            "stopped at id 4",
        ),
    ],
)
def test_a_server_that_cannot_be_used_is_told_at_once(tmp_path: Path, trouble: Trouble, said: str) -> None:
    with running(tmp_path, trouble) as (engine, _, _), pytest.raises(EngineError, match=said):
        generate(engine)


def test_aborted_completions_are_asked_for_again(tmp_path: Path) -> None:
    with running(tmp_path, Trouble(answer={"finish_reason": "abort"}), max_restarts=0) as (engine, fake, _):
        with pytest.raises(EngineError, match="ended a completion with 'abort'"):
            generate(engine)
        assert len(fake.asked("/inference/v1/generate")) == 6  # two probes, three sends each


def test_the_key_is_sent_and_never_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    with running(tmp_path, Trouble(refuses=(401, f"bad key {KEY}"))) as (engine, fake, _):
        with pytest.raises(EngineError) as caught:
            generate(engine)
        assert set(fake.headers) == {f"Bearer {KEY}"}
    assert KEY not in str(caught.value) and KEY not in repr(engine)


@pytest.mark.parametrize("temperature", [0.001, 0.0099])
def test_a_temperature_that_vllm_would_change(tmp_path: Path, temperature: float) -> None:
    with running(tmp_path) as (engine, _, _), pytest.raises(ConfigError, match=r"no colder than 0\.01"):
        generate(engine, temperature=temperature)

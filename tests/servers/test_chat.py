from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from critique_rl.config.critic import OpenAICriticConfig
from critique_rl.critics.openai_compatible import openai_critic
from critique_rl.types import CriticOutcome, CriticRequest, Message, Score, Task
from tests.servers.chat import CHAOS, ChatOptions, ChatProcess, ChatServer, expected_reply


def ask(url: str, attempt: str, *, timeout_s: float = 5.0) -> bytes:
    content = f"Question:\n?\n[begin attempt 0f]\n{attempt}\n[end attempt 0f]\n"
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": content}]}).encode()
    request = urllib.request.Request(f"{url}/chat/completions", data=body)
    with urllib.request.urlopen(request, timeout=timeout_s) as reply:
        return reply.read()


def text_of(answer: bytes) -> object:
    return json.loads(answer)["choices"][0]["message"]["content"]


def test_a_reply_follows_from_the_attempt_and_is_counted_under_its_mark() -> None:
    with ChatServer() as server, ThreadPoolExecutor(8) as threads:
        attempts = [f"attempt {n}" for n in range(40)]
        answers = list(threads.map(partial(ask, server.url), attempts))
        stats = server.stats()
    for attempt, answer in zip(attempts, answers, strict=True):
        right, reply = expected_reply(attempt), json.loads(str(text_of(answer)))
        assert reply["scores"] == right.scores
        assert [directive["text"] for directive in reply["directives"]] == [right.directive]
        assert stats.requests[right.mark] == ["ok"]
    assert (stats.kinds, stats.total) == ({"ok": 40}, 40)
    assert len({expected_reply(attempt).mark for attempt in attempts}) == 40


def test_equal_seeds_give_equal_trouble_and_a_second_try_draws_anew() -> None:
    def kinds(seed: int) -> dict[str, list[str]]:
        with ChatServer(ChatOptions(seed=seed, chaos={"429": 0.3, "garbage": 0.3})) as server:
            for n in range(30):
                for _ in range(2):
                    try:
                        ask(server.url, str(n))
                    except urllib.error.HTTPError as limited:
                        assert 0.05 <= float(limited.headers["Retry-After"]) <= 0.2
                        limited.close()
            return dict(server.stats().requests)

    first = kinds(1)
    assert first == kinds(1) != kinds(2)
    assert any(a != b for a, b in first.values())


@pytest.mark.parametrize(("kind", "error"), [("hang", TimeoutError), ("reset", ConnectionError)])
def test_a_connection_that_hangs_or_is_reset_never_answers(kind: str, error: type[Exception]) -> None:
    with ChatServer(ChatOptions(chaos={kind: 1.0})) as server:
        with pytest.raises(error):
            ask(server.url, "a", timeout_s=0.3)
        assert server.stats().kinds == {kind: 1}


@pytest.mark.parametrize("kind", ["garbage", "empty", "half"])
def test_an_answer_that_is_no_reply_comes_with_status_200(kind: str) -> None:
    with ChatServer(ChatOptions(chaos={kind: 1.0})) as server:
        answers = [ask(server.url, str(number)) for number in range(12)]
        assert server.stats().kinds == {kind: 12}
    assert not any(holds_reply(answer) for answer in answers)
    assert len({holds_completion(answer) for answer in answers}) == (1 if kind in ("garbage", "empty") else 2)


def holds_completion(answer: bytes) -> bool:
    try:
        return bool(json.loads(answer)["choices"])
    except ValueError:
        return False


def holds_reply(answer: bytes) -> bool:
    try:
        return bool(json.loads(str(text_of(answer) or "")))
    except ValueError:
        return False


def test_a_process_of_its_own_ends_with_the_block() -> None:
    with ChatProcess(ChatOptions(latency_s=0.01, latency_sigma=0.5)) as server:
        assert expected_reply("a").mark.encode() in ask(server.url, "a")
        port = server.port
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=1).close()


def request_for(number: int) -> CriticRequest:
    task = Task(
        id=f"t{number}",
        messages=(Message(role="user", content=f"What is {number} + 15?"),),
        answer=str(number + 15),
        verifier="exact",
    )
    attempt = f"{number} + 15 is odd."
    return CriticRequest(rollout_id=f"r{number}", task=task, attempt=attempt, score=Score(reward=0.0))


def test_under_chaos_a_critic_gives_one_critique_a_request_none_wrong_and_loses_no_reply() -> None:
    requests = [request_for(number) for number in range(300)]
    chaos = {**CHAOS, "hang": 0.005}
    with ChatProcess(ChatOptions(latency_s=0.005, seed=2, chaos=chaos)) as server:
        config = OpenAICriticConfig(
            kind="openai", model="chat", base_url=server.url, max_in_flight=16, timeout_s=1.5, stage_deadline_s=30.0
        )
        critic = openai_critic(config)
        critiques = critic.review(requests)
        sends = critic.spent.calls
        critic.close()
        stats = server.stats()
    assert [critique.rollout_id for critique in critiques] == [request.rollout_id for request in requests]
    for critique, request in zip(critiques, requests, strict=True):
        right = expected_reply(request.attempt)
        met = stats.requests[right.mark]
        # A starved machine may miss an answer's time; then, and only then, it is asked for again.
        assert met.count("ok") <= 1 or critique.latency_s >= config.timeout_s, "an answer was asked for again"
        if critique.outcome is CriticOutcome.OK:
            assert met[-1] == "ok"
            assert {e.criterion: e.value for e in critique.evaluative} == right.scores
            assert [d.text for d in critique.directives] == [right.directive]
        else:
            assert "ok" not in met, "an answer was lost"
            assert (critique.evaluative, critique.directives) == ((), ())
    assert sends >= stats.total, "a send was not counted"
    assert set(stats.kinds) == {"ok", *CHAOS}
    assert sum(critique.outcome is CriticOutcome.OK for critique in critiques) > 280

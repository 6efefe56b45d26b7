"""What a remote critic does around its calls: asking again, deadlines, cancellation, stops, secrets."""

from __future__ import annotations

import json
import logging
import threading
from concurrent.futures import CancelledError
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from critique_rl.critics.openai_compatible import openai_critic
from critique_rl.errors import CriticSetupError
from critique_rl.feedback.cache import AnswerCache
from critique_rl.feedback.store import ExchangeStore
from critique_rl.protocols import StreamingCritic
from critique_rl.types import CriticOutcome, Usage
from tests.critics.openai_bench import ONE_CALL_USD, PRICES, Make, replayed, settings


def verdict(word: str, text: str = "Carry the one into the tens.") -> str:
    return json.dumps({"directives": [{"text": text}], "scores": {"correctness": 0.5}, "verdict": word})


# Asking again


def test_a_malformed_reply_is_asked_for_again_and_both_are_paid_and_replayed(
    critic: Any, server: Any, answer: Any, make_request: Make, tmp_path: Path
) -> None:
    server.script = [answer(text="no idea"), answer(text=verdict("incorrect"))]
    one = critic(seed=7)
    critique = one.review([make_request()])[0]
    assert (critique.outcome, critique.asks, critique.parse_form, critique.cached) == (
        CriticOutcome.OK,
        2,
        "json",
        False,
    )
    assert critique.usage == Usage(prompt_tokens=200, completion_tokens=40, cost_usd=pytest.approx(2 * ONE_CALL_USD))
    # The first ask's seed would bring the first ask's reply.
    assert [body["seed"] for body in server.bodies] == [7, 8]
    written = list(ExchangeStore(tmp_path / "e.jsonl"))
    assert [(e.sample_index, e.outcome.value, e.answered) for e in written] == [(0, "malformed", True), (1, "ok", True)]
    assert len({e.key for e in written}) == 2
    assert one.parse_forms == {"none": 1, "json": 1}
    assert replayed(tmp_path / "e.jsonl", [make_request()]) == [critique]


@pytest.mark.parametrize(
    ("fields", "sent"), [({"parse_retries": 0}, 1), ({"parse_retries": 2}, 3), ({"temperature": 0.0}, 1)]
)
def test_fresh_replies_are_bounded_and_pointless_without_temperature(
    critic: Any, server: Any, answer: Any, make_request: Make, fields: dict[str, Any], sent: int
) -> None:
    server.script = [answer(text="no idea")]
    critique = critic(**fields).review([make_request()])[0]
    assert (critique.outcome, critique.asks, len(server.bodies)) == (CriticOutcome.MALFORMED, sent, sent)


def test_a_cut_reply_is_asked_for_with_twice_the_tokens_even_without_temperature(
    critic: Any, server: Any, answer: Any, make_request: Make, tmp_path: Path
) -> None:
    server.script = [answer(finish_reason="length"), answer(finish_reason="length"), answer()]
    critique = critic(temperature=0.0, max_tokens=100, length_retries=2).review([make_request()])[0]
    assert (critique.outcome, critique.asks) == (CriticOutcome.OK, 3)
    assert [body["max_tokens"] for body in server.bodies] == [100, 200, 400]
    assert replayed(tmp_path / "e.jsonl", [make_request()]) == [critique]


def test_a_verdict_that_the_verifier_contradicts_is_asked_again_then_dropped(
    critic: Any, server: Any, answer: Any, make_request: Make, tmp_path: Path
) -> None:
    # The attempt was verified as wrong.
    server.script = [answer(text=verdict("correct", "First advice that is wrong.")), answer(text=verdict("incorrect"))]
    requests = [make_request(1, attempt="one")]
    one = critic()
    said = one.review(requests)
    assert (said[0].asks, said[0].verdict, len(said[0].directives)) == (2, "incorrect", 1)
    server.script = [answer(text=verdict("correct"))]
    requests.append(make_request(2, attempt="two"))
    said += one.review(requests[1:])
    assert (said[1].asks, said[1].verdict, said[1].directives) == (2, "correct", ())
    assert [reason for _, reason in said[1].dropped] == ["verdict disagrees with the verifier"]
    assert len(server.bodies) == 4
    assert replayed(tmp_path / "e.jsonl", requests) == said


def test_a_second_ask_that_fails_does_not_lose_the_first_reply(
    critic: Any, server: Any, answer: Any, make_request: Make, tmp_path: Path
) -> None:
    server.script = [answer(text=verdict("correct")), answer(status=503, text="overloaded")]
    critique = critic(max_attempts=1).review([make_request()])[0]
    assert (critique.outcome, critique.verdict, critique.asks) == (CriticOutcome.OK, "correct", 2)
    assert critique.usage.cost_usd == pytest.approx(ONE_CALL_USD)
    assert replayed(tmp_path / "e.jsonl", [make_request()]) == [critique]


@pytest.mark.parametrize(
    "bad",
    [
        {"refusal": "no"},
        {"status": 400, "text": "context_length exceeded"},
        {"status": 400, "text": "temperature is too high"},
    ],
)
def test_refusals_and_bad_requests_are_never_asked_again(
    critic: Any, server: Any, answer: Any, make_request: Make, bad: dict[str, Any]
) -> None:
    server.script = [answer(**bad)]
    critique = critic(parse_retries=3).review([make_request()])[0]
    assert (critique.asks, len({json.dumps(body["messages"]) for body in server.bodies})) == (1, 1)
    assert critique.evaluative == ()


def test_cost_is_unknown_only_where_an_answer_has_no_price(
    critic: Any, server: Any, answer: Any, make_request: Make
) -> None:
    unpriced = {name: None for name in PRICES}
    server.script = [answer(status=503, text="overloaded"), answer()]
    failed, answered = (critic(max_attempts=1, **unpriced).review([make_request()])[0] for _ in range(2))
    assert (failed.outcome, failed.usage) == (CriticOutcome.FAILED, Usage(cost_usd=0.0))
    assert (answered.outcome, answered.usage.cost_usd) == (CriticOutcome.OK, None)


# Deadlines, cancellation, closing


def test_what_is_open_at_the_stages_deadline_ends_as_timed_out_and_is_replayed_so(
    critic: Any, server: Any, answer: Any, make_request: Make, tmp_path: Path
) -> None:
    server.decide = lambda body: answer(delay_s=1.0 * ("slow one" in body["messages"][1]["content"]))
    requests = [make_request(1, attempt="a slow one"), make_request(2)]
    critiques = critic(stage_deadline_s=0.4).review(requests)
    assert [c.outcome for c in critiques] == [CriticOutcome.TIMED_OUT, CriticOutcome.OK]
    assert critiques[0].reason == "the stage's 0.4 s were over"
    assert critiques[0].usage == Usage(cost_usd=0.0)
    assert replayed(tmp_path / "e.jsonl", requests) == critiques


def test_submit_has_no_deadline_and_can_be_given_up(
    critic: Any, server: Any, answer: Any, make_request: Make, tmp_path: Path
) -> None:
    sent = threading.Event()

    def slow(body: dict[str, Any]) -> Any:
        sent.set()
        return answer(delay_s=0.6 if "never mind" in body["messages"][1]["content"] else 0.2)

    server.decide = slow
    one: StreamingCritic = critic(stage_deadline_s=0.01)
    assert isinstance(one, StreamingCritic)
    kept = one.submit(make_request(1))
    assert kept.result(timeout=5).outcome is CriticOutcome.OK
    sent.clear()
    given_up = one.submit(make_request(2, attempt="never mind"))
    assert sent.wait(5)
    given_up.cancel()
    with pytest.raises(CancelledError):
        given_up.result(timeout=5)
    one.close()
    last = list(ExchangeStore(tmp_path / "e.jsonl"))[-1]
    assert (last.outcome, last.answered, last.attempts) == (CriticOutcome.TIMED_OUT, False, 1)
    assert "given up" in last.reason


def test_closing_gives_up_what_is_open_and_closes_once(
    critic: Any, server: Any, answer: Any, make_request: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script = [answer(delay_s=0.5)]
    one = critic()
    closed: list[str] = []
    close_client = one._transport.close

    async def counted() -> None:
        closed.append(threading.current_thread().name)
        await close_client()

    monkeypatch.setattr(one._transport, "close", counted)
    futures = [one.submit(make_request(number, attempt=f"attempt {number}")) for number in range(3)]
    one.close()
    one.close()
    assert all(future.done() for future in futures)
    assert len(closed) == 1 and closed[0] != threading.current_thread().name


# Stops


def test_a_critic_that_never_answers_is_not_asked_for_ever(
    critic: Any, server: Any, answer: Any, make_request: Make
) -> None:
    server.script = [answer(status=401, text="no")]
    one = critic()
    for number in range(6):
        with pytest.raises(CriticSetupError, match="refused access"):
            one.submit(make_request(number, attempt=f"attempt {number}")).result(timeout=5)
    assert len(server.bodies) == 3


def test_a_cache_that_cannot_be_written_stops_the_run(server: Any, make_request: Make, tmp_path: Path) -> None:
    cache = AnswerCache(tmp_path / "cache.sqlite")
    with closing(openai_critic(settings(server), cache=cache)) as one:
        assert one.review([make_request(1)])[0].outcome is CriticOutcome.OK
        cache._connection.execute("PRAGMA query_only = 1")
        with pytest.raises(CriticSetupError, match=r"cache\.sqlite: the answer cache cannot be read or written"):
            one.review([make_request(2, attempt="another")])


# Secrets


def test_a_key_that_comes_back_is_written_nowhere(
    server: Any,
    answer: Any,
    make_request: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    key = "topsecret-value-1234"
    monkeypatch.setenv("STUB_KEY", key)
    config = settings(server, api_key_env="STUB_KEY", max_attempts=1, parse_retries=0, cache=str(tmp_path / "c.sqlite"))
    echoing = {"X-Your-Key": key, "Set-Cookie": f"key={key}"}
    server.script = [
        answer(text=json.dumps({"directives": [{"text": f"Use {key} here."}], "scores": {"c": 0}}), headers=echoing),
        answer(text=f"your key is {key}", headers=echoing),
        answer(status=401, text=f"bad key {key}", headers=echoing),
    ]
    with caplog.at_level(logging.DEBUG), closing(openai_critic(config, store=ExchangeStore(tmp_path / "e"))) as one:
        said = [one.review([make_request(n, attempt=f"attempt {n}")])[0] for n in range(3)]
    assert [critique.outcome.value for critique in said] == ["ok", "malformed", "failed"]
    server.script = [answer(status=401, text=f"bad key {key}", headers=echoing)]
    with (
        caplog.at_level(logging.DEBUG),
        closing(openai_critic(config)) as one,
        pytest.raises(CriticSetupError) as caught,
    ):
        one.review([make_request(8, attempt="another")])
    files = [path.read_bytes() for path in tmp_path.iterdir()]
    assert len(files) >= 2
    assert all(key.encode() not in content for content in files)
    assert key not in caplog.text + repr(said) + str(caught.value) + repr(one) + repr(config)
    assert any(b"[redacted]" in content for content in files)


def test_half_a_surrogate_pair_in_a_reply_does_not_break_the_record(
    critic: Any, server: Any, answer: Any, make_request: Make, tmp_path: Path
) -> None:
    server.script = [answer(text='{"scores": {"c": 1}} \ud800')]
    critique = critic().review([make_request()])[0]
    assert critique.reply.endswith("?")
    assert replayed(tmp_path / "e.jsonl", [make_request()]) == [critique]

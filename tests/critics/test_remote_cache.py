"""A remote critic and its cache: nothing is paid for twice, and what a key holds."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from critique_rl.critics.openai_compatible import endpoint_of, openai_critic
from critique_rl.feedback.cache import AnswerCache, CachedAnswer
from critique_rl.feedback.store import ExchangeStore
from critique_rl.types import CriticOutcome, CriticRequest, Critique, Usage
from tests.critics.openai_bench import ONE_CALL_USD, Make, replayed, settings


def under(rollout_id: str, request: CriticRequest) -> CriticRequest:
    """The same attempt at the same task, as another rollout."""
    return dataclasses.replace(request, rollout_id=rollout_id)


def test_an_equal_request_is_answered_from_the_cache_at_no_cost_and_recorded(
    server: Any, answer: Any, make_request: Make, tmp_path: Path
) -> None:
    server.script = [answer(text="no idea"), answer()]
    said: list[Critique] = []
    for run in range(2):
        config = settings(server, cache=str(tmp_path / "cache.sqlite"), name=f"critic {run}")
        with closing(openai_critic(config, store=ExchangeStore(tmp_path / f"{run}.jsonl"))) as one:
            said += one.review([under(f"rollout {run}", make_request())])
    assert len(server.bodies) == 2
    assert (said[0].cached, said[0].asks) == (False, 2)
    assert (said[1].cached, said[1].asks, said[1].usage, said[1].latency_s) == (True, 2, Usage(cost_usd=0.0), 0.0)
    assert (said[1].rollout_id, said[1].critic, said[1].directive_text) == (
        "rollout 1",
        "critic 1",
        said[0].directive_text,
    )
    written = list(ExchangeStore(tmp_path / "1.jsonl"))
    assert [(e.cached, e.attempts, e.reply) for e in written] == [(True, 0, "no idea"), (True, 0, said[0].reply)]
    assert replayed(tmp_path / "1.jsonl", [under("rollout 1", make_request())]) == said[1:]
    with closing(AnswerCache(tmp_path / "cache.sqlite")) as cache:
        kept = cache.get(written[1].key)
        assert kept is not None and kept.usage.cost_usd == pytest.approx(ONE_CALL_USD)


def test_failures_are_not_kept(server: Any, answer: Any, make_request: Make, tmp_path: Path) -> None:
    server.script = [answer(status=503, text="x"), answer(refusal="no"), answer(status=400, text="x"), answer()]
    cache = AnswerCache(tmp_path / "cache.sqlite")
    with closing(openai_critic(settings(server, max_attempts=1), cache=cache)) as one:
        outcomes = [one.review([make_request()])[0].outcome.value for _ in range(5)]
    # The 400 is taken for a refused schema, so the third request is sent again without one and answered.
    assert outcomes == ["failed", "refused", "ok", "ok", "ok"]
    with closing(AnswerCache(cache.path)) as again:
        assert len(again) == 1


def test_a_batchs_answer_kept_under_the_planned_key_is_what_review_finds(
    server: Any, make_request: Make, tmp_path: Path, good_reply: str
) -> None:
    cache = AnswerCache(tmp_path / "cache.sqlite")
    with closing(openai_critic(settings(server, batch_price_factor=0.5), cache=cache)) as one:
        plan = one.plan(make_request())
        assert plan.body["model"] == "stub" and plan.body["max_tokens"] == 512
        assert [m["role"] for m in plan.body["messages"]] == ["system", "user"]  # type: ignore[index,union-attr]
        prompt = plan.estimate.prompt_tokens
        assert plan.estimate.cost_usd == pytest.approx(0.5 * (prompt * 10 + 512 * 50) / 1e6)
        kept = CachedAnswer(text=good_reply, finish_reason="stop", model="m", usage=Usage(), latency_s=9.0)
        cache.put(plan.key, kept)
        critique = one.review([under("rollout 9", make_request())])[0]
    assert (critique.outcome, critique.cached, server.bodies) == (CriticOutcome.OK, True, [])


def test_the_key_of_a_request_is_its_content_and_its_server_not_the_critics_name(
    server: Any, make_request: Make
) -> None:
    def key(**fields: object) -> str:
        with closing(openai_critic(settings(server, **fields))) as one:
            return one.plan(make_request()).key

    same = [key(), key(name="other"), key(timeout_s=1.0, max_in_flight=2, max_calls=9)]
    other = [
        key(model="m2"),
        key(base_url="http://127.0.0.1:9/v1"),
        key(temperature=0.5),
        key(max_tokens=9),
        key(seed=1),
        key(structured_output="json_object"),
        key(criteria=("style",)),
    ]
    assert len(set(same)) == 1
    assert len({*same, *other}) == 8


def test_endpoint_holds_no_secret_and_no_scheme() -> None:
    assert endpoint_of("https://u:p@host:8/v1/?key=1#x") == "host:8/v1"


def test_equal_requests_in_flight_are_sent_once(
    critic: Any, server: Any, answer: Any, make_request: Make, tmp_path: Path
) -> None:
    server.script = [answer(delay_s=0.2)]
    requests = [under(name, make_request()) for name in ("one", "two")]
    critiques = critic().review(requests)
    assert len(server.bodies) == 1
    assert sorted(critique.usage.prompt_tokens for critique in critiques) == [0, 100]
    assert critiques[0].directives == critiques[1].directives
    assert sorted(e.attempts for e in ExchangeStore(tmp_path / "e.jsonl")) == [0, 1]

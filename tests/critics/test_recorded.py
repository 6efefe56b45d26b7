"""Record with a remote critic, replay without one: the same critiques, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from critique_rl.config.critic import OpenAICriticConfig, RecordedCriticConfig
from critique_rl.critics.openai_compatible import openai_critic
from critique_rl.critics.recorded import recorded_critic
from critique_rl.errors import CriticSetupError
from critique_rl.feedback.store import ExchangeStore, request_key
from critique_rl.resources import feedback_dir
from critique_rl.types import CriticOutcome, CriticRequest, Message, Score, Task

Make = Callable[..., CriticRequest]
EXAMPLE = "column_sums.jsonl"


def test_a_run_is_replayed_exactly_failures_included(
    server: Any, answer: Any, make_request: Make, tmp_path: Path
) -> None:
    path = tmp_path / "exchanges.jsonl"
    replies = ["the same attempt, answered so", "and now answered otherwise"]
    server.script = [
        *(
            answer(text=json.dumps({"directives": [{"text": text}], "scores": {"correctness": 0.5}}))
            for text in replies
        ),
        answer(text="no idea"),
        answer(text="no idea, again"),
        answer(finish_reason="length"),
        answer(finish_reason="length"),
        answer(refusal="no"),
        answer(status=503, text="overloaded"),
        answer(text='{"scores": {}}'),
    ]
    # r1 and r2 hold equal attempts at one task, so their messages and keys are equal; their answers are not.
    requests = [
        CriticRequest(rollout_id=f"r{number}", task=make_request().task, attempt=attempt, score=Score(reward=0.0))
        for number, attempt in enumerate(["same", "same", "a", "b", "c", "d", "e"], start=1)
    ]
    config = OpenAICriticConfig(
        kind="openai", model="stub", base_url=server.url, max_in_flight=1, max_attempts=1, timeout_s=5.0
    )
    live = openai_critic(config, store=ExchangeStore(path))
    said = [live.review([request])[0] for request in requests]
    live.close()
    assert [critique.outcome.value for critique in said] == [
        "ok", "ok", "malformed", "malformed", "refused", "failed", "abstained",
    ]  # fmt: skip
    replay = recorded_critic(RecordedCriticConfig(kind="recorded", path=str(path)))
    assert replay.review(requests) == said
    assert replay.review(list(reversed(requests))) == list(reversed(said))
    replay.close()
    assert len(server.bodies) == 9


def test_what_was_never_recorded_fails_with_the_reason(server: Any, make_request: Make, tmp_path: Path) -> None:
    path = tmp_path / "exchanges.jsonl"
    live = openai_critic(
        OpenAICriticConfig(kind="openai", model="stub", base_url=server.url), store=ExchangeStore(path)
    )
    live.review([make_request()])
    live.close()
    replay = recorded_critic(RecordedCriticConfig(kind="recorded", path=str(path)))
    critique = replay.review([make_request(attempt="another one")])[0]
    assert critique.outcome is CriticOutcome.FAILED
    assert "no exchange is recorded for this request (prompt 'critic', hash " in critique.reason
    # The same attempt under another rollout's id is the same request.
    assert replay.review([make_request()])[0].outcome is CriticOutcome.OK
    replay.close()


def test_a_missing_or_empty_file_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(CriticSetupError, match="does not exist"):
        recorded_critic(RecordedCriticConfig(kind="recorded", path=str(tmp_path / "no.jsonl")))
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(CriticSetupError, match="holds no exchange"):
        recorded_critic(RecordedCriticConfig(kind="recorded", path=str(tmp_path / "empty.jsonl")))


def example_requests() -> list[CriticRequest]:
    made = []
    for number, (question, attempt, sum_) in enumerate(
        [("What is 27 + 15?", "27 + 15 = 32", "42"), ("What is 48 + 36?", "8 + 6 = 14, 4 + 3 = 7: 74", "84")], start=1
    ):
        task = Task(
            id=f"sum-{number}", messages=(Message(role="user", content=question),), answer=sum_, verifier="exact"
        )
        made.append(CriticRequest(rollout_id=f"example-{number}", task=task, attempt=attempt, score=Score(reward=0.0)))
    return made


def test_the_shipped_example_replays(tmp_path: Path) -> None:
    """If prompts/critic.md changed on purpose, its keys here change too: the failure shows the new ones."""
    path = feedback_dir() / "recorded" / EXAMPLE
    critic = recorded_critic(RecordedCriticConfig(kind="recorded", path=str(path)))
    critiques = critic.review(example_requests())
    exchanges = list(ExchangeStore(path))
    critic.close()
    wanted = [
        request_key(endpoint=one.endpoint, model=one.model, messages=one.messages, sampling=one.sampling)
        for one in exchanges
    ]
    assert [one.key for one in exchanges] == wanted
    assert [critique.outcome for critique in critiques] == [CriticOutcome.OK] * 2, critiques
    assert critiques[0].directive_text == "Add the ones again: they come to more than nine, so carry one into the tens."
    assert critiques[1].directive_text == "Carry the one from the ones before you add the tens."
    # The critic's second directive for the second sum stated the answer, and was refused.
    assert [reason for _, reason in critiques[1].dropped] == ["states the reference answer"]

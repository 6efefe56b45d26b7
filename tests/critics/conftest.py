"""A chat server on loopback, scripted answer by answer, and requests to review."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from critique_rl.critics.openai_compatible import openai_critic
from critique_rl.critics.remote import RemoteCritic
from critique_rl.feedback.store import ExchangeStore
from critique_rl.types import CriticRequest, Message, Score, Task
from tests.critics.openai_bench import settings
from tests.servers.scripted_chat import REPLY, Answer, ScriptedChat


@pytest.fixture
def server() -> Iterator[ScriptedChat]:
    one = ScriptedChat()
    yield one
    one.close()


@pytest.fixture
def answer() -> type[Answer]:
    return Answer


@pytest.fixture
def good_reply() -> str:
    return REPLY


@pytest.fixture
def make_request() -> Callable[..., CriticRequest]:
    def make(
        number: int = 1, attempt: str = "27 + 15 = 32", detail: str = "", reference: str | None = None
    ) -> CriticRequest:
        message = Message(role="user", content="What is 27 + 15?")
        task = Task(id=f"t{number}", messages=(message,), answer="42", verifier="exact")
        score = Score(reward=0.0, detail=detail)
        return CriticRequest(rollout_id=f"r{number}", task=task, attempt=attempt, score=score, reference=reference)

    return make


@pytest.fixture
def critic(server: Any, tmp_path: Path) -> Iterator[Callable[..., RemoteCritic]]:
    made: list[RemoteCritic] = []

    def make(**fields: object) -> RemoteCritic:
        made.append(openai_critic(settings(server, **fields), store=ExchangeStore(tmp_path / "e.jsonl")))
        return made[-1]

    yield make
    for one in made:
        one.close()

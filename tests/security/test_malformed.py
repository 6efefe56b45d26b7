"""A malformed reply is malformed: it crashes nothing and is never a score."""

from __future__ import annotations

import pytest

from critique_rl.critics.base import ReplyContext, read_reply
from critique_rl.errors import CriticMalformedError
from critique_rl.feedback.parse import parse_reply
from critique_rl.types import CriticOutcome, CriticRequest, Message, Score, Task


def request() -> CriticRequest:
    task = Task(id="t1", messages=(Message(role="user", content="What is 27 + 15?"),), answer="42", verifier="exact")
    return CriticRequest(rollout_id="r1", task=task, attempt="27 + 15 = 32", score=Score(reward=0.0))


def test_it_is_malformed_and_says_why(malformed: str) -> None:
    with pytest.raises(CriticMalformedError) as caught:
        parse_reply(malformed)
    reason = str(caught.value)
    assert 0 < len(reason) < 400
    reason.encode("utf-8")
    assert not any(ord(character) < 32 for character in reason)


def test_it_becomes_an_outcome_that_trains_nothing(malformed: str) -> None:
    critique = read_reply(malformed, request(), ReplyContext(critic="c"))
    assert critique.outcome is CriticOutcome.MALFORMED
    assert (critique.evaluative, critique.directives, critique.verdict) == ((), (), None)
    assert critique.reason
    assert critique.reply == malformed


def test_a_lenient_form_reads_as_the_strict_one(lenient: tuple[str, str]) -> None:
    text, form = lenient
    parsed = parse_reply(text)
    assert parsed.form == form
    assert (parsed.reply.scores, parsed.reply.verdict, parsed.reply.confidence) == (
        {"correctness": 0.25},
        "incorrect",
        0.5,
    )
    assert len(parsed.reply.directives) == 1
    assert parsed.reply.directives[0].turn is None

"""Reply forms: a server that ignores the one it took, tags instead of JSON, a step down in the middle."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from critique_rl.critics.base import CRITIC_INPUTS
from critique_rl.errors import CriticMalformedError
from critique_rl.feedback.parse import parse_reply
from critique_rl.prompting.catalogue import load_prompt
from critique_rl.types import CriticOutcome
from tests.critics.openai_bench import Make, replayed


def test_a_server_that_ignores_the_schema_is_counted_and_said_once(
    critic: Any, server: Any, answer: Any, make_request: Make, good_reply: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.script = [answer(text=f"Sure!\n{good_reply}\nGood luck.")]
    one = critic()
    with caplog.at_level(logging.WARNING, logger="critique_rl"):
        for number in range(10):
            assert one.review([make_request(number, attempt=f"attempt {number}")])[0].parse_form == "embedded"
    assert one.parse_forms == {"embedded": 10}
    assert [record.getMessage().split(":")[1] for record in caplog.records] == ["stub"]
    assert "none of its first 8 replies was JSON alone" in caplog.text


def test_one_reply_that_is_json_alone_clears_the_server(
    critic: Any, server: Any, answer: Any, make_request: Make, good_reply: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.script = [answer(), answer(text=f"Sure!\n{good_reply}")]
    one = critic()
    with caplog.at_level(logging.WARNING, logger="critique_rl"):
        for number in range(10):
            one.review([make_request(number, attempt=f"attempt {number}")])
    assert caplog.records == []


@pytest.mark.parametrize(("cut", "warned"), [('{"directives": [{"text": "Carry', False), ("The attempt is", True)])
def test_a_cut_reply_keeps_to_the_schema_only_if_it_begins_like_one(
    critic: Any, server: Any, answer: Any, make_request: Make, caplog: pytest.LogCaptureFixture, cut: str, warned: bool
) -> None:
    server.script = [answer(text=cut, finish_reason="length")]
    one = critic(length_retries=0)
    with caplog.at_level(logging.WARNING, logger="critique_rl"):
        for number in range(9):
            one.review([make_request(number, attempt=f"attempt {number}")])
    assert bool(caplog.records) == warned


TAGS = """<directive kind="fact">Carry the one into the tens.</directive>
<score name="correctness">0.25</score><score name="reasoning">0.5</score>
<verdict>incorrect</verdict><confidence>0.75</confidence>"""


def test_plain_text_from_the_start_asks_for_tags_and_is_replayed(
    critic: Any, server: Any, answer: Any, make_request: Make, tmp_path: Path
) -> None:
    server.script = [answer(text=TAGS)]
    critique = critic(structured_output="text").review([make_request()])[0]
    assert "response_format" not in server.bodies[0]
    assert '<score name="CRITERION">NUMBER</score>' in server.bodies[0]["messages"][1]["content"]
    assert (critique.outcome, critique.parse_form, critique.verdict) == (CriticOutcome.OK, "tags", "incorrect")
    assert critique.directives[0].kind == "fact"
    assert replayed(tmp_path / "e.jsonl", [make_request()]) == [critique]


def test_a_step_down_in_the_middle_keeps_the_json_prompt(
    critic: Any, server: Any, answer: Any, make_request: Make
) -> None:
    server.script = [answer(status=400, text="response_format"), answer(status=400, text="response_format"), answer()]
    critique = critic().review([make_request()])[0]
    assert "response_format" not in server.bodies[-1]
    assert critique.parse_form == "json" and "Reply with one JSON object" in server.bodies[-1]["messages"][1]["content"]


@pytest.mark.parametrize("name", ["critic", "critic_tags"])
def test_a_prompt_sent_back_is_no_reply(name: str) -> None:
    template = load_prompt(name)
    template.check_available(CRITIC_INPUTS)
    filled = {key: f"some {key}" for key in template.inputs}
    with pytest.raises(CriticMalformedError):
        parse_reply(template.render(**filled))

"""The reply's fields, and the JSON schemas made from them."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from critique_rl.feedback.schema import SCHEMA_FILE, SCORE_LEVELS, CriticReply, schema_text, wire_schema
from critique_rl.resources import feedback_dir


def test_the_schema_file_is_up_to_date() -> None:
    found = (feedback_dir() / SCHEMA_FILE).read_text(encoding="utf-8")
    assert found == schema_text(), "run: python -m critique_rl.feedback.schema"
    assert json.loads(found)["properties"].keys() == {"directives", "scores", "verdict", "confidence"}


def test_the_wire_schema_is_closed_and_names_the_criteria() -> None:
    schema = wire_schema(["correctness", "style"])
    assert schema["required"] == ["directives", "scores", "verdict", "confidence"]
    assert schema["additionalProperties"] is False
    properties = schema["properties"]
    assert isinstance(properties, dict)
    scores = properties["scores"]
    assert isinstance(scores, dict)
    assert scores["required"] == ["correctness", "style"]
    assert scores["properties"] == {
        name: {"type": "number", "enum": list(SCORE_LEVELS)} for name in ("correctness", "style")
    }
    # Free text is asked for before any score.
    assert next(iter(properties)) == "directives"


def test_without_directives_scores_come_first() -> None:
    schema, whole = (wire_schema(["style"], directives=wanted) for wanted in (False, True))
    assert schema["required"] == ["scores", "verdict", "confidence"]
    properties, all_of_them = schema["properties"], whole["properties"]
    assert isinstance(properties, dict) and isinstance(all_of_them, dict)
    assert properties == {name: part for name, part in all_of_them.items() if name != "directives"}


def test_whatever_the_wire_schema_allows_is_a_valid_reply() -> None:
    reply = CriticReply.model_validate(
        {
            "directives": [{"quote": None, "kind": "fact", "text": "Look up the date."}],
            "scores": {"correctness": 0.25},
            "verdict": None,
            "confidence": None,
        }
    )
    assert reply.scores == {"correctness": 0.25}
    assert not reply.empty


@pytest.mark.parametrize("score", [-0.01, 1.01, 5, float("nan"), float("inf"), True, "0.5", None])
def test_scores_outside_the_unit_interval_or_of_another_type_are_refused(score: object) -> None:
    with pytest.raises(ValidationError):
        CriticReply.model_validate({"scores": {"correctness": score}})


@pytest.mark.parametrize("name", ["", "a" * 41, "<b>", "x\ny", "1st"])
def test_criterion_names_are_plain(name: str) -> None:
    with pytest.raises(ValidationError):
        CriticReply.model_validate({"scores": {name: 0.5}})


def test_an_unknown_kind_is_a_procedure_and_an_empty_reply_says_so() -> None:
    reply = CriticReply.model_validate({"directives": [{"text": "Try it.", "kind": "advice"}]})
    assert reply.directives[0].kind == "procedure"
    assert CriticReply.model_validate({"directives": [], "scores": {}, "verdict": None}).empty


def test_a_turn_may_be_given_but_is_not_asked_for() -> None:
    reply = CriticReply.model_validate({"directives": [{"text": "Try it.", "turn": 2}]})
    assert reply.directives[0].turn == 2
    assert "turn" in schema_text()
    assert "turn" not in json.dumps(wire_schema(["correctness"]))

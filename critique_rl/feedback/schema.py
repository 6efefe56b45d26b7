"""What a critic may reply: one pydantic model, and the JSON schemas made from it.

Owns: the reply's fields and their bounds. Must not know: how a reply is found in text, or what it is used for.
`feedback/reply.schema.json` is written by `python -m critique_rl.feedback.schema`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, cast, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from critique_rl.resources import feedback_dir

JsonValue = None | bool | int | float | str | list["JsonValue"] | dict[str, "JsonValue"]
JsonObject = dict[str, JsonValue]
DirectiveKind = Literal["procedure", "fact", "format", "preference", "tool"]
SCHEMA_FILE = "reply.schema.json"
SCORE_LEVELS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Scores that a constrained reply may take: servers honour an enum, some ignore the bounds of a number."""
MAX_ITEMS = 16
MAX_TURNS = 1000
REPLY_FIELDS = frozenset({"directives", "scores", "verdict"})


def _known_kind(value: object) -> object:
    return value if value in get_args(DirectiveKind) else "procedure"


def _sensible_turn(value: object) -> object:
    return value if type(value) is int and 0 <= value < MAX_TURNS else None


Unit = Annotated[float, Field(strict=True, ge=0, le=1, allow_inf_nan=False)]
Criterion = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_ .-]{0,39}$")]


class ReplyDirective(BaseModel):
    """One thing to do differently; `quote` is the span of the attempt that it is about."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    quote: str | None = Field(default=None, description="words of the attempt that this is about, verbatim")
    kind: Annotated[DirectiveKind, BeforeValidator(_known_kind)] = "procedure"
    turn: Annotated[int | None, BeforeValidator(_sensible_turn)] = Field(
        default=None, description="which assistant turn of the attempt this is about, counted from 0"
    )
    text: str = Field(description="one instruction, at most 60 words, that does not state the final answer")


class CriticReply(BaseModel):
    """A critic's reply: directives first, so that a model which writes in order thinks before it scores."""

    model_config = ConfigDict(frozen=True, extra="ignore", title="critique_rl critic reply")

    directives: tuple[ReplyDirective, ...] = Field(default=(), max_length=MAX_ITEMS)
    scores: dict[Criterion, Unit] = Field(
        default_factory=dict[str, float], max_length=MAX_ITEMS, description="criterion -> 0 (worst) to 1 (best)"
    )
    verdict: Literal["correct", "incorrect"] | None = Field(default=None, description="null if it cannot be told")
    confidence: Unit | None = Field(default=None, description="how sure the critic is of scores and verdict")

    @property
    def empty(self) -> bool:
        """True if the critic said nothing at all: an abstention."""
        return not self.directives and not self.scores and self.verdict is None


def reply_schema() -> JsonObject:
    """The JSON schema of any acceptable reply: what `feedback/reply.schema.json` holds."""
    schema = cast(JsonObject, CriticReply.model_json_schema())
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def wire_schema(criteria: Sequence[str], *, directives: bool = True) -> JsonObject:
    """A flat, closed schema for constrained decoding: every field required, the named criteria and no others.

    Without `directives` there is no list of them: a small model may fill it until its reply is cut off, before it
    comes to the scores.
    """
    text: JsonObject = {"type": "string"}
    directive = _closed(
        {"quote": {"type": ["string", "null"]}, "kind": _enum(get_args(DirectiveKind)), "text": text},
    )
    listed: JsonObject = {"directives": {"type": "array", "items": directive}} if directives else {}
    return _closed(
        {
            **listed,
            "scores": _closed({name: {"type": "number", "enum": list(SCORE_LEVELS)} for name in criteria}),
            "verdict": {"type": ["string", "null"], "enum": ["correct", "incorrect", None]},
            "confidence": {"type": ["number", "null"], "enum": [*SCORE_LEVELS, None]},
        }
    )


def _closed(properties: Mapping[str, JsonValue]) -> JsonObject:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _enum(values: Sequence[str]) -> JsonObject:
    return {"type": "string", "enum": list(values)}


def schema_text() -> str:
    """The exact content of `feedback/reply.schema.json`."""
    return json.dumps(reply_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    (feedback_dir() / SCHEMA_FILE).write_text(schema_text(), encoding="utf-8")

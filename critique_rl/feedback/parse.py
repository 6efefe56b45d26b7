"""Finds a critic's reply in the text that came back: strict JSON, then one embedded object, then tagged text.

Owns: the ladder, its caps, and the refusal of anything ambiguous. Must not know: the attempt, the verifier, filters.
A reply that does not parse is CriticMalformedError, never a neutral score.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Literal, NamedTuple, NoReturn, cast

from pydantic import ValidationError

from critique_rl.errors import CriticMalformedError
from critique_rl.feedback.schema import REPLY_FIELDS, CriticReply, JsonObject, JsonValue

MAX_REPLY_BYTES = 16_384
ParseForm = Literal["json", "embedded", "tags"]

_THINKING = re.compile(r"\s*<think>.*</think>", re.DOTALL)
_SCORE = re.compile(r"<score\s+name\s*=\s*[\"']?([^\"'>]{1,60})[\"']?\s*>([^<]{0,40})</score>", re.IGNORECASE)
_DIRECTIVE = re.compile(
    r"<directive(?:\s+kind\s*=\s*[\"']?(\w{1,20})[\"']?)?\s*>(.*?)</directive>", re.IGNORECASE | re.DOTALL
)
_VERDICT = re.compile(r"<verdict>([^<]{0,40})</verdict>", re.IGNORECASE)
_CONFIDENCE = re.compile(r"<confidence>([^<]{0,40})</confidence>", re.IGNORECASE)


class ParsedReply(NamedTuple):
    """`form` is the rung of the ladder that the reply was found on."""

    reply: CriticReply
    form: ParseForm


class _Found(NamedTuple):
    values: list[JsonObject]
    rejected: str


def parse_reply(text: str, *, max_bytes: int = MAX_REPLY_BYTES) -> ParsedReply:
    """Parse a raw reply. Raises CriticMalformedError saying why nothing in it can be used."""
    size = len(text.encode("utf-8", errors="replace"))
    if size > max_bytes:
        raise CriticMalformedError(f"the reply has {size} bytes; at most {max_bytes} are read")
    body = _THINKING.sub("", text, count=1).strip()
    if not body:
        raise CriticMalformedError("the reply is empty")
    whole = _decode_whole(body)
    if isinstance(whole, dict):
        return ParsedReply(reply=_validate(whole), form="json")
    found = _embedded(body)
    if found.values:
        return ParsedReply(reply=_agreed(found.values), form="embedded")
    # An object that was meant as the reply but is out of bounds ends the search: text inside it may look like tags.
    if found.rejected:
        raise CriticMalformedError(found.rejected)
    tagged = _tagged(body)
    if tagged is None:
        raise CriticMalformedError(f"neither a JSON reply nor tags in {body[:80]!r}")
    return ParsedReply(reply=_validate(tagged), form="tags")


def _decode_whole(text: str) -> JsonValue:
    try:
        return cast(JsonValue, _DECODER.decode(text))
    except (ValueError, RecursionError):
        return None


def _embedded(text: str) -> _Found:
    """Every top-level JSON object in the text that carries a reply's field and validates."""
    values: list[JsonObject] = []
    rejected = ""
    position = text.find("{")
    while position >= 0:
        try:
            value, end = cast(tuple[JsonValue, int], _DECODER.raw_decode(text, position))
        except (ValueError, RecursionError) as error:
            if isinstance(error, _RejectedJson):
                rejected = str(error)
            end = position + 1
        else:
            if isinstance(value, dict) and REPLY_FIELDS & value.keys():
                try:
                    _validate(value)
                    values.append(value)
                except CriticMalformedError as error:
                    rejected = str(error)
        position = text.find("{", end)
    return _Found(values=values, rejected=rejected)


def _agreed(values: list[JsonObject]) -> CriticReply:
    replies = [_validate(value) for value in values]
    if any(reply != replies[0] for reply in replies):
        raise CriticMalformedError(f"the reply holds {len(replies)} JSON objects that disagree; one was wanted")
    return replies[0]


def _tagged(text: str) -> JsonObject | None:
    directives: list[JsonValue] = [
        {"kind": kind or "procedure", "text": body.strip()} for kind, body in _DIRECTIVE.findall(text)
    ]
    # Scores and verdicts that stand inside a directive are quoted text, not the critic's own.
    outside = _DIRECTIVE.sub(" ", text)
    scores: dict[str, JsonValue] = {}
    for name, value in _SCORE.findall(outside):
        criterion, number = name.strip(), _number(value, "score")
        if scores.get(criterion, number) != number:
            raise CriticMalformedError(f"the reply scores {criterion!r} twice, with different values")
        scores[criterion] = number
    verdict = _only((word.strip().lower() for word in _VERDICT.findall(outside)), "verdict")
    confidence = _only((word.strip() for word in _CONFIDENCE.findall(outside)), "confidence")
    if not directives and not scores and verdict is None:
        return None
    return {
        "directives": directives,
        "scores": scores,
        "verdict": verdict,
        "confidence": None if confidence is None else _number(confidence, "confidence"),
    }


def _only(words: Iterable[str], tag: str) -> str | None:
    distinct = set(words)
    if len(distinct) > 1:
        raise CriticMalformedError(f"the reply holds several <{tag}> that disagree")
    return distinct.pop() if distinct else None


def _number(text: str, tag: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise CriticMalformedError(f"<{tag}> holds {text.strip()!r}; a number from 0 to 1 was wanted") from None


def _validate(value: JsonObject) -> CriticReply:
    if not REPLY_FIELDS & value.keys():
        raise CriticMalformedError(f"the JSON reply has none of the fields {', '.join(sorted(REPLY_FIELDS))}")
    try:
        return CriticReply.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise CriticMalformedError(f"reply field {where}: {first['msg']}; got {str(first['input'])[:40]!r}") from None


class _RejectedJson(ValueError):
    """Text that Python would decode but JSON does not allow, or that says two things at once."""


def _reject_constant(name: str) -> NoReturn:
    raise _RejectedJson(f"the reply holds {name}, which is not JSON; a number from 0 to 1 was wanted")


def _unique_keys(pairs: list[tuple[str, JsonValue]]) -> JsonObject:
    fields: JsonObject = {}
    for name, value in pairs:
        if name in fields and fields[name] != value:
            raise _RejectedJson(f"the reply gives field {name[:40]!r} twice, with different values")
        fields[name] = value
    return fields


_DECODER = json.JSONDecoder(object_pairs_hook=_unique_keys, parse_constant=_reject_constant)

"""Finds a critic's reply in the text that came back: strict JSON, then one embedded object, then tagged text.

Owns: the ladder, its caps, and the refusal of anything ambiguous. Must not know: the verifier, filters, tasks.
A reply that does not parse is CriticMalformedError, never a neutral score. Broken JSON is not repaired: a repair has to
guess which of two readings was meant, and the one that a hostile attempt wrote may be the better JSON.
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
_QUOTED = "the only reply in the text is one that stands in the attempt itself"
ParseForm = Literal["json", "embedded", "tags"]

MAX_OBJECTS = 64
_SCORE = re.compile(r"<score\s+name\s*=\s*[\"']?([^\"'>]{1,60})[\"']?\s*>([^<]{0,40})</score>", re.IGNORECASE)
_DIRECTIVE_TAG = re.compile(
    r"<directive(?:\s{1,8}kind\s{0,8}=\s{0,8}[\"']?(\w{1,20})[\"']?)?\s{0,8}>|(</directive>)", re.IGNORECASE
)
_VERDICT = re.compile(r"<verdict>([^<]{0,40})</verdict>", re.IGNORECASE)
_CONFIDENCE = re.compile(r"<confidence>([^<]{0,40})</confidence>", re.IGNORECASE)
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_OBJECT = re.compile(r"\{\s*\"")
_REPLY_LIKE = re.compile(r"[\"'](?:directives|scores|verdict)\\?[\"']\s{0,8}:")


class ParsedReply(NamedTuple):
    """`form` is the rung of the ladder that the reply was found on."""

    reply: CriticReply
    form: ParseForm


class _Object(NamedTuple):
    value: JsonObject
    source: str


class _Found(NamedTuple):
    """Reply-like objects in a text, the text around all objects, and why one that was meant as a reply is none."""

    objects: list[_Object]
    around: str
    rejected: str


class _Tags(NamedTuple):
    directives: list[JsonValue]
    outside: str


def parse_reply(text: str, *, attempt: str = "", max_bytes: int = MAX_REPLY_BYTES) -> ParsedReply:
    """Parse a raw reply. Raises CriticMalformedError saying why nothing in it can be used.

    A reply that stands in `attempt` too is a quotation or a copy of it, not the critic's own, and is never used.
    """
    size = len(text.encode("utf-8", errors="replace"))
    if size > max_bytes:
        raise CriticMalformedError(f"the reply has {size} bytes; at most {max_bytes} are read")
    try:
        return _climb(_without_thinking(text), attempt)
    except RecursionError:
        raise CriticMalformedError("the reply is nested too deeply to be read") from None


def _climb(body: str, attempt: str) -> ParsedReply:
    if not body:
        raise CriticMalformedError("the reply is empty")
    own = _Own(attempt)
    whole = _decode_whole(body)
    if isinstance(whole, dict):
        reply = _validate(whole)
        if own.quotes(_Object(value=whole, source=body)):
            raise CriticMalformedError(_QUOTED)
        return ParsedReply(reply=reply, form="json")
    found = _embedded(body)
    values = [one.value for one in found.objects if not own.quotes(one)]
    # An object that was meant as the reply but cannot be read ends the search: what is left may be a quotation.
    if found.rejected:
        raise CriticMalformedError(found.rejected)
    if _REPLY_LIKE.search(found.around):
        raise CriticMalformedError(f"the reply holds broken or cut-off JSON: {found.around.strip()[:80]!r}")
    if values:
        return ParsedReply(reply=_agreed(values), form="embedded")
    if found.objects:
        raise CriticMalformedError(_QUOTED)
    tagged = _tagged(body, own)
    if tagged is None:
        raise CriticMalformedError(f"neither a JSON reply nor tags in {body[:80]!r}")
    return ParsedReply(reply=_validate(tagged), form="tags")


class _Own:
    """Tells the critic's own words from those of the attempt."""

    def __init__(self, attempt: str) -> None:
        self._values = [one.value for one in _embedded(attempt, limit=len(attempt)).objects] if attempt else []
        self._text = _squeezed(attempt)

    def quotes(self, found: _Object) -> bool:
        """True if the attempt holds this object, or a reply-like one that says all that this one says."""
        if self.holds(found.source):
            return True
        said = {name: found.value[name] for name in REPLY_FIELDS & found.value.keys()}
        return any(all(name in other and other[name] == said[name] for name in said) for other in self._values)

    def holds(self, source: str) -> bool:
        """True if this text stands in the attempt, whatever its white space, quotes and backslashes."""
        return _squeezed(source) in self._text


def _squeezed(text: str) -> str:
    return "".join(text.casefold().split()).replace("'", '"').replace("\\", "")


def _without_thinking(text: str) -> str:
    """What follows the first </think> of a text that begins with <think>; a later one is somebody's quotation."""
    body = text.lstrip("\ufeff \t\r\n")
    if body.startswith("<think>"):
        thought, closed, body = body.partition("</think>")
        if not closed:
            raise CriticMalformedError(f"the reply never gets beyond its thinking: {thought[:40]!r}...")
    return body.strip()


def _decode_whole(text: str) -> JsonValue:
    try:
        return cast(JsonValue, _DECODER.decode(text))
    except ValueError:
        return None


def _embedded(text: str, *, limit: int = MAX_OBJECTS) -> _Found:
    """Every top-level JSON object in the text that carries a reply's field, as far as it validates."""
    objects: list[_Object] = []
    around: list[str] = []
    rejected = ""
    tried = position = kept = 0
    while match := _OBJECT.search(text, position):
        tried += 1
        if tried > limit:
            rejected = rejected or f"the reply holds more than {limit} objects; one was wanted"
            break
        position = match.start() + 1
        try:
            value, end = cast(tuple[JsonValue, int], _DECODER.raw_decode(text, match.start()))
        except RecursionError:
            rejected = "the reply is nested too deeply to be read"
            break
        except ValueError as error:
            rejected = str(error) if isinstance(error, _RejectedJson) else rejected
            continue
        around.append(text[kept : match.start()])
        position = kept = end
        if isinstance(value, dict) and REPLY_FIELDS & value.keys():
            try:
                _validate(value)
                objects.append(_Object(value=value, source=text[match.start() : end]))
            except CriticMalformedError as error:
                rejected = str(error)
    return _Found(objects=objects, around=" ".join([*around, text[kept:]]), rejected=rejected)


def _agreed(values: list[JsonObject]) -> CriticReply:
    replies = [_validate(value) for value in values]
    if any(reply != replies[0] for reply in replies):
        raise CriticMalformedError(f"the reply holds {len(replies)} JSON objects that disagree; one was wanted")
    return replies[0]


def _tagged(text: str, own: _Own) -> JsonObject | None:
    # Scores and verdicts that stand inside a directive are quoted text, not the critic's own.
    directives, outside = _directive_tags(text)
    scores: dict[str, JsonValue] = {}
    for match in _SCORE.finditer(outside):
        criterion, number = match[1].strip(), _number(match[2], "score")
        if scores.get(criterion, number) != number:
            raise CriticMalformedError(f"the reply scores {criterion!r} twice, with different values")
        scores[criterion] = number
    # One quoted tag makes all of them doubtful: to drop it alone would let an attempt choose which scores count.
    if any(own.holds(tag.group()) for pattern in (_SCORE, _VERDICT) for tag in pattern.finditer(outside)):
        raise CriticMalformedError(_QUOTED)
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


def _directive_tags(text: str) -> _Tags:
    directives: list[JsonValue] = []
    outside: list[str] = []
    opened: re.Match[str] | None = None
    position = 0
    for tag in _DIRECTIVE_TAG.finditer(text):
        if (tag[2] is None) == (opened is not None):
            raise CriticMalformedError("the reply's <directive> tags are nested or not closed")
        if opened is None:
            outside.append(text[position : tag.start()])
            opened = tag
        else:
            directives.append({"kind": opened[1] or "procedure", "text": text[position : tag.start()].strip()})
            opened = None
        position = tag.end()
    if opened is not None:
        raise CriticMalformedError("the reply's last <directive> is not closed")
    return _Tags(directives=directives, outside=" ".join([*outside, text[position:]]))


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
        reply = CriticReply.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        where = ascii(".".join(str(part) for part in first["loc"]))[1:-1][:80]
        raise CriticMalformedError(f"reply field {where}: {first['msg']}; got {str(first['input'])[:40]!r}") from None
    if any(_SURROGATE.search(f"{one.text}{one.quote or ''}") for one in reply.directives):
        raise CriticMalformedError("reply field directives: half of a surrogate pair, which is no text")
    return reply


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

"""The split: a parsed reply becomes per-criterion scalars on one side and accepted directives on the other.

Owns: the order of the filters that a directive must pass, and where its quote stands in the attempt. Must not know:
how the reply was obtained, or what scalars and directives are used for. A refused directive is kept with its reason
and never trains anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from critique_rl.feedback.hygiene import ADDRESS, DEGENERATE, INJECTION, TOOL_CALL, fault, is_loop
from critique_rl.feedback.language import is_foreign
from critique_rl.feedback.leak import leaks
from critique_rl.feedback.schema import CriticReply, ReplyDirective
from critique_rl.types import CriticRequest, Directive, Evaluative, ScoreStatus

__all__ = [
    "ADDRESS",
    "DEGENERATE",
    "DISAGREES",
    "DUPLICATE",
    "ECHO",
    "EMPTY",
    "INJECTION",
    "LANGUAGE",
    "LEAK",
    "TOOL_CALL",
    "DirectiveFilter",
    "SplitReply",
    "disagrees",
    "split",
]

LEAK = "states the reference answer"
DISAGREES = "verdict disagrees with the verifier"
EMPTY = "is empty"
DUPLICATE = "repeats an earlier directive"
ECHO = "repeats what the critic was sent"
LANGUAGE = "is in another script than the question and the attempt"

_MAX_QUOTE_WORDS = 400
# "\frac" and "\boxed" in a JSON string that forgot to double the backslash: \f and \b are its form feed and backspace.
_LOST_BACKSLASH = re.compile(r"[\x08\x0c](?=[A-Za-z])")


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectiveFilter:
    """Bounds on one directive's length, in characters, and on how many are taken from one reply."""

    min_chars: int = 10
    max_chars: int = 400
    max_directives: int = 4


class SplitReply(NamedTuple):
    """The two channels, the critic's own verdict, and what was refused as (text, reason)."""

    evaluative: tuple[Evaluative, ...]
    directives: tuple[Directive, ...]
    verdict: Literal["correct", "incorrect"] | None
    dropped: tuple[tuple[str, str], ...]


def split(
    reply: CriticReply,
    request: CriticRequest,
    *,
    bounds: DirectiveFilter | None = None,
    asked: str = "",
    critic: str = "",
) -> SplitReply:
    """Split a reply to one attempt. Scalars pass as they are; each directive is accepted or dropped with a reason.

    `asked` is the text that the critic was sent: a directive that only repeats words of it advises nothing. `critic` is
    the name that directives carry.
    """
    bounds = bounds or DirectiveFilter()
    asked = _plain(asked)
    disagreement = disagrees(reply.verdict, request)
    kept: list[Directive] = []
    dropped: list[tuple[str, str]] = []
    seen: set[str] = set()
    for item in reply.directives:
        raw = _with_backslashes(item.text)
        text = " ".join(raw.split())
        reason = DISAGREES if disagreement else _refusal(raw, text, request, bounds)
        if not reason and asked and _plain(text) in asked:
            reason = ECHO
        if not reason and text.casefold() in seen:
            reason = DUPLICATE
        if not reason and len(kept) >= bounds.max_directives:
            reason = f"is beyond the first {bounds.max_directives} directives"
        if reason:
            dropped.append((text, reason))
            continue
        seen.add(text.casefold())
        kept.append(_directive(item, text, request.attempt, critic))
    evaluative = tuple(
        Evaluative(criterion=name, value=value, confidence=reply.confidence) for name, value in reply.scores.items()
    )
    return SplitReply(evaluative=evaluative, directives=tuple(kept), verdict=reply.verdict, dropped=tuple(dropped))


def disagrees(verdict: Literal["correct", "incorrect"] | None, request: CriticRequest) -> bool:
    """True if the critic says right and the verifier wrong, or the reverse; a verifier that failed settles nothing."""
    if verdict is None or request.score.status is ScoreStatus.ERROR:
        return False
    return (verdict == "correct") != request.score.correct


class _Place(NamedTuple):
    quote: str | None
    span: tuple[int, int] | None


def _directive(item: ReplyDirective, text: str, attempt: str, critic: str) -> Directive:
    place = _locate(_with_backslashes(item.quote or ""), attempt)
    return Directive(text=text, kind=item.kind, quote=place.quote, span=place.span, turn=item.turn, critic=critic)


def _locate(quote: str, attempt: str) -> _Place:
    """Where a quote stands. One that occurs more than once has no span; one that only differs in white space has the
    span of its first occurrence and becomes the attempt's own words."""
    if not quote.strip():
        return _Place(quote=None, span=None)
    start = attempt.find(quote)
    if start >= 0:
        once = attempt.find(quote, start + 1) < 0
        return _Place(quote=quote, span=(start, start + len(quote)) if once else None)
    words = quote.split()
    if len(words) > _MAX_QUOTE_WORDS:
        return _Place(quote=None, span=None)
    found = re.search(r"\s+".join(map(re.escape, words)), attempt)
    return _Place(quote=found.group(), span=found.span()) if found else _Place(quote=None, span=None)


def _with_backslashes(text: str) -> str:
    return _LOST_BACKSLASH.sub(lambda found: "\\" + ("f" if found.group() == "\f" else "b"), text)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _refusal(raw: str, text: str, request: CriticRequest, bounds: DirectiveFilter) -> str:
    if not text:
        return EMPTY
    reason = fault(raw)
    if reason:
        return reason
    if len(text) < bounds.min_chars:
        return f"is shorter than {bounds.min_chars} characters"
    if len(text) > bounds.max_chars:
        return f"is longer than {bounds.max_chars} characters"
    if is_loop(text):
        return DEGENERATE
    if leaks(text, request.task.answer, question=request.task.question):
        return LEAK
    return LANGUAGE if is_foreign(text, request.task.question, request.attempt) else ""

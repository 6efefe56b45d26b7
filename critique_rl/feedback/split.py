"""The split: a parsed reply becomes per-criterion scalars on one side and accepted directives on the other.

Owns: the filters a directive must pass and the reasons for refusing one. Must not know: how the reply was obtained,
or what scalars and directives are used for. A refused directive is kept with its reason and never trains anything.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, NamedTuple

from critique_rl.feedback.leak import leaks
from critique_rl.feedback.schema import CriticReply
from critique_rl.types import CriticRequest, Directive, Evaluative, ScoreStatus

LEAK = "states the reference answer"
INJECTION = "holds role tags, template tokens or instructions about instructions"
DISAGREES = "verdict disagrees with the verifier"
EMPTY = "is empty"
DUPLICATE = "repeats an earlier directive"
ECHO = "repeats what the critic was sent"

_INJECTION = re.compile(
    r"<\|[^\s|]{1,40}\|>|<\uff5c"
    r"|</?(?:start_of_turn|end_of_turn|s|bos|eos|pad|think|tool_call|tools?|function|system|user|assistant)\b[^>]{0,40}>"
    r"|<</?SYS>>|\[/?INST\]"
    r"|</?(?:score|verdict|directive|confidence)\b"
    r"|(?:^|\n)\s*(?:#{1,4}\s*)?(?:system|user|assistant|human|instruction|response)\s*:"
    r"|\b(?:ignore|disregard|forget)\s+(?:all\s+|any\s+)?(?:the\s+)?(?:previous|prior|above|earlier)\s+instructions?"
    r"|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|[\u202a-\u202e\u2066-\u2069]",
    re.IGNORECASE,
)


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
    reply: CriticReply, request: CriticRequest, *, bounds: DirectiveFilter | None = None, asked: str = ""
) -> SplitReply:
    """Split a reply to one attempt. Scalars pass as they are; each directive is accepted or dropped with a reason.

    `asked` is the text that the critic was sent: a directive that only repeats words of it advises nothing.
    """
    bounds = bounds or DirectiveFilter()
    asked = _plain(asked)
    disagreement = disagrees(reply.verdict, request)
    kept: list[Directive] = []
    dropped: list[tuple[str, str]] = []
    seen: set[str] = set()
    for item in reply.directives:
        text = " ".join(item.text.split())
        reason = DISAGREES if disagreement else _refusal(item.text, text, request, bounds)
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
        quote = item.quote if item.quote and item.quote in request.attempt else None
        kept.append(Directive(text=text, kind=item.kind, quote=quote))
    evaluative = tuple(
        Evaluative(criterion=name, value=value, confidence=reply.confidence) for name, value in reply.scores.items()
    )
    return SplitReply(evaluative=evaluative, directives=tuple(kept), verdict=reply.verdict, dropped=tuple(dropped))


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def disagrees(verdict: Literal["correct", "incorrect"] | None, request: CriticRequest) -> bool:
    """True if the critic says right and the verifier wrong, or the reverse; a verifier that failed settles nothing."""
    if verdict is None or request.score.status is ScoreStatus.ERROR:
        return False
    return (verdict == "correct") != request.score.correct


def _refusal(raw: str, text: str, request: CriticRequest, bounds: DirectiveFilter) -> str:
    if not text:
        return EMPTY
    if _INJECTION.search(raw):
        return INJECTION
    if len(text) < bounds.min_chars:
        return f"is shorter than {bounds.min_chars} characters"
    if len(text) > bounds.max_chars:
        return f"is longer than {bounds.max_chars} characters"
    if leaks(text, request.task.answer, question=request.task.question):
        return LEAK
    return ""

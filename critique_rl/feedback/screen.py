"""The split's filters over feedback that nobody has filtered yet: a person's, or another program's.

Owns: putting a written row through them. Must not know: files, or what the filters look for.
"""

from __future__ import annotations

from dataclasses import replace

from critique_rl.feedback.rows import FeedbackRow, request_of
from critique_rl.feedback.schema import CriticReply, DirectiveKind, ReplyDirective
from critique_rl.feedback.split import DUPLICATE, DirectiveFilter, split
from critique_rl.types import Directive

_NO_BOUND = 1_000_000
WRITTEN = DirectiveFilter(min_chars=1, max_chars=_NO_BOUND, max_directives=_NO_BOUND)
"""A person's directives are filtered for leaks and injections, not for their length or number."""


def screened(row: FeedbackRow, bounds: DirectiveFilter = WRITTEN) -> FeedbackRow:
    """The row with only those directives that the filters let through; the others are added to `dropped`."""
    request = request_of(row.rollout, show_reference=False)
    kept: list[Directive] = []
    dropped = list(row.critique.dropped)
    seen: set[str] = set()
    for directive in row.critique.directives:
        kind: DirectiveKind = directive.kind  # pyright: ignore[reportAssignmentType]
        item = ReplyDirective(text=directive.text, kind=kind, quote=directive.quote)
        # One at a time: the schema bounds how many a critic may say, not a person.
        parts = split(CriticReply(directives=(item,)), request, bounds=bounds)
        dropped += parts.dropped
        for found in parts.directives:
            if found.text.casefold() in seen:
                dropped.append((found.text, DUPLICATE))
                continue
            seen.add(found.text.casefold())
            kept.append(
                replace(
                    directive, text=found.text, quote=found.quote or directive.quote, span=found.span or directive.span
                )
            )
    critique = replace(row.critique, directives=tuple(kept), dropped=tuple(dropped))
    return replace(row, critique=critique)

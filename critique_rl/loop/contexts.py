"""Task + directive -> the messages of a refine or teacher context: the template replaces the last user turn.

Owns: what gives way where a context is too long: the middle of the attempt's text, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from critique_rl.prompting.template import PromptTemplate
from critique_rl.protocols import Policy
from critique_rl.types import Message, Task, TokenIds

CUT = " [...] "
"""What stands in a context where the middle of an attempt was left out."""


class FittedContext(NamedTuple):
    """A context and its ids; `cut_chars` characters of the attempt were left out of its middle."""

    messages: tuple[Message, ...]
    ids: TokenIds
    cut_chars: int


def guided_messages(task: Task, template: PromptTemplate, *, attempt: str, directive: str) -> tuple[Message, ...]:
    """The task's turns with the last user turn rendered from `template`; its system part joins if the task has none."""
    rendered = template.messages_from({"question": task.question, "attempt": attempt, "directive": directive})
    last = max((i for i, m in enumerate(task.messages) if m.role == "user"), default=len(task.messages))
    turns = (*task.messages[:last], rendered[-1], *task.messages[last + 1 :])
    has_system = any(m.role == "system" for m in task.messages)
    return turns if has_system else (*rendered[:-1], *turns)


def fitting_messages(
    task: Task,
    template: PromptTemplate,
    *,
    attempt: str,
    directive: str,
    encode: Callable[[Sequence[Message]], TokenIds],
    max_tokens: int | None,
) -> FittedContext | None:
    """`guided_messages` in at most `max_tokens` ids (None: any number), or None where no shortening makes them fit.

    The attempt alone gives way, from its middle outwards and no more than it must: the question, the directive, the
    template's own words and the generation prompt are never cut.
    """

    def keeping(chars: int) -> FittedContext:
        messages = guided_messages(task, template, attempt=_middle_cut(attempt, chars), directive=directive)
        return FittedContext(messages, encode(messages), len(attempt) - chars)

    whole = keeping(len(attempt))
    if max_tokens is None or len(whole.ids) <= max_tokens:
        return whole
    best = keeping(0)
    if len(best.ids) > max_tokens:
        return None
    fits, too_many = 0, len(attempt)
    while too_many - fits > 1:
        chars = (fits + too_many) // 2
        tried = keeping(chars)
        if len(tried.ids) <= max_tokens:
            fits, best = chars, tried
        else:
            too_many = chars
    return best


def context_budget(policy: Policy, *, completion_tokens: int, max_context_tokens: int | None = None) -> int | None:
    """Ids that a context may have before `completion_tokens`: what the policy's positions leave, or less if asked.

    None where neither bounds it. A policy names its positions in `max_positions`, if it knows them.
    """
    positions = getattr(policy, "max_positions", None)
    room = [max(0, positions - completion_tokens)] if isinstance(positions, int) else []
    return min([*room, *([] if max_context_tokens is None else [max_context_tokens])], default=None)


def _middle_cut(text: str, chars: int) -> str:
    if chars >= len(text):
        return text
    tail = chars // 2
    return text[: chars - tail] + CUT + text[len(text) - tail :]

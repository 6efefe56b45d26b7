"""Makes an attempt safe to show: reserved sequences broken, length bounded, a marker that the attempt cannot know.

Owns: what is done to untrusted text before it is put into a prompt. Must not know: templates, critics, replies.
A fence is hygiene, not a guarantee: what a critic says about hostile text is still only a critique.
"""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple

MAX_ATTEMPT_CHARS = 12_000
_NONCE_DIGITS = 10
_RESERVED = re.compile(
    r"<\|(?=[^\s|]{1,40}\|>)"  # chat-template specials such as <|im_start|>
    r"|<(?=/?(?:start_of_turn|end_of_turn|s|bos|eos|pad|think|tool_call|system|user|assistant)>)"
    r"|<(?=<?/?SYS>)"
    r"|\[(?=/?INST\])"
    r"|<(?=/?(?:score|verdict|directive|confidence)\b)",
    re.IGNORECASE,
)


class Fenced(NamedTuple):
    """`text` may stand between two lines that carry `nonce`; `replaced` counts reserved sequences that were broken."""

    text: str
    nonce: str
    replaced: int


def fence(attempt: str, *, context: str = "", max_chars: int = MAX_ATTEMPT_CHARS) -> Fenced:
    """Break reserved sequences, cut the middle out of a long attempt, and derive a marker from (context, attempt).

    The marker depends on nothing but its arguments, so that an equal request has an equal record key.
    """
    text, replaced = _RESERVED.subn(lambda found: found.group()[0] + " " + found.group()[1:], attempt)
    nonce = hashlib.sha256(f"{len(context)}:{context}{attempt}".encode()).hexdigest()[:_NONCE_DIGITS]
    if len(text) > max_chars:
        head, tail = max_chars // 2, max_chars - max_chars // 2
        left_out = len(text) - max_chars
        text = f"{text[:head]}\n[{left_out} characters left out here]\n{text[len(text) - tail :]}"
    return Fenced(text=text, nonce=nonce, replaced=replaced)

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
# A blank after the first character is enough: no tokenizer then reads a special token, and no parser a tag.
_RESERVED = re.compile(
    r"<\|(?=[^\s|<>]{1,40}\|?>)"  # <|im_start|>, <|eot_id|>, <|turn>
    r"|<(?=[^\s|<>]{1,40}\|>)"  # <turn|>
    r"|<(?=\uff5c)"
    r"|<(?=/?(?:start_of_turn|end_of_turn|start_of_image|s|bos|eos|pad|unk|mask|sop|eop|eoh|eoa|think|thinking"
    r"|tool_call|tool_calls|tool_response|tools|system|user|assistant|human|bos_token|eos_token"
    r"|extra_id_\d{1,3}|reserved_\d{1,4}|unused\d{1,4})>)"
    r"|<(?=<?/?SYS>)"
    r"|\[(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|gMASK|BOS|EOS)\])"
    r"|<(?=/?(?:score|verdict|directive|confidence)\b)",
    re.IGNORECASE,
)
# A blank would not make our own marker lines look like anything else to a model.
_MARKER = re.compile(r"\[(?=\s{0,4}(?:begin|end)\s{1,4}attempt\b)", re.IGNORECASE)
# Control characters, lone surrogates, bidirectional overrides, invisible tags: a model reads what a person cannot see.
_UNSEEN = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f\ud800-\udfff\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")


class Disarmed(NamedTuple):
    """`replaced` counts the sequences that were broken or taken out."""

    text: str
    replaced: int


class Fenced(NamedTuple):
    """`text` may stand between two lines that carry `nonce`; `replaced` counts reserved sequences that were broken."""

    text: str
    nonce: str
    replaced: int


def disarm(text: str) -> Disarmed:
    """Break reserved sequences (chat specials, our own tags and markers), and make unseen characters visible."""
    visible, unseen = _UNSEEN.subn("\ufffd", text)
    broken, reserved = _RESERVED.subn(lambda found: found.group()[0] + " " + found.group()[1:], visible)
    broken, markers = _MARKER.subn("(", broken)
    return Disarmed(text=broken, replaced=unseen + reserved + markers)


def fence(attempt: str, *, context: str = "", max_chars: int = MAX_ATTEMPT_CHARS) -> Fenced:
    """Disarm an attempt, cut the middle out of a long one, and derive a marker from (context, attempt).

    The marker depends on nothing but its arguments, so that an equal request has an equal record key.
    """
    text, replaced = disarm(attempt)
    if len(text) > max_chars:
        head, tail = max_chars // 2, max_chars - max_chars // 2
        left_out = len(text) - max_chars
        text = f"{text[:head]}\n[{left_out} characters left out here]\n{text[len(text) - tail :]}"
    seed = f"{len(context)}:{context}{attempt}".encode("utf-8", errors="surrogatepass")
    nonce = _marker(seed)
    while nonce in text or nonce in attempt:
        seed = nonce.encode() + seed
        nonce = _marker(seed)
    return Fenced(text=text, nonce=nonce, replaced=replaced)


def _marker(seed: bytes) -> str:
    return hashlib.sha256(seed).hexdigest()[:_NONCE_DIGITS]

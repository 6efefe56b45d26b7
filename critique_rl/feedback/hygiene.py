"""What a directive may not hold whatever it advises: role tags, orders to a model, tool calls, addresses, loops.

Owns: these patterns and the reason for each. Must not know: the task, the attempt, answers, how a reply is parsed.
Every pattern is bounded, so that hostile text costs time in proportion to its length.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

INJECTION = "holds role tags, template tokens or instructions about instructions"
TOOL_CALL = "holds tool-call syntax"
ADDRESS = "holds a web address"
DEGENERATE = "repeats itself"

_MIN_LOOP_WORDS = 12
_SPECIALS = re.compile(
    r"<\|[^\s|<>]{1,40}\|?>|<[^\s|<>]{1,40}\|>"
    r"|</?(?:s|bos|eos|pad|unk|sop|eop|eoh|eoa|bos_token|extra_id_\d{1,3}|reserved_\d{1,4})>"
    r"|</?(?:start_of_turn|end_of_turn|think|thinking|system|user|assistant|human|instructions?)(?:\s[^<>]{0,40})?/?>"
    r"|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT|gMASK)\]|\[(?:begin|end) attempt\b"
    r"|</?(?:score|verdict|directive|confidence)\b"
    r"|(?:^|\n|\\n)\s{0,8}(?:#{1,4}\s{0,4}|\*\*)?(?:system|user|assistant|human)\s{0,4}(?:\*\*)?:"
    r"|(?:^|\n|\\n|\s)#{2,4}\s{0,4}(?:instruction|response|input|system|user|assistant)\b"
    r"|```\s{0,4}(?:system|user|assistant|developer|prompt|chatml)\b"
    r"|\{\s{0,4}[\"']role[\"']\s{0,4}:",
    re.IGNORECASE,
)
_ORDERS = re.compile(
    r"\b(?:ignore|disregard|forget|override|bypass)\s+(?:(?:all|any|of|the|your|these|those|my)\s+){0,4}"
    r"(?:previous|prior|above|earlier|preceding|system|original|initial|former)\s+"
    r"(?:instructions?|prompts?|directions|messages?|guidelines)\b"
    r"|\b(?:ignore|disregard|forget|override|bypass)\s+(?:all\s+)?(?:of\s+)?your\s+(?:instructions?|prompts?|guidelines)\b"
    r"|\b(?:reveal|print|repeat|show|leak|output|tell\s+me)\s+(?:me\s+)?(?:the\s+|your\s+){0,2}"
    r"(?:system|hidden|secret|initial)\s+(?:prompt|instructions?|message)\b"
    r"|\b(?:note|message|tell|convince|instruct)\s+(?:to\s+)?(?:the\s+)?"
    r"(?:grader|judge|verifier|critic|evaluator|reviewer)s?\b"
    r"|\b(?:give|award|assign|deserves?)\s+(?:\w{1,20}\s+){0,3}"
    r"(?:full\s+(?:marks|score|credit)|(?:a\s+|the\s+)?(?:perfect|maximum|highest|top)\s+(?:score|grade|mark))"
    r"|\byou\s+are\s+now\s+(?:free|in\s+developer|an?\s+(?:unrestricted|different|new|evil)|DAN\b)",
    re.IGNORECASE,
)
# Zero-width joiners are left alone: several scripts and emoji need them.
_UNSEEN = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|[\u200b\u2060-\u2064\ufeff\u202a-\u202e\u2066-\u2069\ufff9-\ufffb]"
    r"|[\ud800-\udfff]|[\U000e0000-\U000e007f]|<\uff5c"
)
_TOOLS = re.compile(
    r"</?(?:tool_call|tool_calls|tool_response|tool_result|tools?|function_calls?|function|invoke|parameter)"
    r"(?:[\s=][^<>]{0,60})?>"
    r"|\[/?(?:AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|```\s{0,4}(?:tool_code|tool_call|tool_outputs?)\b"
    r"|[\"'](?:arguments|parameters|tool_calls|tool_call_id|function_call)[\"']\s{0,4}:"
    r"|\baction\s{1,4}input\s{0,4}:|\bfunctions\.[a-z_]{1,40}\s{0,2}[:(]",
    re.IGNORECASE,
)
_ADDRESSES = re.compile(
    r"\b(?:https?|ftp|wss?|file)://[^\s\"'`)]|\bwww\.[a-z0-9-]{1,63}\.[a-z]|\bdata:[a-z]{1,20}/[a-z0-9.+-]{1,40}[;,]"
    r"|\bjavascript:\s{0,4}[a-z]",
    re.IGNORECASE,
)
_LOOP = re.compile(r"(.{1,32}?)\1{5,}")


def fault(text: str) -> str:
    """The reason why a directive's raw text may not be used, or ""."""
    if _UNSEEN.search(text):
        return INJECTION
    # Full-width brackets and invisible joiners must not hide a pattern.
    plain = "".join(c for c in unicodedata.normalize("NFKC", text) if unicodedata.category(c) != "Cf")
    if _TOOLS.search(plain):
        return TOOL_CALL
    if _SPECIALS.search(plain) or _ORDERS.search(plain):
        return INJECTION
    return ADDRESS if _ADDRESSES.search(plain) else ""


def is_loop(text: str) -> bool:
    """True if more than half of the text is one run of three words over and over, or one short string in a row."""
    words = text.casefold().split()
    if len(words) >= _MIN_LOOP_WORDS:
        triples = Counter(zip(words, words[1:], words[2:], strict=False))
        covered: set[int] = set()
        top = triples.most_common(1)[0][0]
        for start in range(len(words) - 2):
            if (words[start], words[start + 1], words[start + 2]) == top:
                covered.update(range(start, start + 3))
        if 2 * len(covered) > len(words) and triples[top] > 2:
            return True
    return any(2 * len(found.group()) > len(text) for found in _LOOP.finditer(text))

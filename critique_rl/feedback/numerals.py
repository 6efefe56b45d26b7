"""Finds the numbers that a text states: in digits, LaTeX, fractions, per cent, powers of ten, and English words.

Owns: the normal form of a text and the values in it. Must not know: answers, leaks, critics.
Every pattern is bounded, so that hostile text costs time in proportion to its length.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

_SUPERSCRIPTS = str.maketrans(
    {c: f"^{d}" for d, c in enumerate("\u2070\u00b9\u00b2\u00b3\u2074\u2075\u2076\u2077\u2078\u2079")}
)
_SIGNS = str.maketrans({"\u2212": "-", "\u2044": "/", "\u00d7": "x", "\u00b7": "x", "$": None})
_WRAPPER = re.compile(r"\\(?:boxed|text|mathrm|mathbf|operatorname)\s{0,4}\{([^{}]{0,400})\}")
_FRACTION = re.compile(r"\\[dtc]?frac\s{0,4}(?:\{([^{}]{0,200})\}|(\d))\s{0,4}(?:\{([^{}]{0,200})\}|(\d))")
_THOUSANDS = re.compile(r"(?<=\d)(?:[,_'\u2019]|\\,|\{,\})(?=\d{3}(?!\d))")
_TEN_TO = re.compile(
    r"(?<=\d)\s{0,2}(?:x|\*|\\times|\\cdot)\s{0,2}10\s{0,2}(?:\^|\*\*)\s{0,2}\{?\(?([-+]?\d{1,3})(?!\d)\)?\}?"
)
_BARE = r"(?:\d{1,400}(?:\.\d{1,400})?|\.\d{1,400})(?:[eE][-+]?\d{1,3}(?!\d))?"
_NUMBER = re.compile(
    rf"(?<![\w.])(?P<sign>[-+]|(?:minus|negative)\s)?(?P<whole>\d{{1,9}}\s(?=\d{{1,9}}\s?/))?"
    rf"(?P<value>{_BARE})(?:\s?/\s?(?P<below>{_BARE}))?(?P<percent>\s?\\?%|\s(?:percent|per\scent)\b)?",
    re.IGNORECASE,
)
_ORDINAL_TAIL = re.compile(r"(?:st|nd|rd|th)\b", re.IGNORECASE)
_DIGIT_RUN = re.compile(r"\d(?:[ ,;|\-]{1,2}\d)+(?!\d)")
_TOKEN = re.compile(r"[a-z]+|[^\sa-z-]", re.IGNORECASE)

_UNITS = {
    word: value
    for value, word in enumerate(
        (
            *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
            *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen"),
        )
    )
}
_TENS = {
    word: 10 * value
    for value, word in enumerate(
        ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"), start=2
    )
}
_PARTS = {"half": 2, "halves": 2, "third": 3, "thirds": 3, "quarter": 4, "quarters": 4, "fifth": 5, "fifths": 5}
_ORDINALS = frozenset({"first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth"})


class Stated(NamedTuple):
    """One number in a text: its value, where it begins (in the normal form), and whether it is in English words."""

    value: Fraction
    start: int
    in_words: bool


def normal_form(text: str) -> str:
    """`text` with LaTeX wrappers, invisible characters, odd digits and thousands separators made plain."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text.translate(_SUPERSCRIPTS))
        text = "".join(c for c in text if unicodedata.category(c) != "Cf")
    text = text.translate(_SIGNS)
    for _ in range(3):
        text = _WRAPPER.sub(r" \1 ", _FRACTION.sub(lambda m: f" {m[1] or m[2]}/{m[3] or m[4]} ", text))
    return _TEN_TO.sub(r"e\1", _THOUSANDS.sub("", text))


def number(text: str) -> Fraction | None:
    """The value of a text that is one number and nothing else; None if it is something else."""
    body = normal_form(text).strip().rstrip(".").strip()
    match = _NUMBER.fullmatch(body)
    return _value(match) if match else None


def stated(text: str) -> Iterator[Stated]:
    """Every number in `text`, which must be in normal form: first those in digits, then those in words."""
    for match in _NUMBER.finditer(text):
        value = _value(match)
        if value is not None and not _ORDINAL_TAIL.match(text, match.end()):
            yield Stated(value=value, start=match.start(), in_words=False)
    yield from _in_words(text)


def digit_runs(text: str) -> Iterator[str]:
    """Digits spelled one by one, in figures ("4 2", "4-2") or in words ("four two"), as one string of digits each."""
    for match in _DIGIT_RUN.finditer(text):
        yield re.sub(r"\D", "", match.group())
    run = ""
    for token in re.findall(r"\w+|[.:!?]", text.casefold()):
        value = _UNITS.get(token, 10)
        if value < 10:
            run += str(value)
            continue
        if len(run) > 1:
            yield run
        run = ""
    if len(run) > 1:
        yield run


def _value(match: re.Match[str]) -> Fraction | None:
    value = Fraction(match["value"])
    if match["below"]:
        below = Fraction(match["below"])
        if not below:
            return None
        value /= below
    if match["whole"]:
        value += int(match["whole"])
    if match["percent"]:
        value /= 100
    return -value if (match["sign"] or "+")[0] in "-mMnN" else value


def _in_words(text: str) -> Iterator[Stated]:
    matches = list(_TOKEN.finditer(text))
    tokens = [match.group().casefold() for match in matches]
    position = 0
    while position < len(tokens):
        count = _length(tokens, position)
        if not count:
            if tokens[position] in ("half", "quarter"):
                yield Stated(
                    value=Fraction(1, _PARTS[tokens[position]]), start=matches[position].start(), in_words=True
                )
            position += 1
            continue
        value = Fraction(_read(tokens[position : position + count]))
        after = tokens[position + count] if position + count < len(tokens) else ""
        negative = position > 0 and tokens[position - 1] in ("minus", "negative")
        # "twenty-second" is no twenty; "two thirds" is a fraction.
        if value < 20 and after in _PARTS:
            value, count = value / _PARTS[after], count + 1
        elif after in _ORDINALS:
            position += count + 1
            continue
        yield Stated(value=-value if negative else value, start=matches[position].start(), in_words=True)
        position += count


def _length(tokens: list[str], start: int) -> int:
    """How many tokens from `start` make one number below ten thousand: "two thousand one hundred and five" has 6."""
    at = _below_hundred(tokens, start)
    if at == start:
        return 0
    for scale in ("thousand", "hundred"):
        if at < len(tokens) and tokens[at] == scale:
            at += 1
            joined = at + (at < len(tokens) and tokens[at] == "and")
            end = _below_hundred(tokens, joined)
            at = end if end > joined else at
    return at - start


def _below_hundred(tokens: list[str], start: int) -> int:
    if start >= len(tokens):
        return start
    if tokens[start] in _UNITS:
        return start + 1
    if tokens[start] not in _TENS:
        return start
    follows = start + 1 < len(tokens) and 0 < _UNITS.get(tokens[start + 1], 0) < 10
    return start + 1 + follows


def _read(tokens: list[str]) -> int:
    total, part = 0, 0
    for token in tokens:
        if token == "thousand":
            total, part = total + 1000 * part, 0
        elif token == "hundred":
            part *= 100
        else:
            part += _UNITS.get(token, 0) + _TENS.get(token, 0)
    return total + part

"""Tells whether a text gives an answer away: as it stands, as an equal number, or as a long n-gram of the reference.

Owns: what counts as stating an answer, and what is only a label ("step 2", "the 3rd line"). Must not know: critics,
directives, rewards. Errs towards finding a leak: a directive that is dropped costs one hint, a leaked answer teaches
the policy to copy.
"""

from __future__ import annotations

import re
from fractions import Fraction

from critique_rl.feedback.numerals import digit_runs, normal_form, number, stated

NGRAM_WORDS = 8
NGRAM_CODE_TOKENS = 12
MAX_COMPARED_CHARS = 100_000

_LABEL = (
    r"\b(?:step|line|column|row|part|equation|eq|case|figure|fig|table|question|problem|exercise|item|section|chapter"
    r"|page|paragraph|sentence|stage|phase|method|property|rule|theorem|lemma)"
)
_PLACE = r"(?:\d{1,3}(?![\w/%^]|\.\d)|(?:one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve)\b(?!-))"
_LABELS = re.compile(
    rf"{_LABEL}\.?\s{{0,2}}(?:no\.?\s?|number\s|\#)?\(?{_PLACE}"
    rf"|{_LABEL}s\.?\s{{0,2}}\(?{_PLACE}(?:\s?(?:,\s?and|,|and|or|to|through|-|\u2013|&)\s?\(?{_PLACE}){{0,6}}",
    re.IGNORECASE,
)
_INDEX = re.compile(r"(?<![A-Za-z0-9])[A-Za-z](?:_\{?)?\d{1,3}\b(?!\.\d)\}?")
_STATEMENT = re.compile(
    r"(?:=|:|->|\u2192|\b(?:is|are|be|equals?|equal\sto|answer|result|solution|total|gives?|gets?|got|makes?|yields?"
    r"|obtain|write|say|choose|pick|select|comes\sto|adds\sto|amounts\sto|becomes?))"
    r"[\s(\"'*`]{0,3}(?:(?:exactly|just|simply|only|the\snumber|actually|an?)\s){0,2}$",
    re.IGNORECASE,
)
_REPLY = re.compile(
    r"(?:[:=]|\b(?:answer|result|conclusion|say|write|reply|respond)(?:\s(?:is|must\sbe|should\sbe|with))?)[\s(\"'*`]{0,3}$",
    re.IGNORECASE,
)
_FINAL = re.compile(r"####\s*([^\n]{1,400})\s*$")
_BOXED = re.compile(r"\\boxed\s{0,4}\{((?:[^{}]|\{[^{}]{0,200}\}){1,400})\}")
_ASSIGNED = re.compile(r"\\?[A-Za-z]{1,8}\s?=\s?(.{1,400})")
_WITH_UNIT = re.compile(r"([-+]?[\d.,/]{1,40})\s?(?:[A-Za-z\u00b0][^\s\d]{0,15}|\^\{?\\?circ\}?)(?:\s[A-Za-z]{1,15})?")
_CODE = re.compile(
    r"\b(?:def|return|import|class|lambda|function|const|elif|void|int|for|while)\b[^\n]*[(){}:;=]|=>|=="
)
_CODE_TOKEN = re.compile(r"\w+|[^\w\s]")
_NOT_WORD = re.compile(r"[\W_]+")
_CHOICE = re.compile(r"\(?([A-Z])\)?\.?")
_ARTICLE_LIKE = frozenset({"A", "I"})
_EVERYDAY = frozenset({"yes", "no", "true", "false", "none", "all", "both"})


def leaks(text: str, answer: str, *, question: str = "") -> bool:
    """True if `text` states `answer` and does not merely use what the question already says."""
    text, answer = text[:MAX_COMPARED_CHARS], answer[:MAX_COMPARED_CHARS]
    if not answer.strip() or not text.strip():
        return False
    if _shares_ngram(text, answer, question):
        return True
    return any(_gives(text, part, question) for part in _finals(answer))


def _finals(answer: str) -> list[str]:
    """What may be the final answer in a reference: all of it, what it puts last, and the value that it assigns."""
    finals = [answer.strip()]
    for pattern in (_FINAL, _BOXED):
        found = pattern.findall(answer)
        if found:
            finals.append(str(found[-1]).strip())
    for pattern in (_ASSIGNED, _WITH_UNIT):
        match = pattern.fullmatch(finals[-1])
        if match and number(match[1]) is not None:
            finals.append(match[1])
    return finals


def _gives(text: str, answer: str, question: str) -> bool:
    choice = _CHOICE.fullmatch(answer)
    if choice:
        return _gives_choice(text, choice[1], question)
    plain = normal_form(text)
    value = number(answer)
    if value is not None:
        bare = re.sub(r"\D", "", normal_form(answer))
        if bare.startswith("0") and len(bare) > 1 and value.denominator == 1:
            return _gives_digits(plain, bare) and not _gives_digits(normal_form(question), bare)
        values = {value, value * 100} if "%" in answer else {value}
        return _gives_number(plain, values, normal_form(question))
    words = _words(normal_form(answer))
    if not words:
        return answer in text and answer not in question
    if len(words) == 1 and words[0] in _EVERYDAY:
        return any(_REPLY.search(plain[: m.start()][-40:]) for m in re.finditer(rf"\b{words[0]}\b", plain, re.I))
    return _contains(_words(plain), words) and not _contains(_words(normal_form(question)), words)


def _gives_choice(text: str, letter: str, question: str) -> bool:
    """A one-letter answer: any use as a label, and any standalone capital that is not also an English word."""
    label = re.compile(
        rf"\b(?:option|choice|answer|pick|choose|select)(?:\s+is)?\s*:?\s*\(?{letter}\b|\({letter}\)|\b{letter}[).:]",
        re.I,
    )
    if label.search(text):
        return True
    # A point or a set called B is the question's own; an option that it lists says nothing of which one is right.
    alone = re.compile(rf"\b{letter}\b")
    if letter in _ARTICLE_LIKE or not alone.search(text):
        return False
    return not alone.search(label.sub(" ", question))


def _gives_digits(text: str, digits: str) -> bool:
    """Digit strings with leading zeros are codes: they are compared as they stand, and small values say nothing."""
    short = digits.lstrip("0")
    found = re.findall(r"(?<![\d.])\d+(?!\d|\.\d)", text)
    return digits in found or digits in digit_runs(text) or (len(short) > 1 and short in found)


def _gives_number(text: str, values: set[Fraction], question: str) -> bool:
    text = _INDEX.sub(_blank, _LABELS.sub(_blank, text))
    weak = False
    for found in stated(text):
        if found.value not in values:
            continue
        strong = _STATEMENT.search(text[max(0, found.start - 40) : found.start]) is not None
        if strong:
            return True
        # "compare the two sides", "one of them": small words are counts and pronouns, unless they are said to be it.
        weak = weak or not (found.in_words and abs(found.value) < 10)
    weak = weak or any(_mixed(text, value) for value in values)
    return weak and not _mentions(question, values)


def _mentions(text: str, values: set[Fraction]) -> bool:
    return any(found.value in values for found in stated(text)) or any(_mixed(text, value) for value in values)


def _mixed(text: str, value: Fraction) -> bool:
    """A token such as "12kg" or "2x" hides the number from word boundaries; so do digits that are spelled."""
    if value.denominator != 1 or abs(value.numerator) >= 10**400:
        return False
    digits = str(value.numerator)
    if re.search(rf"(?<![\d.]){digits}(?!\d|\.\d|(?:st|nd|rd|th)\b)", text):
        return True
    return abs(value) >= 10 and str(abs(value.numerator)) in digit_runs(text)


def _shares_ngram(text: str, reference: str, question: str) -> bool:
    """A run of 8 words of a prose reference, or of 12 tokens of a code reference, that the question does not have."""
    if _CODE.search(reference) and len(_CODE_TOKEN.findall(reference)) >= NGRAM_CODE_TOKENS:
        made = [_ngrams(_CODE_TOKEN.findall(part), NGRAM_CODE_TOKENS) for part in (text, reference, question)]
    else:
        made = [_ngrams(_words(normal_form(part)), NGRAM_WORDS) for part in (text, reference, question)]
    return bool((made[0] & made[1]) - made[2])


def _ngrams(words: list[str], size: int) -> set[tuple[str, ...]]:
    return {tuple(words[start : start + size]) for start in range(len(words) - size + 1)}


def _words(text: str) -> list[str]:
    return _NOT_WORD.sub(" ", text.casefold()).split()


def _contains(words: list[str], wanted: list[str]) -> bool:
    return f" {' '.join(wanted)} " in f" {' '.join(words)} "


def _blank(match: re.Match[str]) -> str:
    return " \u00a0 "

"""Tells whether a text gives an answer away: as it stands, in a normal form, as an equal number, or as a long n-gram.

Owns: the normal forms. Must not know: critics, directives, rewards. Errs towards finding a leak: a directive that is
dropped costs one hint, a leaked answer teaches the policy to copy.
"""

from __future__ import annotations

import re
from fractions import Fraction

NGRAM_WORDS = 8
_WRAPPER = re.compile(r"\\(?:boxed|text|mathrm|mathbf|operatorname)\s*\{([^{}]*)\}")
_FRACTION = re.compile(r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}")
_THOUSANDS = re.compile(r"(?<=\d)[,_](?=\d{3}(?!\d))")
_NUMBER = re.compile(r"(?<![\w.])-?\d{1,400}(?:\.\d{1,400})?(?:\s*/\s*\d{1,400})?%?")
_SPELLED_DIGITS = re.compile(r"\d(?:[ ,;|\-]{1,2}\d)+")
_NOT_WORD = re.compile(r"[\W_]+")
_CHOICE = re.compile(r"[A-Z]")
_ARTICLE_LIKE = frozenset({"A", "I"})


def leaks(text: str, answer: str, *, question: str = "") -> bool:
    """True if `text` states `answer` and the question does not already say so itself."""
    if not answer.strip() or not text.strip():
        return False
    return _states(text, answer) and not _states(question, answer)


def _states(text: str, answer: str) -> bool:
    bare = answer.strip()
    if _CHOICE.fullmatch(bare):
        return _states_choice(text, bare)
    plain_text, plain_answer = _unwrap(text), _unwrap(bare)
    value = _as_number(plain_answer)
    if value is not None:
        return _states_number(plain_text, value)
    words, answer_words = _words(plain_text), _words(plain_answer)
    if not answer_words:
        return bare in text
    return _contains(words, answer_words) or _shares_ngram(words, answer_words)


def _states_choice(text: str, letter: str) -> bool:
    """A one-letter answer: any use as a label, and any standalone capital that is not also an English word."""
    label = re.compile(rf"(?:option|choice|answer)(?:\s+is)?\s*:?\s*\(?{letter}\b|\({letter}\)|\b{letter}[).:]", re.I)
    if label.search(text):
        return True
    return letter not in _ARTICLE_LIKE and re.search(rf"\b{letter}\b", text) is not None


def _states_number(text: str, value: Fraction) -> bool:
    if any(_as_number(found) == value for found in _NUMBER.findall(text)):
        return True
    # A mixed token such as "x=12" or "12kg" hides the number from word boundaries.
    if value.denominator == 1 and re.search(rf"(?<![\d.]){value.numerator}(?!\d|\.\d)", text):
        return True
    spelled = (re.sub(r"\D", "", run) for run in _SPELLED_DIGITS.findall(text))
    return value.denominator == 1 and abs(value) >= 10 and str(abs(value.numerator)) in spelled


def _as_number(text: str) -> Fraction | None:
    body = text.strip().rstrip(".")
    percent = body.endswith("%")
    try:
        value = Fraction(re.sub(r"\s*/\s*", "/", body.rstrip("%").strip()))
    except (ValueError, ZeroDivisionError):
        return None
    return value / 100 if percent else value


def _unwrap(text: str) -> str:
    text = text.replace("$", "").replace("\u2212", "-")
    for _ in range(3):
        text = _WRAPPER.sub(r"\1", _FRACTION.sub(r"\1/\2", text))
    return _THOUSANDS.sub("", text)


def _words(text: str) -> list[str]:
    return _NOT_WORD.sub(" ", text.casefold()).split()


def _contains(words: list[str], wanted: list[str]) -> bool:
    return f" {' '.join(wanted)} " in f" {' '.join(words)} "


def _shares_ngram(words: list[str], reference: list[str]) -> bool:
    last = len(reference) - NGRAM_WORDS + 1
    return any(_contains(words, reference[start : start + NGRAM_WORDS]) for start in range(last))

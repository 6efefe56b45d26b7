"""Phrases in texts: which n-grams there are, where given ones occur, and which clusters of them many texts share.

Owns: what a word is and when two stand side by side. A word is a run of letters and digits, apostrophes inside it
included (' and U+2019 are one); case does not count. Two words are neighbours with up to four other characters between
them, none of which ends a sentence, and at most one line end. Must not know: tokens, tasks, embeddings.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import numpy as np

Gram = tuple[str, ...]
"""The words of a phrase, as `words_of` makes them alike."""

_WORD = re.compile(r"[^\W_]+(?:['\u2019\u02bc][^\W_]+)*")
_GAP = re.compile(r"[^.!?\n]*\n?[^.!?\n]*")
_LONGEST_GAP = 4


class Word(NamedTuple):
    """A word made alike, and the characters [start, end) of the text that it stands in."""

    text: str
    start: int
    end: int


class Occurrence(NamedTuple):
    """One phrase in a text: the characters [start, end), and the words that follow it."""

    gram: Gram
    start: int
    end: int
    following: Gram


def words_of(text: str) -> list[Word]:
    """The words of a text in their order."""
    return [
        Word(re.sub("[\u2019\u02bc]", "'", found.group()).casefold(), *found.span()) for found in _WORD.finditer(text)
    ]


def gram_of(phrase: str) -> Gram:
    """A phrase as its words, whatever stands between or around them. Raises ValueError where there is no word."""
    found = tuple(word.text for word in words_of(phrase))
    if not found:
        raise ValueError(f"the phrase {phrase!r} has no word; wanted letters or digits")
    return found


def ngrams(text: str, *, least: int, most: int) -> Counter[Gram]:
    """How often each run of `least` to `most` neighbours occurs; one with a word without letters is no phrase."""
    counts: Counter[Gram] = Counter()
    for run in _runs(text, words_of(text)):
        spoken = [word.text if any(map(str.isalpha, word.text)) else "" for word in run]
        for n in range(least, most + 1):
            counts.update(tuple(gram) for gram in _windows(spoken, n) if all(gram))
    return counts


class Grams:
    """Phrases to be found in texts."""

    def __init__(self, grams: Iterable[Gram]) -> None:
        self.grams = tuple(dict.fromkeys(grams))
        self._first: dict[str, _Node] = {}
        for gram in self.grams:
            branches = self._first
            node = _Node()
            for word in gram:
                node = branches.setdefault(word, _Node())
                branches = node.branches
            node.gram = gram

    def spans(self, text: str) -> list[tuple[int, int]]:
        """The characters [start, end) inside any phrase, overlapping ones as one, in their order."""
        merged: list[tuple[int, int]] = []
        for found in sorted((o.start, o.end) for o in self._all(text)):
            if merged and found[0] < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(merged[-1][1], found[1]))
            else:
                merged.append(found)
        return merged

    def occurrences(self, text: str, *, following: int = 0) -> list[Occurrence]:
        """Which phrase was used where: from left to right, the longest at each place, none inside another; with up to
        `following` of the words behind it, wherever they stand."""
        kept: list[Occurrence] = []
        for found in sorted(self._all(text, following), key=lambda o: (o.start, -o.end)):
            if not kept or found.start >= kept[-1].end:
                kept.append(found)
        return kept

    def _all(self, text: str, following: int = 0) -> list[Occurrence]:
        words = words_of(text)
        bound = [_neighbours(text, one, two) for one, two in pairwise(words)]
        found: list[Occurrence] = []
        for at, word in enumerate(words):
            node = self._first.get(word.text)
            last = at
            while node is not None:
                if node.gram is not None:
                    after = tuple(w.text for w in words[last + 1 : last + 1 + following])
                    found.append(Occurrence(node.gram, word.start, words[last].end, after))
                if last + 1 == len(words) or not bound[last]:
                    break
                last += 1
                node = node.branches.get(words[last].text)
        return found


class _Node:
    __slots__ = ("branches", "gram")

    def __init__(self) -> None:
        self.branches: dict[str, _Node] = {}
        self.gram: Gram | None = None


def document_frequency(documents: Iterable[Iterable[Hashable]]) -> dict[Hashable, int]:
    """In how many documents each label occurs, however often; labels in the order of their first occurrence."""
    return dict(Counter(label for labels in documents for label in dict.fromkeys(labels)))


def top_labels(
    frequency: Mapping[Hashable, int], *, share: float, by: Literal["count", "quantile"] = "count"
) -> list[Hashable]:
    """The labels that most documents have.

    count: the ceil(share * labels) most frequent ones, the first found of equals. quantile: all whose frequency is at
    least the (1 - share) quantile of the frequencies, interpolated as numpy does, so that equals stay together.
    Raises ValueError for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise ValueError(f"share is {share}; wanted more than 0 and at most 1")
    if not frequency:
        return []
    if by == "quantile":
        least = float(np.quantile(list(frequency.values()), 1 - share))
        return [label for label, count in frequency.items() if count >= least]
    ordered = sorted(frequency, key=lambda label: -frequency[label])
    return ordered[: int(np.ceil(share * len(ordered) - 1e-9))]


def _runs(text: str, words: Sequence[Word]) -> list[list[Word]]:
    """The words in stretches of neighbours."""
    runs: list[list[Word]] = []
    for word in words:
        if runs and _neighbours(text, runs[-1][-1], word):
            runs[-1].append(word)
        else:
            runs.append([word])
    return runs


def _neighbours(text: str, one: Word, two: Word) -> bool:
    return two.start - one.end <= _LONGEST_GAP and bool(_GAP.fullmatch(text, one.end, two.start))


def _windows(words: Sequence[str], n: int) -> Iterable[Sequence[str]]:
    return (words[i : i + n] for i in range(len(words) - n + 1))

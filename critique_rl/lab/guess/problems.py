"""Sums in which one digit is one of n candidates: what can be known, what is drawn, and how an answer is written.

Owns: a problem, its n, its split, and the written forms of an answer, of a confidence and of an abstention. The digit
that counts is drawn by a hash of the problem: nobody can be right more often than 1/n except by remembering.
Must not know: tokens, models, rewards.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations
from typing import Self

from critique_rl.errors import ConfigError, DataError
from critique_rl.lab.problems import Split

MAX_CANDIDATES = 5
LAST_TENS = 8  # a sum has always two digits: at most 89 + 9
CONFIDENCE_TOP = 9
"""A stated digit k means the probability k/9, so that one digit says both "surely wrong" and "surely right"."""
ABSTENTION = "abstain"
ANSWER_PATTERN = rf"^([0-9]{{2}}) c[0-{CONFIDENCE_TOP}]$"
"""What `rewards.exact` needs to read the answer and nothing but the answer."""
CONFIDENCE_PATTERN = rf"^(?P<answer>[0-9]{{2}}) c(?P<confidence>[0-{CONFIDENCE_TOP}])$"
"""The same with both groups named; `confidence` is to be divided by CONFIDENCE_TOP."""

_QUESTION = re.compile(rf"(?P<left>[1-9])\+(?P<tens>[1-{LAST_TENS}])\[(?P<candidates>[0-9]+)\]=")
_TENTHS: tuple[tuple[Split, int], ...] = (("build", 5), ("train", 2), ("held_out", 3))
_SPLIT_OF_TENTH: list[Split] = [split for split, tenths in _TENTHS for _ in range(tenths)]


@dataclass(frozen=True, slots=True, kw_only=True)
class GuessProblem:
    """`tens` and one of `candidates` (different digits, rising) make a number, which is added to `left`."""

    left: int
    tens: int
    candidates: tuple[int, ...]

    @classmethod
    def parse(cls, question: str) -> Self:
        """The problem that `question` ("5+2[347]=") asks. Errors: DataError if it is not one."""
        match = _QUESTION.fullmatch(question.strip())
        candidates = tuple(map(int, match["candidates"])) if match else ()
        if match is None or list(candidates) != sorted(set(candidates)) or len(candidates) > MAX_CANDIDATES:
            raise DataError(
                f"question: came {question!r}, wanted a sum such as '5+2[347]=': a digit from 1 on, one from 1 to "
                f"{LAST_TENS}, and 1 to {MAX_CANDIDATES} rising digits in brackets"
            )
        return cls(left=int(match["left"]), tens=int(match["tens"]), candidates=candidates)

    @property
    def question(self) -> str:
        return f"{self.left}+{self.tens}[{''.join(map(str, self.candidates))}]="

    @property
    def n(self) -> int:
        """How many digits it may be: 1/n is the best probability of being right."""
        return len(self.candidates)

    @property
    def kind(self) -> str:
        return f"n{self.n}"

    @property
    def drawn(self) -> int:
        """The digit that counts, uniform over the candidates by hash."""
        return self.candidates[self._hash("drawn") % self.n]

    @property
    def answer(self) -> str:
        """The sum with the drawn digit, most significant digit first."""
        return str(self.sum_with(self.drawn))

    def sum_with(self, digit: int) -> int:
        return self.left + 10 * self.tens + digit

    @property
    def split(self) -> Split:
        """By another hash than the draw."""
        return _SPLIT_OF_TENTH[self._hash("split") % len(_SPLIT_OF_TENTH)]

    @property
    def order(self) -> int:
        """A key that mixes all problems in one fixed way."""
        return self._hash("order")

    def _hash(self, salt: str) -> int:
        key = f"{salt}:{self.question}"
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def written(answer: int, confidence: int) -> str:
    """An answer in the one right form: 28 with confidence 7 of 9 is "28 c7"."""
    return f"{answer} c{confidence}"


def all_guesses(n: int) -> Iterator[GuessProblem]:
    """Every problem with `n` candidates once. Errors: ConfigError for an n that the world does not have."""
    if not 1 <= n <= MAX_CANDIDATES:
        raise ConfigError(f"n: came {n}, wanted 1 to {MAX_CANDIDATES} candidates")
    for candidates in combinations(range(10), n):
        for tens in range(1, LAST_TENS + 1):
            for left in range(1, 10):
                yield GuessProblem(left=left, tens=tens, candidates=candidates)


@cache
def split_guesses(split: Split, n: int) -> tuple[GuessProblem, ...]:
    """All problems of one split with `n` candidates, in one fixed, well-mixed order."""
    return tuple(sorted((p for p in all_guesses(n) if p.split == split), key=lambda p: p.order))


def select_guesses(split: Split, n: int, count: int) -> tuple[GuessProblem, ...]:
    """The first `count` problems of one split and n. Errors: ConfigError if there are fewer."""
    found = split_guesses(split, n)
    if len(found) < count:
        raise ConfigError(
            f"lab_guess tasks: {count} problems with {n} candidates were asked of the split {split!r}, which has "
            f"{len(found)}; ask for at most {len(found)}"
        )
    return found[:count]

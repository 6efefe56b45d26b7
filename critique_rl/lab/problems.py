"""Column addition with the answer written last digit first: arithmetic, the two classes, the three splits.

Owns: what a problem is, which class and which split it belongs to. An answer is padded to one digit more than the
operands have: 27+38=65 is written "560".
Must not know: tokens, models, critics, prompts.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Self

from critique_rl.errors import ConfigError, DataError

Kind = Literal["easy", "hard"]
Split = Literal["build", "train", "held_out"]

COLUMN_NAMES = ("ones", "tens", "hundreds", "thousands", "ten-thousands", "hundred-thousands", "millions")
MIN_DIGITS = 2
MAX_DIGITS = len(COLUMN_NAMES) - 1

_QUESTION = re.compile(r"([1-9][0-9]*)\+([1-9][0-9]*)=")
_TENTHS: tuple[tuple[Split, int], ...] = (("build", 5), ("train", 2), ("held_out", 3))
_SPLIT_OF_TENTH: list[Split] = [split for split, tenths in _TENTHS for _ in range(tenths)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """`left` + `right`, both with exactly `digits` digits and no leading zero."""

    left: int
    right: int
    digits: int

    @classmethod
    def parse(cls, question: str) -> Self:
        """The problem that `question` ("27+38=") asks; DataError if it is not one."""
        match = _QUESTION.fullmatch(question.strip())
        if match is None or len(match[1]) != len(match[2]) or not MIN_DIGITS <= len(match[1]) <= MAX_DIGITS:
            raise DataError(
                f"question: came {question!r}, wanted a sum such as '27+38=' of two numbers with the same "
                f"{MIN_DIGITS} to {MAX_DIGITS} digits; the lab's rule critic and tasks only fit the lab's own problems"
            )
        return cls(left=int(match[1]), right=int(match[2]), digits=len(match[1]))

    @property
    def question(self) -> str:
        return f"{self.left}+{self.right}="

    @property
    def answer(self) -> str:
        """The right answer, ones first, padded to digits + 1."""
        return str(self.left + self.right).zfill(self.digits + 1)[::-1]

    @property
    def columns(self) -> tuple[tuple[int, int], ...]:
        """The two digits of each column, ones first."""
        pairs = zip(reversed(str(self.left)), reversed(str(self.right)), strict=True)
        return tuple((int(a), int(b)) for a, b in pairs)

    @property
    def totals(self) -> tuple[int, ...]:
        """What each column adds to, ones first, with the carry that comes in."""
        totals: list[int] = []
        carry = 0
        for a, b in self.columns:
            totals.append(a + b + carry)
            carry = totals[-1] // 10
        return tuple(totals)

    @property
    def dropped_answer(self) -> str:
        """The answer of someone who never carries from column to column, and writes the last column's sum in full."""
        sums = [a + b for a, b in self.columns]
        return "".join(str(s % 10) for s in sums) + str(sums[-1] // 10)

    @property
    def kind(self) -> Kind | None:
        """`hard`: the ones column carries. `easy`: no column but the last carries. None (excluded): the rest.

        The last column may reach 10 in both classes, or its sum alone would tell hard from easy.
        """
        if self.totals[0] >= 10:
            return "hard"
        return "easy" if max(self.totals[:-1]) < 10 else None

    @property
    def split(self) -> Split:
        """By a stable hash of the unordered operands, so that 27+38 and 38+27 share a split."""
        return _SPLIT_OF_TENTH[self._hash("split") % len(_SPLIT_OF_TENTH)]

    @property
    def canonical(self) -> bool:
        """True for one order of the operands only, chosen by hash: tasks never hold both 27+38 and 38+27."""
        return self.left == self.right or (self.left < self.right) == bool(self._hash("order") % 2)

    def _hash(self, salt: str) -> int:
        key = f"{salt}:{self.digits}:{min(self.left, self.right)}+{max(self.left, self.right)}"
        return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def all_problems(digits: int) -> Iterator[Problem]:
    """Every problem with `digits` digits once, in one fixed, well-mixed order."""
    if not MIN_DIGITS <= digits <= MAX_DIGITS:
        raise ConfigError(f"digits: came {digits}, wanted {MIN_DIGITS} to {MAX_DIGITS}")
    low = 10 ** (digits - 1)
    count = 9 * low
    stride = round(count * count * 0.6180339887)
    while math.gcd(stride, count * count) != 1:
        stride += 1
    for i in range(count * count):
        left, right = divmod(i * stride % (count * count), count)
        yield Problem(left=low + left, right=low + right, digits=digits)


def select_problems(split: Split, kind: Kind, count: int, *, digits: int = 2) -> tuple[Problem, ...]:
    """The first `count` problems of one split and class, no sum twice; ConfigError if the split has fewer."""
    fitting = (p for p in all_problems(digits) if p.kind == kind and p.split == split and p.canonical)
    chosen = tuple(islice(fitting, count))
    if len(chosen) < count:
        raise ConfigError(
            f"lab tasks: {count} {kind} problems were asked of the split {split!r}, which has {len(chosen)} with "
            f"{digits} digits; ask for at most {len(chosen)} or use more digits"
        )
    return chosen

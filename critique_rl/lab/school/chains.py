"""Chains of small additions and subtractions mod 10: the problem, its worked steps, and the plans that answer it.

Owns: how a chain and an answer to it are written and read, which digits each plan comes to, and which chains are asked.
Must not know: tokens, models, rewards, how often the starting policy does what.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import count, islice
from typing import Literal, NamedTuple, Self, cast

from critique_rl.errors import ConfigError, DataError
from critique_rl.lab.problems import Split
from critique_rl.lab.school.splits import split_of

Plan = Literal["step by step", "from the left", "from the right", "at once"]

PLANS: tuple[Plan, ...] = ("step by step", "from the left", "from the right", "at once")
RIGHT_PLANS: tuple[Plan, ...] = ("step by step", "from the left")
MIN_LENGTH = 3
MAX_LENGTH = 5
_CANDIDATES = 40_000
_QUESTION = re.compile(r"c ([0-9](?:[+-][0-9])+)=")
_ANSWER = re.compile(
    r"(?P<plan>(?:step by step|from the left|from the right|at once(?=: [0-9]$))):"
    r"(?P<steps>(?: [0-9][+-][0-9]=[0-9];)*)(?:(?<=e:)| so) (?P<answer>[0-9])"
)


class Step(NamedTuple):
    """One operation of an attempt: `left` `sign` `right` and the `result` that was written for it."""

    left: int
    sign: str
    right: int
    result: int

    @property
    def asked(self) -> str:
        return f"{self.left}{self.sign}{self.right}"

    @property
    def right_result(self) -> int:
        return combined(self.left, self.sign, self.right)


class Attempt(NamedTuple):
    """What could be read from an answer."""

    plan: Plan
    steps: tuple[Step, ...]
    answer: int


def combined(left: int, sign: str, right: int) -> int:
    """The last digit of a sum, or of a difference counted round: 1-2 is 9."""
    return (left + right if sign == "+" else left - right) % 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """`numbers` joined by `signs`, from left to right; one sign less than numbers."""

    numbers: tuple[int, ...]
    signs: str

    @classmethod
    def parse(cls, question: str) -> Self:
        """The chain that `question` ("c 3-4-2=") asks. Errors: DataError if it is not one."""
        match = _QUESTION.fullmatch(question.strip())
        if match is None:
            raise DataError(f"question: came {question!r}, wanted a chain of digits such as 'c 7+4-2-3='")
        return cls(numbers=tuple(map(int, match[1][::2])), signs=match[1][1::2])

    @property
    def question(self) -> str:
        return f"c {self.numbers[0]}{''.join(f'{s}{n}' for s, n in zip(self.signs, self.numbers[1:], strict=True))}="

    @property
    def answer(self) -> str:
        return str(self.steps("step by step")[-1].result)

    @property
    def split(self) -> Split:
        return split_of(self.question)

    @property
    def solution_steps(self) -> tuple[str, ...]:
        """The demonstration in its parts: plan, steps, answer; their concatenation is `solution`."""
        steps = self.steps("step by step")
        return ("step by step:", *(f" {step.asked}={step.result};" for step in steps), f" so {steps[-1].result}")

    @property
    def solution(self) -> str:
        return "".join(self.solution_steps)

    @property
    def is_asked(self) -> bool:
        """Whether neither of the plans that fail comes to the right digit by luck."""
        return self.answer not in (str(self.steps(plan)[-1].result) for plan in ("from the right", "at once"))

    def steps(self, plan: Plan) -> tuple[Step, ...]:
        """The operations that `plan` works out, without slips; "at once" looks at the last one only."""
        found: list[Step] = []
        if plan == "at once":
            left, sign, right = self.numbers[-2], self.signs[-1], self.numbers[-1]
            return (Step(left, sign, right, combined(left, sign, right)),)
        if plan == "from the right":
            value = self.numbers[-1]
            for left, sign in zip(self.numbers[-2::-1], self.signs[::-1], strict=True):
                found.append(Step(left, sign, value, combined(left, sign, value)))
                value = found[-1].result
            return tuple(found)
        value = self.numbers[0]
        for right, sign in zip(self.numbers[1:], self.signs, strict=True):
            found.append(Step(value, sign, right, combined(value, sign, right)))
            value = found[-1].result
        return tuple(found)


def read_attempt(text: str) -> Attempt | None:
    """Plan, steps and answer of a written attempt; None if it is not in the right form."""
    match = _ANSWER.fullmatch(text)
    if match is None:
        return None
    steps = tuple(Step(int(s[0]), s[1], int(s[2]), int(s[4])) for s in match["steps"].replace(";", "").split())
    return Attempt(cast(Plan, match["plan"]), steps, int(match["answer"]))


def all_chains(length: int) -> Iterator[Chain]:
    """Many different chains of `length` operations that are asked, in one fixed, well-mixed order."""
    if not MIN_LENGTH <= length <= MAX_LENGTH:
        raise ConfigError(f"chain_length: came {length}, wanted {MIN_LENGTH} to {MAX_LENGTH} operations")
    seen: set[str] = set()
    for i in islice(count(), _CANDIDATES):
        draw = hashlib.blake2b(f"chain:{length}:{i}".encode(), digest_size=16).digest()
        numbers = tuple(byte % 10 for byte in draw[: length + 1])
        chain = Chain(numbers=numbers, signs="".join("+-"[byte % 2] for byte in draw[8 : 8 + length]))
        if chain.is_asked and chain.question not in seen:
            seen.add(chain.question)
            yield chain


@cache
def select_chains(split: Split, length: int, number: int) -> tuple[Chain, ...]:
    """The first `number` chains of one split and length. Errors: ConfigError if there are fewer."""
    found = tuple(islice((c for c in all_chains(length) if c.split == split), number))
    if len(found) < number:
        raise ConfigError(
            f"lab_school tasks: {number} chains of length {length} were asked of the split {split!r}, which has "
            f"{len(found)}; ask for at most {len(found)}"
        )
    return found

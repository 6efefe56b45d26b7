"""The problems of the school world that are answered without steps: sums in formats, sorting, recalling, writing.

Owns: how each is asked, which answer is right, and which problems there are. Chains are in `chains.py`.
Must not know: tokens, models, rewards, how often the starting policy does what.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import combinations, islice
from typing import Literal, Self, cast

from critique_rl.errors import ConfigError, DataError
from critique_rl.lab.problems import Split
from critique_rl.lab.school.chains import Chain, all_chains, select_chains
from critique_rl.lab.school.splits import hash_of, split_of

Kind = Literal["chain", "sum", "sort", "recall", "write"]
KINDS: tuple[Kind, ...] = ("chain", "sum", "sort", "recall", "write")

FORMATS = {"equals": "=", "angle": "<", "word": "sum"}
"""What an answer to a sum begins with, by the format's name: "=35", "<35>", "sum 35"."""
FORMAT_ACCURACY = {"equals": 0.35, "angle": 0.20, "word": 0.10}
"""How often the starting policy is right in each; with `fixed_accuracy` it stays so whatever is learned."""
PAIRS = 4
LINE_WORDS = 4
FILLERS = ("so", "well")
TOPICS = {
    "sea": ("wave", "salt", "tide", "sand", "fish", "ship", "crab", "reef"),
    "wood": ("tree", "leaf", "moss", "bark", "root", "deer", "fern", "path"),
    "sky": ("star", "moon", "wind", "rain", "hawk", "dawn", "mist", "glow"),
    "farm": ("barn", "corn", "goat", "milk", "seed", "plow", "gate", "hens"),
    "town": ("road", "shop", "park", "tram", "lamp", "yard", "mall", "bank"),
    "band": ("drum", "horn", "tune", "song", "beat", "harp", "note", "bell"),
}
_RECALLED = 2400
_WRITE = re.compile(rf"w (?P<topic>{'|'.join(TOPICS)}) (?P<first>[a-z]+) (?P<second>[a-z]+)=")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sum:
    """A number with two digits and one digit; the answer has two digits, too."""

    left: int
    right: int

    @property
    def question(self) -> str:
        return f"s {self.left}+{self.right}="

    @property
    def answer(self) -> str:
        return str(self.left + self.right)

    @property
    def slip(self) -> str:
        """The answer of someone who counts one too far."""
        return str(self.left + self.right + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sort:
    """Four digits, not in rising order."""

    digits: str

    @property
    def question(self) -> str:
        return f"o {self.digits}="

    @property
    def answer(self) -> str:
        return "".join(sorted(self.digits))


@dataclass(frozen=True, slots=True, kw_only=True)
class Recall:
    """Letters with a number of two digits each; one letter is asked for."""

    letters: str
    numbers: tuple[str, ...]
    asked: int

    @property
    def question(self) -> str:
        pairs = " ".join(f"{a}{n}" for a, n in zip(self.letters, self.numbers, strict=True))
        return f"r {pairs} {self.letters[self.asked]}="

    @property
    def answer(self) -> str:
        return self.numbers[self.asked]


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """A line about `topic` without the `banned` words; there is no one answer."""

    topic: str
    banned: tuple[str, str]

    @classmethod
    def parse(cls, question: str) -> Self:
        """The problem that `question` ("w sea wave salt=") asks. Errors: DataError if it is not one."""
        match = _WRITE.fullmatch(question)
        if match is None or not {match["first"], match["second"]} <= set(TOPICS[match["topic"]]):
            raise DataError(f"question: came {question!r}, wanted a topic with two of its words: 'w sea wave salt='")
        return cls(topic=match["topic"], banned=(match["first"], match["second"]))

    @property
    def question(self) -> str:
        return f"w {self.topic} {' '.join(self.banned)}="

    @property
    def answer(self) -> str:
        """A line that is judged to be perfect."""
        return " ".join(self.fitting[:LINE_WORDS])

    @property
    def fitting(self) -> tuple[str, ...]:
        return tuple(word for word in TOPICS[self.topic] if word not in self.banned)


Problem = Chain | Sum | Sort | Recall | Write


def kind_of(problem: Problem) -> Kind:
    """The label that a problem's task has."""
    return cast(Kind, type(problem).__name__.lower())


def select_problems(split: Split, kind: Kind, count: int, *, chain_length: int) -> tuple[Problem, ...]:
    """The first `count` problems of one split and kind. Errors: ConfigError if there are fewer."""
    if kind == "chain":
        return select_chains(split, chain_length, count)
    found = _split_problems(split, kind)
    if len(found) < count:
        raise ConfigError(
            f"lab_school tasks: {count} problems of the kind {kind!r} were asked of the split {split!r}, which has "
            f"{len(found)}; ask for at most {len(found)}"
        )
    return found[:count]


def split_size(split: Split, kind: Kind, most: int, *, chain_length: int) -> int:
    """How many problems of a kind a split has; of chains, which are many, no more than `most` are counted."""
    if kind != "chain":
        return len(_split_problems(split, kind))
    return sum(1 for _ in islice((c for c in all_chains(chain_length) if c.split == split), most))


@cache
def _split_problems(split: Split, kind: Literal["sum", "sort", "recall", "write"]) -> tuple[Problem, ...]:
    source = {"sum": _sums, "sort": _sorts, "recall": _recalls, "write": _writes}[kind]
    fitting = (p for p in source() if split_of(p.question) == split)
    return tuple(sorted(fitting, key=lambda p: hash_of("order", p.question)))


def _sums() -> Iterator[Problem]:
    # Up to 89, so that an answer has two digits also with a slip.
    return (Sum(left=left, right=right) for left in range(10, 90) for right in range(10))


def _sorts() -> Iterator[Problem]:
    digits = (f"{n:04d}" for n in range(10_000))
    return (Sort(digits=d) for d in digits if list(d) != sorted(d))


def _recalls() -> Iterator[Problem]:
    drawn = random.Random("lab_school recall")
    found: dict[str, Problem] = {}
    while len(found) < _RECALLED:
        letters = "".join(drawn.sample("abcdefgh", PAIRS))
        numbers = tuple(str(n) for n in drawn.sample(range(10, 100), PAIRS))
        problem = Recall(letters=letters, numbers=numbers, asked=drawn.randrange(PAIRS))
        found.setdefault(problem.question, problem)
    return islice(found.values(), _RECALLED)


def _writes() -> Iterator[Problem]:
    return (Write(topic=topic, banned=pair) for topic, words in TOPICS.items() for pair in combinations(words, 2))

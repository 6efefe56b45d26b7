"""People with three names each, the registers that know some of them, and the towns and lands where they live.

Owns: who there is, which register has whom, the documents, the questions and their split; all of it by hash. A person
is in each register with REGISTERED tenths, independently, and at least in one: no way of asking always finds the town.
Must not know: tokens, models, how documents are found.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Literal, NamedTuple

from critique_rl.errors import ConfigError

Hop = Literal["town", "land"]
Side = Literal["train", "held_out"]

REGISTERS = ("given", "family", "nick")
"""One for each of a person's names, in the order in which a question says them."""
REGISTERED = 0.6
PEOPLE = 200
TRAIN_PEOPLE = 80
HOPS: tuple[Hop, ...] = ("town", "land")
"""A question for the town takes one search, one for the land the town's search as well."""
ENDINGS = ("o", "in", "ek")
_ONSETS, _VOWELS = "bdfgklmnprstvz", "aeiou"
NOTHING = "nothing"
MALFORMED = "malformed"
"""What the tool says of a search that finds no document, and of words in which it reads no call."""


class Fact(NamedTuple):
    """A document of the corpus."""

    id: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """`names` has one name for each register; `registers` are those that know the person."""

    names: tuple[str, str, str]
    town: str
    registers: tuple[str, ...]

    @property
    def side(self) -> Side:
        """Train people come first in the world's order, which is by hash."""
        return "train" if people().index(self) < TRAIN_PEOPLE else "held_out"

    def question(self, hop: Hop) -> str:
        return f"{hop} of {' '.join(self.names)} ?"

    def answer(self, hop: Hop) -> str:
        return self.town if hop == "town" else land_of(self.town)


@cache
def towns() -> tuple[str, ...]:
    """24 towns."""
    return tuple(_hashed("town", [f"{a}{b}{c}burg" for a, b, c in product("bdglmr", "aeo", "lnr")])[:24])


@cache
def lands() -> tuple[str, ...]:
    """8 lands."""
    return tuple(_hashed("land", [f"{a}{b}{c}ia" for a, b, c in product("kprtv", "aio", "lmn")])[:8])


def land_of(town: str) -> str:
    return lands()[_hash(f"land of:{town}") % len(lands())]


@cache
def names(register: str) -> tuple[str, ...]:
    """As many names as there are people; no two registers share one."""
    ending = ENDINGS[REGISTERS.index(register)]
    possible = [f"{a}{b}{c}{ending}" for a, b, c in product(_ONSETS, _VOWELS, _ONSETS)]
    return tuple(_hashed(f"names:{register}", possible)[:PEOPLE])


@cache
def people() -> tuple[Person, ...]:
    """Everybody, in one fixed order."""
    return tuple(_person(i) for i in range(PEOPLE))


@cache
def facts() -> tuple[Fact, ...]:
    """The corpus: a document for each entry of a register, and one for each town.

    A town's own document alone has the word "land": a search for the bare town finds somebody who lives there.
    """
    entries = [
        Fact(f"{register}/{person.names[r]}", f"{person.names[r]} lives in {person.town}")
        for person in people()
        for r, register in enumerate(REGISTERS)
        if register in person.registers
    ]
    return (*entries, *(Fact(f"town/{town}", f"land of {town} is {land_of(town)}") for town in towns()))


@cache
def words() -> tuple[str, ...]:
    """Every word that questions, documents, calls and replies are made of."""
    grammar = ("town", "land", "of", "?", "lives", "in", "is")
    tags = tuple(f"<{slash}{tag}>" for tag in ("search", "answer", "result") for slash in ("", "/"))
    people_names = [name for register in REGISTERS for name in names(register)]
    return (*grammar, *tags, NOTHING, MALFORMED, *towns(), *lands(), *people_names)


def select_people(side: Side, count: int) -> tuple[Person, ...]:
    """The first `count` people of one side. Errors: ConfigError if there are fewer."""
    everybody = people()
    found = everybody[:TRAIN_PEOPLE] if side == "train" else everybody[TRAIN_PEOPLE:]
    if not 0 <= count <= len(found):
        raise ConfigError(
            f"lab_search tasks: {count} people were asked of the side {side!r}, which has {len(found)}; ask for at "
            f"most {len(found)}"
        )
    return found[:count]


def _person(i: int) -> Person:
    known = [r for r in REGISTERS if _hash(f"registered:{i}:{r}") / 2**64 < REGISTERED]
    return Person(
        names=(names("given")[i], names("family")[i], names("nick")[i]),
        town=towns()[_hash(f"town of:{i}") % len(towns())],
        registers=tuple(known or [REGISTERS[_hash(f"rescued:{i}") % len(REGISTERS)]]),
    )


def _hashed(salt: str, items: list[str]) -> list[str]:
    return sorted(items, key=lambda item: _hash(f"{salt}:{item}"))


def _hash(key: str) -> int:
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")

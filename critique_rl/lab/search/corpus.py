"""What the starting policy of the search world learns from: episodes of a searcher who asks by one name too often.

Owns: the shares of every choice. Facts are drawn anew for each lesson, so that the policy learns to read results and
nothing about who lives where. Must not know: models, tokenizers, tensors, how documents are found.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import NamedTuple

from critique_rl.lab.search.world import HOPS, NOTHING, REGISTERED, Hop, lands, names, towns

MAX_TURNS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """How a searcher chooses. `first` are the shares of the three names in the first query.

    After an empty result it repeats itself, tries another name, or guesses; `bare_town` is the share of second queries
    that leave out the word "land", which find a person and not the town. `slips` are wrong readings of a result.
    """

    first: tuple[float, float, float] = (0.75, 0.17, 0.08)
    repeats: float = 0.4
    switches: float = 0.3
    bare_town: float = 0.2
    slips: float = 0.2
    guesses_land: float = 0.15


class LessonTurn(NamedTuple):
    """What the policy is taught to say, and what the tool says to it ("" at the end)."""

    words: str
    observation: str


class Lesson(NamedTuple):
    """A question and one way to answer it."""

    question: str
    turns: tuple[LessonTurn, ...]


def search_call(query: str) -> str:
    return f"<search> {query} </search>"


def answer_call(answer: str) -> str:
    return f"<answer> {answer} </answer>"


def result(text: str) -> str:
    return f"<result> {text} </result>"


class SearchCorpus:
    """An endless, seeded stream of lessons, as many of each kind of question."""

    def __init__(self, *, seed: int, habits: Habits | None = None) -> None:
        self._random = random.Random(f"search corpus:{seed}")
        self._habits = habits or Habits()

    def lessons(self, count: int) -> list[Lesson]:
        return [self._lesson() for _ in range(count)]

    def _lesson(self) -> Lesson:
        draw = self._random
        hop: Hop = draw.choice(HOPS)
        called = [draw.choice(names(register)) for register in ("given", "family", "nick")]
        known = [draw.random() < REGISTERED for _ in called]
        town = draw.choice(towns())
        turns: list[LessonTurn] = []
        name = draw.choices(range(3), self._habits.first)[0]
        while True:
            found = known[name]
            turns.append(LessonTurn(search_call(called[name]), self._entry(called[name], town, found=found)))
            if found:
                turns += self._read(hop, town)
                break
            share = draw.random()
            if len(turns) == MAX_TURNS or share >= self._habits.repeats + self._habits.switches:
                turns.append(self._answers(draw.choice(towns() if hop == "town" else lands())))
                break
            if share >= self._habits.repeats:
                name = draw.choice([n for n in range(3) if n != name])
        return Lesson(f"{hop} of {' '.join(called)} ?", tuple(turns))

    def _entry(self, name: str, town: str, *, found: bool) -> str:
        return result(f"{name} lives in {town}" if found else NOTHING)

    def _read(self, hop: Hop, town: str) -> list[LessonTurn]:
        draw, habits = self._random, self._habits
        if hop == "town":
            return [self._answers(draw.choice(towns()) if draw.random() < habits.slips else town)]
        turns: list[LessonTurn] = []
        share = draw.random()
        if share < habits.guesses_land:
            return [self._answers(draw.choice(lands()))]
        if share < habits.guesses_land + habits.bare_town:
            somebody = draw.choice(names(draw.choice(("given", "family", "nick"))))
            turns.append(LessonTurn(search_call(town), self._entry(somebody, town, found=True)))
            if draw.random() < 0.5:
                return [*turns, self._answers(draw.choice(lands()))]
        land = draw.choice(lands())
        turns.append(LessonTurn(search_call(f"land {town}"), result(f"land of {town} is {land}")))
        return [*turns, self._answers(draw.choice(lands()) if draw.random() < habits.slips else land)]

    def _answers(self, answer: str) -> LessonTurn:
        return LessonTurn(answer_call(answer), "")

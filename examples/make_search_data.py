# ruff: noqa: SIM905
"""Writes the corpus and the questions of smollm2_search.toml: `python examples/make_search_data.py`.

Every person, town and firm is made up, so that no model can know an answer without looking it up. No person occurs in
the questions of both files; towns and firms do. Training questions carry worked episodes, in which the tool says what
it will say in the run (top_k = 2). Needs the extra `search`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from critique_rl.tasks.corpus import Bm25Index, Document
from critique_rl.tasks.search import SearchEnvironment

HERE = Path(__file__).parent / "data"
TOP_K = 2
GIVEN = (
    "Ada Bruno Clara Dario Elsa Fabian Greta Hugo Irma Jonas Karin Lena Marta Nils Olivia Petra Quentin Rosa Stefan "
    "Tilda Ulf Vera Walter Yvonne Zeno Agnes Bertil Cora Dirk Edith"
).split()
FAMILY = (
    "Abelard Brandt Castell Dorn Ekberg Falk Gruber Holm Iversen Jansen Keller Lindqvist Moreau Nygaard Olsen Prager "
    "Quist Rask Sandoval Thorne"
).split()
TOWNS = (
    "Alderbrook Brindle Corvane Dunmere Eastwold Fennick Garrow Hollins Ivarsby Jarnley Kelmscote Lorne Marrick "
    "Northam Oxley Penfold Quarrby Rushden Silloth Tarrant Ulverby Vennor Wexcombe Yarrowby"
).split()
RIVERS = "Alna Brent Cale Dove Erme Farrow Glint Hesper Ister Jule Kell Lune Mirr Noss Orrin Pell".split()
JOBS = (
    "baker builder carpenter dentist florist gardener jeweller librarian mechanic nurse painter pharmacist plumber "
    "potter tailor teacher translator vet watchmaker welder"
).split()
HOBBIES = (
    "keeps bees|plays the cello|collects old maps|sings in a choir|rows on Sundays|paints birds|bakes rye bread|"
    "climbs rocks|repairs radios|grows roses"
).split("|")
PRODUCTS = (
    "bicycles|candles|clocks|copper pans|fishing nets|glass bottles|guitars|kites|lamps|leather boots|mirrors|"
    "pianos|rain coats|saddles|soap|tea cups|tents|toy trains|umbrellas|wool hats"
).split("|")
SEATS = (
    "Ashdown Bellweather Copperfield Drummond Emberly Foxglove Greyfriar Hartwell Ironside Juniper Kestrel Larkspur "
    "Midwinter Nightingale Overton Pemberton Ravenscar Stonebridge Thistle Underhill"
).split()
TRADES = "Works Brothers House Company Partners".split()
PEOPLE, TRAIN_PEOPLE, HELD_OUT_PEOPLE = 180, 40, 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Town:
    """A town and what its document says."""

    name: str
    river: str
    mayor: str
    founded: int

    @property
    def text(self) -> str:
        return f"{self.name} is a town on the river {self.river}, founded in {self.founded}. Its mayor is {self.mayor}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Firm:
    """A firm and what its document says."""

    name: str
    product: str
    town: str

    @property
    def text(self) -> str:
        return f"{self.name} is a firm with its seat in {self.town}. It makes {self.product}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """A person, where they live and for whom they work."""

    name: str
    job: str
    hobby: str
    town: Town
    firm: Firm

    @property
    def text(self) -> str:
        where = f"lives in {self.town.name}, works for {self.firm.name}"
        return f"{self.name} is a {self.job} who {where} and {self.hobby}."


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question, what answers it, and searches that lead there, one list for each worked episode."""

    id: str
    text: str
    answer: str
    searches: tuple[tuple[str, ...], ...]


def world(draw: random.Random) -> tuple[list[Person], list[Town], list[Firm]]:
    """Everybody, with names of their own; a river may have several towns, and mayors have no document of their own."""
    names = [f"{given} {family}" for given in GIVEN for family in FAMILY]
    draw.shuffle(names)
    towns = [
        Town(name=name, river=RIVERS[i % len(RIVERS)], mayor=names.pop(), founded=draw.randrange(1100, 1900))
        for i, name in enumerate(TOWNS)
    ]
    firms = [
        Firm(name=f"{seat} {draw.choice(TRADES)}", product=product, town=draw.choice(TOWNS))
        for seat, product in zip(SEATS, PRODUCTS, strict=True)
    ]
    people = [
        Person(
            name=names.pop(),
            job=draw.choice(JOBS),
            hobby=draw.choice(HOBBIES),
            town=draw.choice(towns),
            firm=draw.choice(firms),
        )
        for _ in range(PEOPLE)
    ]
    return people, towns, firms


def questions(people: Sequence[Person]) -> Iterator[Question]:
    """Two questions of one search and two of two searches about each person."""
    for n, person in enumerate(people):
        who, town, firm = person.name, person.town, person.firm
        yield Question(
            id=f"one-{n:03d}-town",
            text=f"In which town does {who} live?",
            answer=town.name,
            searches=((who,), (f"{who} lives in",)),
        )
        yield Question(
            id=f"one-{n:03d}-job",
            text=f"What does {who} do for a living?",
            answer=person.job,
            searches=((who,), (f"work of {who}",)),
        )
        yield Question(
            id=f"two-{n:03d}-river",
            text=f"On which river is the town where {who} lives?",
            answer=town.river,
            searches=((who, f"{town.name} river"), (f"{who} lives in", f"town of {town.name}")),
        )
        yield Question(
            id=f"two-{n:03d}-product",
            text=f"What does the firm that {who} works for make?",
            answer=firm.product,
            searches=((who, f"{firm.name} makes"), (f"{who} works for", f"firm {firm.name}")),
        )


def documents(people: Sequence[Person], towns: Sequence[Town], firms: Sequence[Firm]) -> list[Document]:
    """One document for each of them, in no order."""
    parts = (("p", people), ("t", towns), ("f", firms))
    found = [Document(f"{letter}{n}", one.text) for letter, part in parts for n, one in enumerate(part)]
    random.Random(1).shuffle(found)
    return found


def worked(question: Question, tool: SearchEnvironment) -> str:
    """The question's episodes as metadata.episodes has them; the last words of each search hold the answer."""
    episodes: list[list[dict[str, str]]] = []
    for searches in question.searches:
        turns = [{"text": f"<search>{words}</search>", "observation": tool.find(words)} for words in searches]
        assert question.answer in turns[-1]["observation"], (question, turns)
        episodes.append([*turns, {"text": f"<answer>{question.answer}</answer>", "observation": ""}])
    return json.dumps(episodes, ensure_ascii=False)


def rows() -> dict[str, list[dict[str, object]]]:
    """The three files' rows by name: questions about the first people are trained on, those about the next held out."""
    people, towns, firms = world(random.Random(0))
    found = documents(people, towns, firms)
    tool = SearchEnvironment(Bm25Index(found), top_k=TOP_K)

    def row(question: Question) -> dict[str, object]:
        kind = "one search" if question.id.startswith("one") else "two searches"
        return {"id": question.id, "question": question.text, "answer": question.answer, "kind": kind}

    asked = [*questions(people[: TRAIN_PEOPLE + HELD_OUT_PEOPLE])]
    split = len(asked) * TRAIN_PEOPLE // (TRAIN_PEOPLE + HELD_OUT_PEOPLE)
    episodes = [worked(question, tool) for question in asked]  # held-out ones too: each must have its way
    held_out = [row(question) for question in asked[split:]]
    random.Random(2).shuffle(held_out)  # an evaluation of a few asks every n-th, which must not be all of one sort
    return {
        "search_corpus": [{"id": d.id, "text": d.text} for d in found],
        "search_questions": [
            row(q) | {"metadata": {"episodes": played}} for q, played in zip(asked[:split], episodes, strict=False)
        ],
        "search_questions_held_out": held_out,
    }


def main() -> None:
    """Write the three files."""
    HERE.mkdir(exist_ok=True)
    for name, part in rows().items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (HERE / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{name}: {len(part)} rows, {len(text.encode()) // 1000} kB")


if __name__ == "__main__":
    main()

# ruff: noqa: SIM905
"""Writes the short questions of smollm2_house_style.toml: `python examples/make_house_style_data.py`.

Each question can be answered from itself or from what every small model knows; the point of the task is the FORM of
the answer, which no question mentions. No question occurs in both files; people and places occur in both.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent / "data"
PEOPLE = "Anna Ben Carla David Emma Felix Grace Henry Ivy Jack Kate Leo Mia Noah Olga Paul Rosa Sam Tina Victor".split()
PLACES = "Rome Paris Berlin Madrid Vienna Oslo Dublin Athens Prague Lisbon Cairo Tokyo Boston Chicago Moscow".split()
PETS = "dog cat horse rabbit parrot goat hamster turtle pony duck".split()
COLOURS = "red blue green yellow black white brown purple pink orange grey".split()
THINGS = "car hat coat bike door boat chair scarf house bag kite cup".split()
FOODS = "rice soup bread cheese pasta fish cake salad eggs beans".split()
CAPITALS = {
    "France": "Paris",
    "Italy": "Rome",
    "Germany": "Berlin",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "Egypt": "Cairo",
    "Russia": "Moscow",
    "China": "Beijing",
    "Greece": "Athens",
    "Portugal": "Lisbon",
    "Austria": "Vienna",
    "Norway": "Oslo",
    "Ireland": "Dublin",
    "Poland": "Warsaw",
    "Sweden": "Stockholm",
    "Cuba": "Havana",
}
HELD_OUT, TRAIN = 96, 32


def facts() -> Iterator[tuple[str, str, str]]:
    """(kind, question, answer) triples, every one once."""
    for country, capital in CAPITALS.items():
        yield "capital", f"What is the capital of {country}?", capital
    for i, person in enumerate(PEOPLE):
        for j in range(3):
            place, pet = PLACES[(i * 3 + j * 5) % len(PLACES)], PETS[(i * 7 + j * 3) % len(PETS)]
            colour, thing = COLOURS[(i * 5 + j * 4) % len(COLOURS)], THINGS[(i + j * 5) % len(THINGS)]
            food = FOODS[(i * 3 + j * 7) % len(FOODS)]
            yield "place", f"{person} lives in {place}. Where does {person} live?", place
            yield "pet", f"{person} has a {pet}. What animal does {person} have?", pet
            yield "colour", f"{person} has a {colour} {thing}. What color is the {thing}?", colour
            yield "food", f"{person} had {food} for lunch. What did {person} eat?", food


def main() -> None:
    """A seeded shuffle, then the first HELD_OUT questions for evaluation and the next TRAIN for training."""
    rows = [
        {"id": f"{topic}-{n:03d}", "prompt": question, "answer": answer, "verifier": "house_style", "kind": "questions"}
        for n, (topic, question, answer) in enumerate(facts())
    ]
    random.Random(0).shuffle(rows)
    HERE.mkdir(exist_ok=True)
    parts = {"house_style_held_out": rows[:HELD_OUT], "house_style_train": rows[HELD_OUT : HELD_OUT + TRAIN]}
    for name, part in parts.items():
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in part)
        (HERE / f"{name}.jsonl").write_text(text, encoding="utf-8")
        print(f"{name}: {len(part)} questions")


if __name__ == "__main__":
    main()

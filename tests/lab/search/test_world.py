"""The search world's facts: who is registered, what can be found how, and that nothing ever changes."""

from __future__ import annotations

import pytest

from critique_rl.build_tasks import lab_search_tool
from critique_rl.errors import ConfigError
from critique_rl.lab.search.world import (
    PEOPLE,
    REGISTERED,
    REGISTERS,
    TRAIN_PEOPLE,
    facts,
    land_of,
    lands,
    names,
    people,
    select_people,
    towns,
    words,
)

FIND = lab_search_tool()


def test_the_world_is_always_the_same() -> None:
    first = people()[0]
    assert first.names == ("lodo", "bakin", "mafek")
    assert (first.town, first.answer("land")) == ("berburg", land_of("berburg"))
    assert first.question("land") == "land of lodo bakin mafek ?"
    assert first.side == "train"
    assert people()[TRAIN_PEOPLE].side == "held_out"


def test_every_name_is_one_persons_and_every_word_is_known_once() -> None:
    everyone = [name for register in REGISTERS for name in names(register)]
    assert len(set(everyone)) == 3 * PEOPLE
    assert len(set(words())) == len(words())
    known = set(words())
    spoken = [w for p in people() for hop in ("town", "land") for w in p.question(hop).split()]
    assert set(spoken) <= known
    assert {word for fact in facts() for word in fact.text.split()} <= known
    assert (len(towns()), len(lands())) == (24, 8)


def test_registers_know_people_as_often_as_they_shall_and_everybody_is_somewhere() -> None:
    assert all(person.registers for person in people())
    # 600 draws at 0.6 have a standard deviation of sqrt(.24 / 600) = .02; those put back raise it by (0.4^3) / 3 = .021
    share = sum(len(person.registers) for person in people()) / (3 * PEOPLE)
    assert share == pytest.approx(REGISTERED + 0.4**3 / 3, abs=0.06)


def test_a_name_finds_its_owner_where_the_register_has_it_and_else_nothing() -> None:
    for person in people()[:60]:
        for register, name in zip(REGISTERS, person.names, strict=True):
            said = FIND(name)
            known = f"<result> {name} lives in {person.town} </result>"
            assert said == (known if register in person.registers else "<result> nothing </result>")


def test_the_land_of_a_town_is_found_by_the_word_and_not_by_the_bare_town() -> None:
    for town in towns():
        assert FIND(f"land {town}") == f"<result> land of {town} is {land_of(town)} </result>"
        assert "lives in" in FIND(town)


def test_other_people_are_held_out() -> None:
    train, kept = select_people("train", TRAIN_PEOPLE), select_people("held_out", PEOPLE - TRAIN_PEOPLE)
    assert set(train).isdisjoint(kept)
    with pytest.raises(ConfigError, match="ask for at most 120"):
        select_people("held_out", 121)

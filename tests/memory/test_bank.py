"""The bank's file: what a round keeps, what is refused and how the way out is told."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.errors import DataError
from critique_rl.memory.bank import Bank, bank_from_json, read_bank
from critique_rl.memory.skill import Skill, title_of

GENERAL = Skill(id="gen_001", title="Check", principle="Check each step.", scope="general", form="pattern")
OWN = Skill(
    id="dyn_007", title="Carry", principle="Carry the one.", when_to_apply="27+38=", category="hard",
    source_episode_ids=("3/a/0", "5/b/1"), created_step=4, uses=9, wins=3, revision=2,
)  # fmt: skip
GONE = replace(OWN, id="dyn_002", status="retired", split="held_out")


def test_a_bank_survives_its_file(tmp_path: Path) -> None:
    bank = Bank(skills=(GENERAL, OWN, GONE), version=5)
    path = tmp_path / "skills.json"
    path.write_text(json.dumps(bank.to_json()))
    assert read_bank(path) == bank


@given(st.lists(st.sampled_from(["general", "task"]), max_size=6), st.lists(st.booleans(), min_size=6, max_size=6))
def test_any_bank_survives(scopes: list[str], active: list[bool]) -> None:
    skills = [
        replace(
            GENERAL if scope == "general" else OWN, id=f"s{n}", status="active" if stays else "retired"
        )
        for n, (scope, stays) in enumerate(zip(scopes, active, strict=False))
    ]  # fmt: skip
    found = bank_from_json(json.loads(json.dumps(Bank(skills=tuple(skills)).to_json())), where="x")
    assert sorted(found.skills, key=lambda s: s.id) == skills


def test_a_bank_written_by_hand_needs_titles_and_principles_only() -> None:
    found = bank_from_json(
        {
            "general_skills": [{"title": "a", "principle": "b"}, {"id": "skill_001", "title": "c", "principle": "d"}],
            "task_specific_skills": {"hard": [{"title": "e", "principle": "f"}]},
        },
        where="x",
    )
    assert [(s.id, s.scope, s.category) for s in found.skills] == [
        ("skill_002", "general", ""),
        ("skill_001", "general", ""),
        ("skill_003", "task", "hard"),
    ]
    assert found.version == 0


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([], "a bank of skills is one JSON object"),
        ({"common_mistakes": []}, "unknown key 'common_mistakes'.*common mistakes, under"),
        ({"version": -1}, "version is -1; wanted a whole number"),
        ({"general_skills": {}}, "general_skills is no list"),
        ({"general_skills": ["x"]}, r"general_skills\[0\] is no object"),
        ({"task_specific_skills": []}, "task_specific_skills is no object"),
        ({"task_specific_skills": {"hard": [{"title": "a"}]}}, r"hard\[0\]: principle is missing"),
        ({"general_skills": [{"title": " ", "principle": "b"}]}, "title is .* not empty"),
        ({"general_skills": [{"title": "a", "principle": "b", "skill_id": "1"}]}, "unknown key 'skill_id'"),
        ({"general_skills": [{"title": "a", "principle": "b", "form": "tip"}]}, "one of lesson, pattern"),
        ({"general_skills": [{"title": "a", "principle": "b", "uses": -1}]}, "uses is -1"),
        ({"general_skills": [{"title": "a", "principle": "b", "source_episode_ids": 3}]}, "a list of texts"),
        ({"general_skills": [{"title": "a", "principle": "b", "category": "x"}]}, "category is said by the section"),
        ({"general_skills": [{"id": "i", "title": "a", "principle": "b"}] * 2}, "the id 'i' is given twice"),
    ],
)
def test_what_is_refused(value: object, told: str) -> None:
    with pytest.raises(DataError, match=told):
        bank_from_json(value, where="bank.json")


def test_a_file_that_is_no_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text("{")
    with pytest.raises(DataError, match="cannot be read as a bank of skills"):
        read_bank(path)
    with pytest.raises(DataError, match="cannot be read as a bank of skills"):
        read_bank(tmp_path / "nothing.json")


def test_a_version_never_changes() -> None:
    bank = Bank(skills=(OWN,))
    later = bank.changed([OWN, GENERAL])
    assert (bank.version, len(bank.skills)) == (0, 1)
    assert (later.version, len(later.skills)) == (1, 2)


def test_titles_end_at_a_word() -> None:
    assert title_of("carry  the\none") == "carry the one"
    assert title_of("carry the one into the tens", max_chars=16) == "carry the..."

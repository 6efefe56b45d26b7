"""The bank: one frozen version of all skills, and the file that holds it.

Owns: the file's sections and their check, ids, and that a version never changes once it is made. Must not know: how
skills are found or written.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from critique_rl.errors import DataError
from critique_rl.memory.skill import Scope, Skill, skill_from_json

SECTIONS = ("version", "general_skills", "task_specific_skills", "retired")
_DYNAMIC = re.compile(r"dyn_(\d+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Bank:
    """All skills of one moment, in the order in which they came; a change is a new bank with the next version."""

    skills: tuple[Skill, ...] = ()
    version: int = 0

    @property
    def active(self) -> tuple[Skill, ...]:
        return tuple(skill for skill in self.skills if skill.status == "active")

    @property
    def next_id(self) -> str:
        """The id after the highest that any skill ever had, retired ones included, so that none is given twice."""
        taken = [int(match[1]) for skill in self.skills if (match := _DYNAMIC.fullmatch(skill.id))]
        return f"dyn_{max(taken, default=0) + 1:03d}"

    def changed(self, skills: Iterable[Skill]) -> Bank:
        """The next version."""
        return Bank(skills=tuple(skills), version=self.version + 1)

    def with_skill(self, skill: Skill) -> Bank:
        """The same version with a skill put in the place of the one with its id, or at the end."""
        if any(known.id == skill.id for known in self.skills):
            return replace(self, skills=tuple(skill if known.id == skill.id else known for known in self.skills))
        return replace(self, skills=(*self.skills, skill))

    def to_json(self) -> dict[str, object]:
        """The file's object: sections by scope and category, retired skills apart."""
        by_category: dict[str, list[dict[str, object]]] = {}
        for skill in self.active:
            if skill.scope == "task":
                by_category.setdefault(skill.category, []).append(skill.to_json())
        return {
            "version": self.version,
            "general_skills": [skill.to_json() for skill in self.active if skill.scope == "general"],
            "task_specific_skills": by_category,
            "retired": [skill.to_json() for skill in self.skills if skill.status == "retired"],
        }


def bank_from_json(value: object, *, where: str) -> Bank:
    """A checked bank; skills without an id get one. Raises DataError with the place, what came and what was wanted."""
    if not isinstance(value, Mapping):
        raise DataError(f"{where}: a bank of skills is one JSON object with {', '.join(SECTIONS)}; this is none")
    sections = cast("Mapping[str, object]", value)
    for key in sections:
        if key not in SECTIONS:
            raise DataError(
                f"{where}: unknown key {key!r}; wanted only {', '.join(SECTIONS)}: skills for one kind of task stand "
                'under "task_specific_skills": {"KIND": [...]}, those for all, and common mistakes, under '
                '"general_skills"'
            )
    version = sections.get("version", 0)
    if not isinstance(version, int) or isinstance(version, bool) or version < 0:
        raise DataError(f"{where}: version is {version!r}; wanted a whole number >= 0, or leave it out")
    by_category = sections.get("task_specific_skills", {})
    if not isinstance(by_category, Mapping):
        raise DataError(
            f'{where}: task_specific_skills is no object; wanted {{"KIND": [skills]}}, each KIND as in the tasks\' kind'
        )
    read = _read_list(sections.get("general_skills", []), f"{where}: general_skills", scope="general")
    for category, skills in cast("Mapping[str, object]", by_category).items():
        read += _read_list(skills, f"{where}: task_specific_skills.{category}", scope="task", category=category)
    read += _read_list(sections.get("retired", []), f"{where}: retired", scope="general", status="retired")
    return Bank(skills=_with_ids(read, where), version=version)


def read_bank(path: Path) -> Bank:
    """A bank's file. Raises DataError."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as a bank of skills: {error}; it is one JSON object") from None
    return bank_from_json(value, where=str(path))


def _read_list(value: object, where: str, *, scope: Scope, category: str = "", status: str = "active") -> list[Skill]:
    if not isinstance(value, list):
        raise DataError(f"{where} is no list; wanted a list of skills, each with title and principle")
    skills: list[Skill] = []
    for number, item in enumerate(cast("list[object]", value)):
        place = f"{where}[{number}]"
        if not isinstance(item, Mapping):
            raise DataError(f"{place} is no object; wanted a skill with title and principle")
        found = cast("Mapping[str, object]", item)
        skills.append(skill_from_json(found, place, scope=scope, category=category, status=status))
    return skills


def _with_ids(skills: Sequence[Skill], where: str) -> tuple[Skill, ...]:
    taken = [skill.id for skill in skills if skill.id]
    twice = next((one for one in taken if taken.count(one) > 1), None)
    if twice is not None:
        raise DataError(f"{where}: the id {twice!r} is given twice; ids must differ, or leave them out")
    free = (f"skill_{number:03d}" for number in range(1, 2 * len(skills) + 2))
    unused = (one for one in free if one not in taken)
    return tuple(skill if skill.id else replace(skill, id=next(unused)) for skill in skills)

"""One skill: what it says, where it came from, and how it has fared.

Owns: the record, its form as JSON and what a file may say of it. Must not know: how skills are found, written or shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, cast, get_args

from critique_rl.errors import DataError
from critique_rl.feedback.fields import Fields, without_defaults

Form = Literal["lesson", "pattern", "demonstration", "attempt"]
"""`lesson`: from a failure. `pattern`: what a success did right. `demonstration`: a success as it was. `attempt`: any
attempt as it was, with its outcome."""
Scope = Literal["general", "task"]
Split = Literal["train", "held_out"]

FIELDS = (
    "id", "title", "principle", "when_to_apply", "form", "source_episode_ids", "created_step", "uses", "wins", "split",
    "revision", "category",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Skill:
    """A piece of advice. `general` skills stand in every prompt, `task` ones belong to a `category` (a task's kind).

    `uses` counts the rollouts that saw it, `wins` the right ones of them. `split` says which tasks it was learned from.
    `revision` counts how often its words were replaced.
    """

    id: str
    title: str
    principle: str
    when_to_apply: str = ""
    scope: Scope = "task"
    category: str = ""
    form: Form = "lesson"
    source_episode_ids: tuple[str, ...] = ()
    created_step: int = 0
    uses: int = 0
    wins: int = 0
    status: Literal["active", "retired"] = "active"
    split: Split = "train"
    revision: int = 0

    @property
    def text(self) -> str:
        """All its words, as one text."""
        return "\n".join(filter(None, (self.title, self.principle, self.when_to_apply)))

    def to_json(self) -> dict[str, object]:
        """Without scope and status, which a bank's sections say; a category only where no section does."""
        values = {
            "when_to_apply": self.when_to_apply,
            "source_episode_ids": list(self.source_episode_ids),
            "created_step": self.created_step,
            "uses": self.uses,
            "wins": self.wins,
            "revision": self.revision,
        }
        own: dict[str, object] = {"id": self.id, "title": self.title, "principle": self.principle, "form": self.form}
        split: dict[str, object] = {} if self.split == "train" else {"split": self.split}
        category: dict[str, object] = {"category": self.category} if self.status == "retired" else {}
        return {**own, **without_defaults(values, ("", 0, [])), **split, **category}


def skill_from_json(
    value: Mapping[str, object], where: str, *, scope: Scope, category: str = "", status: str = "active"
) -> Skill:
    """One object of a bank's section. Raises DataError with the place, the key, what came and what was wanted."""
    fields = Fields(value, where, known=FIELDS)
    sources = value.get("source_episode_ids", [])
    known = cast("list[object]", sources) if isinstance(sources, list) else [None]
    if not all(isinstance(source, str) for source in known):
        fields.refuse("source_episode_ids", "a list of texts")
    if "category" in fields and status == "active":
        raise DataError(f"{where}: category is said by the section that the skill stands in; remove the key")
    return Skill(
        id=fields.text("id", ""),
        title=fields.text("title", empty=False),
        principle=fields.text("principle", empty=False),
        when_to_apply=fields.text("when_to_apply", ""),
        scope="task" if status == "retired" and fields.text("category", "") else scope,
        category=fields.text("category", "") if status == "retired" else category,
        form=cast(Form, fields.one_of("form", get_args(Form), "lesson")),
        source_episode_ids=tuple(map(str, known)),
        created_step=fields.integer("created_step", 0),
        uses=fields.integer("uses", 0),
        wins=fields.integer("wins", 0),
        status="retired" if status == "retired" else "active",
        split=cast(Split, fields.one_of("split", get_args(Split), "train")),
        revision=fields.integer("revision", 0),
    )


def title_of(text: str, *, max_chars: int = 80) -> str:
    """The first words of a text as its title, cut at a word."""
    line = " ".join(text.split())
    if len(line) <= max_chars:
        return line
    return f"{line[: max_chars - 3].rsplit(' ', 1)[0]}..."

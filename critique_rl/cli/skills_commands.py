"""`critique-rl skills`: look at a bank of skills, or check that a file is one.

Must not know: how skills are found or made.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from critique_rl.memory.bank import Bank


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:  # pyright: ignore[reportPrivateUsage]
    """The parser of the verb."""
    skills = verbs.add_parser("skills", help="look at a bank of skills")
    looks = skills.add_subparsers(dest="skills_verb", metavar="COMMAND", required=True)
    show = looks.add_parser("show", help="every skill, with how often it was used and how often that went well")
    show.add_argument("file", metavar="SKILLS.json")
    show.add_argument("--retired", action="store_true", help="the retired ones as well")
    check = looks.add_parser("check", help="whether a file is a bank that a run can start from")
    check.add_argument("file", metavar="SKILLS.json")


def handle(known: argparse.Namespace) -> int:
    """Run it. Errors: DataError with the place in the file, what came and what was wanted."""
    from critique_rl.memory.bank import read_bank

    bank = read_bank(Path(known.file))
    if known.skills_verb == "show":
        _show(bank, retired=bool(known.retired))
        return 0
    held_out = sum(skill.split == "held_out" for skill in bank.skills)
    print(f"{known.file}: {_counted(bank)}")
    if held_out:
        print(f"{held_out} of them were learned from held-out tasks: a run needs skills.allow_val_leak = true")
    return 0


def _counted(bank: Bank) -> str:
    general = sum(skill.scope == "general" for skill in bank.active)
    kinds = {skill.category for skill in bank.active if skill.scope == "task"}
    of_tasks, retired = len(bank.active) - general, len(bank.skills) - len(bank.active)
    kinds_told = f"{of_tasks} for {len(kinds)} kinds of task"
    return f"version {bank.version}: {general} general skills, {kinds_told}, {retired} retired"


def _show(bank: Bank, *, retired: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=_counted(bank))
    for head in ("id", "kind", "form", "skill", "learned on", "uses", "right"):
        table.add_column(head, overflow="fold")
    for skill in bank.skills if retired else bank.active:
        table.add_row(
            skill.id if skill.status == "active" else f"{skill.id} (retired)",
            skill.category if skill.scope == "task" else "all",
            skill.form,
            skill.principle,
            skill.when_to_apply,
            str(skill.uses),
            f"{skill.wins / skill.uses:.0%}" if skill.uses else "-",
        )
    Console(markup=False).print(table)

"""How a bank becomes its next version: drafts join, refine a skill or repeat one; harmful and surplus skills retire.

Owns: what counts as a repetition and as a refinement, ids, and who leaves a full bank. Must not know: how drafts were
written, retrieval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from critique_rl.memory.bank import Bank
from critique_rl.memory.skill import Skill
from critique_rl.memory.utility import Evidence, is_harmful
from critique_rl.memory.writing import Draft

SOURCES_KEPT = 32
"""Attempts that a skill names as its sources."""


class Evolved(NamedTuple):
    """The next version, or the same bank where nothing changed; ids of what happened to which skill."""

    bank: Bank
    added: tuple[str, ...]
    refined: tuple[str, ...]
    repeated: int
    retired: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Bounds of an evolution: similarities in [0, 1], `max_new` new skills, `capacity` active ones."""

    dedup_above: float = 0.9
    refine_above: float = 0.75
    max_new: int = 3
    capacity: int = 200
    epsilon: float = 0.05
    min_groups: int = 20


def evolve(
    bank: Bank,
    drafts: Sequence[Draft],
    *,
    step: int,
    rules: Rules,
    similarity: Callable[[str, str], float],
    evidence: Mapping[str, Evidence],
) -> Evolved:
    """Take each draft in turn: it repeats a skill, or refines one that its attempt had in view, or joins as a new one.

    A draft repeats an active skill of its form whose title is equal or whose principle is more than `dedup_above`
    similar: the skill then names one more source, and becomes general if it was another kind's. A draft that is more
    than `refine_above` similar to a skill that its attempt saw, and that failed, takes the place of that skill's words.
    Retired skills count as known: what was harmful does not come back under another id.
    """
    new_bank, added, refined, repeated, room = bank, [], [], 0, rules.max_new
    for draft in drafts:
        known = _repeated(new_bank, draft, rules, similarity)
        if known is not None:
            repeated += 1
            if known.status == "active":
                new_bank = new_bank.with_skill(_with_source(known, draft))
            continue
        old = _refinable(new_bank, draft, rules, similarity)
        if old is not None:
            refined.append(old.id)
            new_bank = new_bank.with_skill(_reworded(old, draft))
        elif room:
            room -= 1
            skill = _new(new_bank.next_id, draft, step)
            added.append(skill.id)
            new_bank = new_bank.with_skill(skill)
    retired = _harmful(new_bank, evidence, rules, kept=[*added, *refined])
    retired += _surplus(new_bank, capacity=rules.capacity, leaving=retired, kept=added)
    skills = [replace(s, status="retired") if s.id in retired else s for s in new_bank.skills]
    changed = tuple(skills) != bank.skills
    return Evolved(bank.changed(skills) if changed else bank, tuple(added), tuple(refined), repeated, tuple(retired))


def _repeated(bank: Bank, draft: Draft, rules: Rules, similarity: Callable[[str, str], float]) -> Skill | None:
    for skill in bank.skills:
        if skill.form != draft.form:
            continue
        if skill.title.casefold() == draft.title.casefold():
            return skill
        if similarity(skill.principle, draft.principle) > rules.dedup_above:
            return skill
    return None


def _refinable(bank: Bank, draft: Draft, rules: Rules, similarity: Callable[[str, str], float]) -> Skill | None:
    """The skill nearest to a lesson among those that its failed attempt had in view."""
    if draft.form != "lesson":
        return None
    own = [s for s in bank.active if s.id in draft.episode.shown and s.split == draft.episode.split]
    seen = [(similarity(s.principle, draft.principle), s) for s in own]
    near = [(value, skill) for value, skill in seen if value > rules.refine_above and skill.form == "lesson"]
    return max(near, key=lambda one: one[0])[1] if near else None


def _with_source(skill: Skill, draft: Draft) -> Skill:
    """One more source. What held-out tasks say changes no skill of the training tasks; the reverse makes it theirs."""
    if draft.episode.split != skill.split and skill.split == "train":
        return skill
    elsewhere = skill.scope == "task" and skill.category not in ("", draft.category)
    scope = replace(skill, scope="general", category="") if elsewhere else skill
    sources = dict.fromkeys((*skill.source_episode_ids, draft.episode.id))
    return replace(scope, split=draft.episode.split, source_episode_ids=tuple(sources)[-SOURCES_KEPT:])


def _reworded(skill: Skill, draft: Draft) -> Skill:
    """The same skill in new words: what was counted for the old ones says nothing of these."""
    named = _with_source(skill, draft)
    return replace(named, title=draft.title, principle=draft.principle, uses=0, wins=0, revision=skill.revision + 1)


def _new(skill_id: str, draft: Draft, step: int) -> Skill:
    return Skill(
        id=skill_id,
        title=draft.title,
        principle=draft.principle,
        when_to_apply=draft.episode.task.question,
        scope="task",
        category=draft.category,
        form=draft.form,
        source_episode_ids=(draft.episode.id,),
        created_step=step,
        split=draft.episode.split,
    )


def _harmful(bank: Bank, evidence: Mapping[str, Evidence], rules: Rules, *, kept: Sequence[str]) -> list[str]:
    return [
        skill.id
        for skill in bank.active
        if skill.id not in kept
        and skill.id in evidence
        and is_harmful(evidence[skill.id], epsilon=rules.epsilon, min_groups=rules.min_groups)
    ]


def _surplus(bank: Bank, *, capacity: int, leaving: Sequence[str], kept: Sequence[str]) -> list[str]:
    """Who makes room: what held-out tasks left, then the least used, the oldest of those; what has just come last."""
    staying = [skill for skill in bank.active if skill.id not in leaving]
    order = sorted(
        range(len(staying)), key=lambda i: (staying[i].split == "train", staying[i].id in kept, staying[i].uses, i)
    )
    return [staying[i].id for i in order[: max(0, len(staying) - capacity)]]

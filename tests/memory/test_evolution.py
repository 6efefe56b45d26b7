"""How drafts join, repeat or refine skills, and who retires."""

from __future__ import annotations

from dataclasses import replace

import pytest

from critique_rl.memory.bank import Bank
from critique_rl.memory.episodes import Episode
from critique_rl.memory.evolution import Evolved, Rules, evolve
from critique_rl.memory.skill import Skill
from critique_rl.memory.utility import Evidence
from critique_rl.memory.writing import Draft
from critique_rl.types import Message, Task

CARRY = Skill(
    id="dyn_003", title="carry the one", principle="carry the one", category="hard", when_to_apply="q",
    source_episode_ids=("a",), uses=8, wins=2,
)  # fmt: skip


def draft(
    text: str, *, kind: str = "hard", shown: tuple[str, ...] = (), form: str = "lesson", split: str = "train"
) -> Draft:
    task = Task(id="t", messages=(Message(role="user", content="27+38="),), answer="1", verifier="exact", kind=kind)
    episode = Episode(
        id="9/t/0", task=task, attempt="2", correct=False, reward=0.0, shown=shown,
        split=split,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip
    return Draft(principle=text, form=form, episode=episode)  # pyright: ignore[reportArgumentType]


def shared(left: str, right: str) -> float:
    """Share of words in common: |a & b| / |a | b|."""
    a, b = set(left.split()), set(right.split())
    return len(a & b) / len(a | b)


def run(bank: Bank, *drafts: Draft, evidence: dict[str, Evidence] | None = None, rules: Rules | None = None) -> Evolved:
    return evolve(bank, drafts, step=7, rules=rules or Rules(), similarity=shared, evidence=evidence or {})


def test_a_new_skill_says_where_it_came_from() -> None:
    found = run(Bank(skills=(CARRY,), version=2), draft("start with the ones"))
    assert (found.added, found.bank.version) == (("dyn_004",), 3)
    new = found.bank.skills[-1]
    assert (new.title, new.when_to_apply, new.category, new.scope) == (
        "start with the ones", "27+38=", "hard", "task",
    )  # fmt: skip
    assert (new.created_step, new.source_episode_ids, new.uses) == (7, ("9/t/0",), 0)


def test_equal_titles_repeat_a_skill_whatever_their_case() -> None:
    found = run(Bank(skills=(CARRY,)), draft("Carry the one"))
    assert (found.added, found.repeated) == ((), 1)
    assert found.bank.skills == (replace(CARRY, source_episode_ids=("a", "9/t/0")),)


def test_like_words_repeat_a_skill_only_above_the_bound() -> None:
    # {carry the one now} / {carry the one}: 3 of 4 words = .75
    assert run(Bank(skills=(CARRY,)), draft("carry the one now"), rules=Rules(dedup_above=0.74)).repeated == 1
    assert run(Bank(skills=(CARRY,)), draft("carry the one now"), rules=Rules(dedup_above=0.75)).added


def test_another_form_is_another_skill() -> None:
    assert run(Bank(skills=(CARRY,)), draft("carry the one", form="pattern")).added


def test_what_two_kinds_of_task_teach_is_general() -> None:
    (skill,) = run(Bank(skills=(CARRY,)), draft("carry the one", kind="easy")).bank.skills
    assert (skill.scope, skill.category) == ("general", "")


def test_a_lesson_in_spite_of_a_skill_refines_it() -> None:
    rules = Rules(refine_above=0.7)
    found = run(Bank(skills=(CARRY,)), draft("carry the one now", shown=("dyn_003",)), rules=rules)
    assert (found.refined, found.added) == (("dyn_003",), ())
    (skill,) = found.bank.skills
    assert (skill.id, skill.principle, skill.revision, skill.uses, skill.wins) == (
        "dyn_003", "carry the one now", 1, 0, 0,
    )  # fmt: skip
    unseen = run(Bank(skills=(CARRY,)), draft("carry the one now"), rules=rules)
    assert unseen.refined == ()


def test_what_held_out_tasks_say_changes_no_skill_of_training_tasks() -> None:
    bank = Bank(skills=(CARRY,))
    assert run(bank, draft("carry the one", split="held_out")).bank == bank
    found = run(bank, draft("carry the one now", shown=("dyn_003",), split="held_out"), rules=Rules(refine_above=0.7))
    assert found.refined == ()
    assert found.bank.skills[0] == CARRY
    assert found.bank.skills[1].split == "held_out"


def test_training_tasks_make_a_skill_theirs() -> None:
    (skill,) = run(Bank(skills=(replace(CARRY, split="held_out"),)), draft("carry the one")).bank.skills
    assert skill.split == "train"


def test_no_more_new_skills_than_asked_for() -> None:
    found = run(Bank(), *(draft(word) for word in ("a", "b", "c", "d")), rules=Rules(max_new=2))
    assert found.added == ("dyn_001", "dyn_002")


def test_a_retired_skill_does_not_come_back() -> None:
    gone = Bank(skills=(replace(CARRY, status="retired"),))
    found = run(gone, draft("carry the one"))
    assert (found.repeated, found.bank) == (1, gone)


def test_a_harmful_skill_retires() -> None:
    bad = Evidence()
    for _ in range(4):
        bad = bad.plus(0.0, shown=True).plus(1.0, shown=False)
    found = run(Bank(skills=(CARRY,)), evidence={"dyn_003": bad}, rules=Rules(min_groups=4))
    assert found.retired == ("dyn_003",)
    assert found.bank.active == ()
    assert run(Bank(skills=(CARRY,)), evidence={"dyn_003": bad}, rules=Rules(min_groups=5)).retired == ()


@pytest.mark.parametrize(
    ("skills", "leaves"),
    [
        ([replace(CARRY, id="a", uses=3), replace(CARRY, id="b", uses=1)], ("b",)),
        ([replace(CARRY, id="a", uses=1), replace(CARRY, id="b", uses=1)], ("a",)),
        ([replace(CARRY, id="a", uses=0), replace(CARRY, id="b", uses=9, split="held_out")], ("b",)),
    ],
)
def test_the_least_used_makes_room(skills: list[Skill], leaves: tuple[str, ...]) -> None:
    found = run(Bank(skills=tuple(skills)), draft("new words"), rules=Rules(capacity=2))
    assert found.retired == leaves
    assert len(found.bank.active) == 2


def test_nothing_new_is_the_same_version() -> None:
    bank = Bank(skills=(CARRY,), version=4)
    assert run(bank).bank is bank

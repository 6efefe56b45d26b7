"""One memory over the steps of a run: versions, the share without skills, figures, and its state."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.config.skills import SkillsConfig
from critique_rl.embedding.hashed import HashedEmbedder
from critique_rl.errors import DataError
from critique_rl.memory.bank import Bank
from critique_rl.memory.dressing import shown_to
from critique_rl.memory.skill import Skill
from critique_rl.memory.skill_memory import SkillMemory
from critique_rl.memory.writing import DirectivesWriter
from critique_rl.prompting.catalogue import load_prompt
from critique_rl.types import CriticOutcome, Critique, Directive, Group, Message, Rollout, Score, ScoreStatus, Task

KNOWN = Skill(id="gen_001", title="check", principle="check each step", scope="general")


def memory(known: Sequence[Skill] = (), *, writes: bool = True, seed: int = 0, **options: object) -> SkillMemory:
    tree = {"every": 2, "min_similarity": 0.0, "dropout": 0.0, **options}
    return SkillMemory(
        SkillsConfig.model_validate(tree),
        template=load_prompt("skills"),
        embedder=HashedEmbedder(),
        tokens_of=lambda text: len(text.split()),
        writer=DirectivesWriter(demonstration_chars=400) if writes else None,
        bank=Bank(skills=tuple(known)),
        seed=seed,
    )


def task(name: str, *, kind: str = "hard") -> Task:
    return Task(id=name, messages=(Message(role="user", content=name),), answer="77", verifier="exact", kind=kind)


def group(asked: Task, right: Sequence[bool], *, said: str = "", text: str = "try", late: bool = False) -> Group:
    rollouts = tuple(
        Rollout(
            id=f"s/{asked.id}/{i}", task_id=asked.id, prompt_ids=(), completion_ids=(1,), behaviour_logprobs=(0.0,),
            text=f"{text} {i}", finished=True, policy_version=0,
        )
        for i in range(len(right))
    )  # fmt: skip
    critiques = {
        rollout.id: Critique(
            rollout_id=rollout.id, critic="c", outcome=CriticOutcome.OK, directives=(Directive(text=said),)
        )
        for rollout, good in zip(rollouts, right, strict=True)
        if said and not good
    }
    scores = tuple(Score(reward=float(good)) for good in right)
    return Group(task=asked, rollouts=rollouts, scores=scores, critiques=critiques, late=late)


def test_one_version_serves_a_step_and_the_next_comes_when_it_is_due() -> None:
    kept = memory()
    (asked,) = kept.dress([task("q")], 0)
    assert shown_to(asked) == ()
    kept.note([group(asked, [False, False], said="carry the one")])
    assert kept.evolve(0) is None
    assert kept.version == 0
    kept.note([group(kept.dress([task("q")], 1)[0], [False], said="start with the ones", text="again")])
    evolved = kept.evolve(1)
    assert evolved is not None
    assert evolved.added == ("dyn_001", "dyn_002")
    assert kept.messages() == ["version 1: added dyn_001, dyn_002; 2 active"]
    assert kept.messages() == []
    assert shown_to(kept.dress([task("q")], 2)[0]) == ("dyn_001", "dyn_002")


def test_a_late_critique_still_teaches() -> None:
    kept = memory()
    kept.note([group(task("q"), [False])])
    kept.note([group(task("q"), [False], said="carry the one", late=True)])
    assert kept.evolve(1) is not None
    assert [skill.principle for skill in kept.bank.active] == ["carry the one"]


def test_kinds_that_succeed_give_no_lessons_but_rare_successes_are_kept() -> None:
    kept = memory(low_success=0.5)
    kept.note([group(task("q"), [True, True, False], said="carry the one")])
    kept.note([group(task("p", kind="easy"), [True, True])])
    kept.evolve(1)
    assert {(s.form, s.category) for s in kept.bank.active} == {("demonstration", "hard")}


def test_without_a_writer_the_bank_stays() -> None:
    kept = memory([KNOWN], writes=False, source="none", bank="b.json", every=5)
    kept.note([group(kept.dress([task("q")], 0)[0], [False], said="carry")])
    assert kept.evolve(1) is None
    assert kept.bank.version == 0
    kept.close()


def test_uses_and_wins_count_rollouts_that_saw_a_skill() -> None:
    kept = memory([KNOWN])
    asked = kept.dress([task("q")], 0)
    kept.note([group(asked[0], [True, False, True])])
    (skill,) = kept.bank.skills
    assert (skill.uses, skill.wins) == (3, 2)


def test_groups_without_skills_are_evidence_about_the_skills_they_would_have_had() -> None:
    kept = memory([KNOWN], dropout=0.5)
    for step in range(40):
        (asked,) = kept.dress([task("q")], step)
        kept.note([group(asked, [bool(shown_to(asked))] * 2)])
    figures = kept.figures()
    # Right whenever shown, wrong whenever not: 1 - 0.
    assert figures["skills/utility"] == 1.0
    assert figures["skills/utility/low"] > 0
    evidence = kept.state_dict()["evidence"]["gen_001"]  # pyright: ignore[reportIndexIssue, reportUnknownVariableType]
    assert sum(side[0] for side in evidence) == 40


def test_a_harmful_skill_is_found_by_dropout_and_retired() -> None:
    kept = memory([KNOWN], dropout=0.5, min_groups=5)
    for step in range(40):
        (asked,) = kept.dress([task("q")], step)
        kept.note([group(asked, [not shown_to(asked)] * 2)])
        kept.evolve(step)
    assert [skill.status for skill in kept.bank.skills if skill.id == "gen_001"] == ["retired"]


def test_skills_that_hurt_as_a_whole_are_told_once() -> None:
    kept = memory([KNOWN], dropout=0.5, min_groups=5, every=1000)
    for step in range(40):
        (asked,) = kept.dress([task("q")], step)
        kept.note([group(asked, [not shown_to(asked)] * 2)])
    (told,) = kept.messages()
    assert told.startswith("prompts with skills succeed 100% less often than those without")


def test_an_attempt_that_nobody_could_judge_is_no_evidence() -> None:
    kept = memory([KNOWN])
    (asked,) = kept.dress([task("q")], 0)
    found = group(asked, [False])
    kept.note([Group(task=asked, rollouts=found.rollouts, scores=(Score(reward=0.0, status=ScoreStatus.ERROR),))])
    assert kept.bank.skills[0].uses == 0
    assert kept.evolve(1) is not None
    assert kept.version == 0


@given(st.integers(0, 5), st.integers(0, 30), st.text(max_size=5))
def test_the_draw_depends_on_seed_step_and_task_alone(seed: int, step: int, name: str) -> None:
    left, right = (memory([KNOWN], dropout=0.5, seed=seed) for _ in range(2))
    alone = left.dress([task(name)], step)[0]
    in_company = right.dress([task("other"), task(name)], step)[1]
    assert alone == in_company


def test_a_step_may_ask_for_tasks_several_times() -> None:
    kept = memory([KNOWN], dropout=0.5)
    first = kept.dress([task(f"a{n}") for n in range(8)], 3)
    second = kept.dress([task(f"b{n}") for n in range(8)], 3)
    assert kept.figures()["skills/tasks_with"] == sum(bool(shown_to(t)) for t in [*first, *second]) / 16
    kept.note([group(t, [True]) for t in (*first, *second)])
    state = kept.state_dict()["evidence"]
    assert sum(side[0] for side in state[""]) == 16  # pyright: ignore[reportIndexIssue, reportUnknownVariableType]


def test_figures_of_prompts() -> None:
    own = Skill(id="dyn_001", title="carry", principle="carry the one", when_to_apply="q", category="hard")
    kept = memory([KNOWN, own])
    asked = kept.dress([task("q"), task("r", kind="easy")], 0)
    kept.note([group(asked[0], [True, False], text="I carry"), group(asked[1], [True])])
    figures = kept.figures()
    blocks = [len(t.messages[0].content.split()) for t in asked]
    assert figures["skills/prompt_tokens"] == sum(blocks) / 2
    assert (figures["skills/tasks_with"], figures["skills/tasks_hit"]) == (1.0, 0.5)
    # used: gen_001 twice, dyn_001 once: -(2/3 ln 2/3 + 1/3 ln 1/3) = 0.636514
    assert figures["skills/use_entropy"] == pytest.approx(0.636514, abs=1e-6)
    # "carry" stands in the two answers to q, "check" in none: 2 of 3 rollouts
    assert figures["skills/mentioned"] == pytest.approx(2 / 3)
    assert "skills/utility" not in figures  # no group went without


def test_a_bank_that_no_task_hits_is_told_once() -> None:
    kept = memory([Skill(id="a", title="t", principle="p", category="nobody")])
    for step in range(15):
        kept.dress([task(f"{step}/{n}") for n in range(8)], step)
    (told,) = kept.messages()
    assert told.startswith("only 0 of 104 tasks got a skill of their own")
    assert "match_kind = false" in told


def test_held_out_tasks_are_dressed_without_being_counted() -> None:
    kept = memory([KNOWN], dropout=0.9)
    before = kept.state_dict()
    found = kept.dress_held_out([task(f"q{n}") for n in range(9)])
    assert all(shown_to(t) == ("gen_001",) for t in found)
    assert kept.state_dict() == before


def test_a_bank_that_knows_held_out_tasks_is_refused() -> None:
    with pytest.raises(DataError, match=r"skill 'x' was learned from held-out tasks.*allow_val_leak = true"):
        memory([Skill(id="x", title="t", principle="p", split="held_out")])


def test_its_state_goes_on_exactly() -> None:
    def play(kept: SkillMemory, steps: range) -> None:
        for step in steps:
            asked = kept.dress([task(f"q{step % 3}"), task(f"p{step % 2}", kind="easy")], step)
            kept.note([group(t, [step % 2 == 0, False], said=f"rule {step % 4}", text=f"{step}") for t in asked])
            kept.evolve(step)

    straight = memory([KNOWN], dropout=0.3)
    play(straight, range(9))
    first = memory([KNOWN], dropout=0.3)
    play(first, range(4))
    second = memory([KNOWN], dropout=0.3)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    play(second, range(4, 9))
    assert second.state_dict() == straight.state_dict()
    assert second.figures() == straight.figures()
    assert second.bank == straight.bank

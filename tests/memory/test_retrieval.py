"""Which skills a task gets: its own kind's, near enough, never one that states its answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from critique_rl.embedding.hashed import HashedEmbedder
from critique_rl.memory.bank import Bank
from critique_rl.memory.retrieval import Found, SkillBank, above_then_top
from critique_rl.memory.skill import Skill
from critique_rl.types import Array, Message, Task


def task(question: str, *, kind: str = "hard", answer: str = "42") -> Task:
    messages = (Message(role="user", content=question),)
    return Task(id=question, messages=messages, answer=answer, verifier="exact", kind=kind)


def skill(name: str, principle: str, *, category: str = "hard", **fields: str) -> Skill:
    scope = "task" if category else "general"
    return Skill(id=name, title=principle, principle=principle, category=category, scope=scope, **fields)  # pyright: ignore[reportArgumentType]


def found(bank: list[Skill], asked: Task, *, match_kind: bool = True, **options: float) -> list[str]:
    finder = SkillBank(
        bank=Bank(skills=tuple(bank)),
        embedder=HashedEmbedder(),
        tokens_of=lambda skills, question: len(skills),
        match_kind=match_kind,
    )
    limits = {"k_general": 2, "k_task": 2, "min_sim": 0.1, "token_budget": 99, **options}
    return [one.skill.id for one in finder.retrieve(asked, **limits)]  # pyright: ignore[reportArgumentType]


def test_the_nearest_of_the_kind() -> None:
    bank = [
        skill("far", "boil the kettle"),
        skill("near", "add the tens column"),
        skill("nearest", "add the tens column of the sum"),
        skill("other", "add the tens column of the sum", category="easy"),
    ]
    asked = task("add the tens column of the sum")
    assert found(bank, asked) == ["nearest", "near"]
    assert found(bank, asked, match_kind=False, k_task=3) == ["nearest", "other", "near"]


def test_the_situation_alone_may_be_near() -> None:
    bank = [skill("a", "carry one into the next column", when_to_apply="27+38=")]
    assert found(bank, task("27+38="), min_sim=0.99) == ["a"]


def test_general_skills_need_no_likeness_and_the_nearest_are_taken() -> None:
    bank = [skill(n, t, category="") for n, t in (("a", "boil"), ("b", "add the tens"), ("c", "walk"))]
    assert found(bank, task("add the tens"), min_sim=1.0) == ["b", "a"]
    assert found(bank, task("add the tens"), k_general=0) == []


def test_no_skill_states_the_answer_of_its_task() -> None:
    bank = [skill("tells", "the answer is 42", when_to_apply="q"), skill("helps", "think of q", when_to_apply="q")]
    assert found(bank, task("q", answer="42"), k_task=1, min_sim=0.0) == ["helps"]
    assert found(bank, task("q", answer="43"), k_task=1, min_sim=0.0) == ["tells"]


def test_a_long_skill_is_passed_over_and_not_what_comes_after_it() -> None:
    finder = SkillBank(
        bank=Bank(skills=(skill("long", "add add add add"), skill("short", "add"))),
        embedder=HashedEmbedder(),
        tokens_of=lambda skills, question: sum(len(s.principle.split()) for s in skills),
    )
    got = finder.retrieve(task("add add add add"), k_general=0, k_task=5, min_sim=0.0, token_budget=2)
    assert [one.skill.id for one in got] == ["short"]


def test_a_task_without_a_kind_has_a_section_too() -> None:
    assert found([skill("a", "add", category="all")], task("add", kind="")) == ["a"]


def test_an_empty_bank() -> None:
    assert found([], task("q")) == []


def test_similarities_are_told() -> None:
    class Fixed:
        def embed(self, texts: object) -> Array:
            return np.array([[1.0, 0.0] if "q" in str(texts) else [0.6, 0.8]])

    finder = SkillBank(bank=Bank(skills=(skill("a", "b"),)), embedder=Fixed(), tokens_of=lambda skills, question: 0)
    # (1, 0) . (.6, .8) = .6
    assert finder.retrieve(task("q"), k_general=1, k_task=1, min_sim=0.5, token_budget=9) == (
        Found(skill("a", "b"), pytest.approx(0.6)),  # pyright: ignore[reportArgumentType]
    )


@given(st.lists(st.floats(-1, 1), max_size=12), st.floats(-1, 1), st.integers(0, 6))
def test_threshold_first_by_a_plain_loop(similarities: list[float], min_sim: float, k: int) -> None:
    left = [(value, -i) for i, value in enumerate(similarities) if value > min_sim]
    plain: list[int] = []
    while left and len(plain) < k:
        best = max(left)
        left.remove(best)
        plain.append(-best[1])
    assert above_then_top(similarities, min_sim=min_sim, k=k) == plain

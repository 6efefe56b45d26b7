"""Section 9.8 of the spec, each vector and each regression from others' issues under its own name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from critique_rl.config.skills import SkillsConfig
from critique_rl.embedding.hashed import HashedEmbedder
from critique_rl.errors import DataError
from critique_rl.memory.bank import Bank, bank_from_json, read_bank
from critique_rl.memory.dressing import shown_to
from critique_rl.memory.episodes import Episode, EpisodePool, round_robin
from critique_rl.memory.evolution import Rules, evolve
from critique_rl.memory.retrieval import SkillBank, above_then_top
from critique_rl.memory.skill import Skill
from critique_rl.memory.skill_memory import SkillMemory
from critique_rl.memory.utility import saving
from critique_rl.memory.writing import Draft
from critique_rl.ops.advantages import group_advantages
from critique_rl.prompting.catalogue import load_prompt
from critique_rl.types import Group, Message, Rollout, Score, Task

SIMILARITIES = [0.82, 0.55, 0.41, 0.39, 0.70]


def task(name: str, *, kind: str = "hard", answer: str = "42") -> Task:
    return Task(id=name, messages=(Message(role="user", content=name),), answer=answer, verifier="exact", kind=kind)


def episode(name: str, *, reward: float = 0.0, split: str = "train", correct: bool = False) -> Episode:
    return Episode(
        id=f"0/{name}/0", task=task(name), attempt="x", correct=correct, reward=reward, said=(f"mind {name}",),
        split=split,  # pyright: ignore[reportArgumentType]
    )  # fmt: skip


def apart(left: str, right: str) -> float:
    return float(left == right)


def test_threshold_then_top_k() -> None:
    # above .4: s1 .82, s2 .55, s3 .41, s5 .70; the best three of them
    assert above_then_top(SIMILARITIES, min_sim=0.4, k=3) == [0, 4, 1]


def test_a_high_threshold_finds_nothing() -> None:
    assert above_then_top(SIMILARITIES, min_sim=0.9, k=3) == []


def test_without_a_threshold_s4_would_be_among_five() -> None:
    assert above_then_top(SIMILARITIES, min_sim=-1.0, k=5) == [0, 4, 1, 2, 3]
    assert 3 not in above_then_top(SIMILARITIES, min_sim=0.4, k=5)


@pytest.mark.parametrize(("ddof", "right", "wrong"), [(0, 1.7321, -0.5774), (1, 1.6202, -0.5401)])
def test_grpo_advantages_of_two_in_eight(ddof: int, right: float, wrong: float) -> None:
    # mean .25; population variance .25 * .75 = .1875, std .4330: .75 / .4330 = 1.7321. Ours by default: the sample's.
    rewards_G = torch.tensor([1.0, 0, 0, 1, 0, 0, 0, 0], dtype=torch.float64)
    advantages = group_advantages(rewards_G, scale="std", eps=0.0, ddof=ddof)
    assert advantages[0].item() == pytest.approx(right, abs=5e-5)
    assert advantages[1].item() == pytest.approx(wrong, abs=5e-5)


def test_round_robin_over_kinds() -> None:
    kinds = {"heat": [("h1", -1), ("h2", 0)], "cool": [("c1", 0)], "pick2": [("p1", -2), ("p2", -1), ("p3", 0)]}
    assert [name for name, _ in round_robin(kinds, 5)] == ["h1", "c1", "p1", "h2", "p2"]
    pool = EpisodePool()
    for kind, items in kinds.items():
        for name, reward in reversed(items):
            pool.add(replace(episode(name, reward=reward), task=task(name, kind=kind), attempt=name))
    found = pool.failures(below=0.4, budget=5)
    # Kinds in the order in which they first failed, most negative reward first in each.
    assert [e.attempt for e in found] == ["h1", "c1", "p1", "h2", "p2"]


def test_context_saving() -> None:
    assert saving(1450, 1300) == pytest.approx(0.1034, abs=5e-5)  # 150 / 1450


def test_a_wrong_key_raises(tmp_path: Path) -> None:
    path = tmp_path / "bank.json"
    path.write_text('{"general_skills": [], "query_type_skills": {"direct": []}}')
    with pytest.raises(DataError, match=r"unknown key 'query_type_skills'.*\"task_specific_skills\": \{\"KIND\""):
        read_bank(path)


def test_b_ids_go_on_after_two_updates() -> None:
    bank = Bank()
    for step, names in enumerate((["a", "b"], ["c"])):
        drafts = [Draft(principle=f"mind {n}", form="lesson", episode=episode(n)) for n in names]
        bank = evolve(bank, drafts, step=step, rules=Rules(), similarity=apart, evidence={}).bank
    assert [skill.id for skill in bank.skills] == ["dyn_001", "dyn_002", "dyn_003"]
    assert bank.next_id == "dyn_004"
    reread = bank_from_json(bank.to_json(), where="a file")
    assert reread.next_id == "dyn_004"
    retired = bank.changed(replace(skill, status="retired") for skill in bank.skills)
    assert retired.next_id == "dyn_004"


@pytest.mark.parametrize("reward", [0.1, 0.0, -1.0, 0.75])
def test_c_failures_go_by_the_flag(reward: float) -> None:
    memory = lab_memory()
    memory.note([group(task("q"), [reward, reward])])
    evolved = memory.evolve(0)
    assert evolved is not None
    assert len(evolved.added) == 1


def test_d_what_held_out_tasks_taught_never_alters_their_prompts() -> None:
    leaked = Skill(id="v", title="t", principle="read q twice", when_to_apply="q", category="hard", split="held_out")
    memory = lab_memory(Bank(skills=(leaked,)), bank="b.json", allow_val_leak=True, dropout=0.0)
    assert shown_to(memory.dress([task("q")], 0)[0]) == ("v",)
    assert memory.dress_held_out([task("q")])[0] == task("q")
    memory.note([group(task("q"), [0.0])], split="held_out")
    memory.evolve(0)
    assert {skill.split for skill in memory.bank.skills} == {"held_out"}
    assert memory.dress_held_out([task("q")])[0] == task("q")


def test_d_held_out_attempts_are_refused_by_default() -> None:
    with pytest.raises(DataError, match=r"held-out attempts were offered.*allow_val_leak = true"):
        lab_memory().note([group(task("q"), [0.0])], split="held_out")


def test_e_unknown_arguments_raise() -> None:
    with pytest.raises(TypeError, match="similarity_threshold"):
        SkillBank(  # pyright: ignore[reportCallIssue]
            bank=Bank(), embedder=HashedEmbedder(), tokens_of=lambda skills, question: 0, similarity_threshold=0.7
        )
    with pytest.raises(TypeError, match="env"):
        lab_memory(env=None)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="max_skill_tokens"):
        SkillsConfig.model_validate({"max_skill_tokens": 3})


def test_f_many_dynamic_skills_keep_to_the_budget_and_leave_room_for_static_ones() -> None:
    static = Skill(id="gen_001", title="g", principle="check every step", scope="general")
    dynamic = [
        Skill(id=f"dyn_{n:03d}", title=f"t{n}", principle=f"mind q {n}", when_to_apply="q", category="hard")
        for n in range(1, 13)
    ]
    finder = SkillBank(
        bank=Bank(skills=(*dynamic, static)),
        embedder=HashedEmbedder(),
        tokens_of=lambda skills, question: sum(len(s.principle.split()) for s in skills),
    )
    found = finder.retrieve(task("q"), k_general=3, k_task=6, min_sim=0.0, token_budget=10)
    # "check every step" takes 3 of 10 tokens, and each "mind q N" takes 3
    assert [one.skill.id for one in found] == ["gen_001", "dyn_001", "dyn_002"]
    assert len(finder.retrieve(task("q"), k_general=3, k_task=6, min_sim=0.0, token_budget=1000)) == 7
    assert finder.retrieve(task("q"), k_general=3, k_task=6, min_sim=0.0, token_budget=2) == ()


class SaysMind:
    """A writer with one lesson per failure."""

    def write(self, failures: object, successes: object) -> object:
        from critique_rl.memory.writing import Written

        return Written([
            Draft(principle=f"mind {e.task.question}", form="lesson", episode=e)
            for e in failures  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        ])  # fmt: skip

    def close(self) -> None:
        pass


def lab_memory(known: Bank | None = None, *, env: object = "", **options: object) -> SkillMemory:
    """A memory that evolves every step; `env` is passed on only to be refused."""
    extra = {} if env == "" else {"env": env}
    config = SkillsConfig.model_validate({"every": 1, "min_similarity": 0.0, **options})
    return SkillMemory(
        config,
        template=load_prompt("skills"),
        embedder=HashedEmbedder(),
        tokens_of=lambda text: len(text.split()),
        writer=SaysMind(),  # pyright: ignore[reportArgumentType]
        bank=known,
        **extra,  # pyright: ignore[reportArgumentType]
    )


def group(asked: Task, rewards: list[float]) -> Group:
    """Wrong attempts with these rewards."""
    rollouts = tuple(
        Rollout(
            id=f"0/{asked.id}/{i}", task_id=asked.id, prompt_ids=(), completion_ids=(1,), behaviour_logprobs=(0.0,),
            text=f"attempt {i}", finished=True, policy_version=0,
        )
        for i in range(len(rewards))
    )  # fmt: skip
    return Group(task=asked, rollouts=rollouts, scores=tuple(Score(reward=reward) for reward in rewards))

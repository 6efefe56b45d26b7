"""From a [skills] section to a live memory: which writer, which prompts, which records, and what is refused first."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from critique_rl.build_behaviour import build_skills
from critique_rl.config.critic import CriticConfig
from critique_rl.critics.scripted import FailingCritic
from critique_rl.errors import DataError, PromptError
from critique_rl.memory.skill_memory import SkillMemory
from critique_rl.protocols import Critic
from tests.lab_runs import GRPO, LAB, Tree, lab_config
from tests.loop.fakes import CharPolicy

BUILT: list[tuple[str, str]] = []


def critic_of(section: CriticConfig, record: Path | None) -> Critic | None:
    BUILT.append((str(getattr(section, "prompt", "")), "" if record is None else record.name))
    return FailingCritic()


def built(skills: Tree, *, base: Tree = GRPO) -> SkillMemory:
    BUILT.clear()
    closing: list[object] = []
    memory = build_skills(
        lab_config({"skills": skills}, base=base),
        CharPolicy(),  # pyright: ignore[reportArgumentType]
        critic_of=critic_of,
        exchanges=Path("exchanges.jsonl"),
        closing=closing,  # pyright: ignore[reportArgumentType]
    )
    assert memory is not None
    assert len(closing) == 1
    return memory


def test_a_prompted_writer_is_two_critics_with_records_of_their_own() -> None:
    built({"source": "writer", "writer": "policy", "pattern_prompt": "mine"})
    assert BUILT == [("skill_lesson", "exchanges-lessons.jsonl"), ("mine", "exchanges-patterns.jsonl")]


def test_a_rule_critic_is_one() -> None:
    built({"source": "writer", "writer": {"kind": "lab_rules"}})
    assert BUILT == [("", "exchanges-lessons.jsonl")]


@pytest.mark.parametrize("skills", [{"source": "attempts"}, {"source": "directives"}])
def test_nobody_else_is_asked(skills: Tree) -> None:
    built(skills, base=LAB)
    assert BUILT == []


def test_a_bank_is_read_before_the_first_step(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    path.write_text(json.dumps({"general_skills": [{"title": "t", "principle": "p", "split": "held_out"}]}))
    with pytest.raises(DataError, match="was learned from held-out tasks"):
        built({"source": "none", "bank": str(path)})
    assert built({"source": "none", "bank": str(path), "allow_val_leak": True}).bank.skills[0].id == "skill_001"
    with pytest.raises(DataError, match="cannot be read as a bank"):
        built({"source": "none", "bank": str(tmp_path / "no.json")})


def test_a_template_that_shows_no_skill_is_refused() -> None:
    with pytest.raises(PromptError, match="teacher"):
        built({"source": "attempts", "prompt": "teacher"})


def test_a_policy_writes_through_its_own_prompts(tmp_path: Path) -> None:
    """The real wiring: the policy's answers are no JSON, so nothing is written, and the calls are counted."""
    from tests.lab_runs import lines, run_lab

    options: Tree = {"source": "writer", "writer": {"kind": "policy", "max_tokens": 8}, "every": 1}
    run_lab(lab_config({"skills": options, "budget": {"max_steps": 1}}, base=GRPO), tmp_path)
    row: Sequence[Tree] = [row for row in lines(tmp_path / "metrics.jsonl") if "loss/total" in row]
    assert row[0]["skills/writer_calls"] > 0  # pyright: ignore[reportOperatorIssue]
    assert row[0]["skills/active"] == 0

"""What a [skills] section may say; a key without effect is an error."""

from __future__ import annotations

import pytest

from critique_rl.config.load import dump, validate
from critique_rl.config.skills import SkillsConfig
from critique_rl.errors import ConfigError
from tests.lab_runs import GRPO, LAB, Tree, lab_config

WRITER: Tree = {"source": "writer", "writer": {"kind": "lab_rules"}}
SCRIPTED: Tree = {"source": "writer", "writer": {"kind": "policy"}}


def test_a_run_without_the_section_has_none() -> None:
    assert lab_config(base=GRPO).skills is None


@pytest.mark.parametrize(
    "skills",
    [
        {},
        WRITER,
        {**SCRIPTED, "lesson_prompt": "mine.md"},
        {"source": "writer", "writer": "policy"},
        {"source": "writer", "writer": {"members": ["policy", "lab_rules"]}},
        {"source": "attempts"},
        {"source": "none", "bank": "skills.json"},
    ],
)
def test_what_is_accepted_survives_its_resolved_file(skills: Tree) -> None:
    config = lab_config({"skills": skills}, base=LAB)
    import json

    assert validate(json.loads(dump(config)), source="resolved") == config


@pytest.mark.parametrize(
    ("skills", "told"),
    [
        ({"source": "writer"}, "go together"),
        ({"writer": {"kind": "lab_rules"}}, "go together"),
        ({"source": "none"}, "a memory of nothing"),
        ({"allow_val_leak": True}, "allow_val_leak has no effect without a bank"),
        ({"k_general": 0, "k_task": 0}, "show no skill"),
        ({"source": "none", "bank": "b", "every": 3}, "every would have no effect"),
        ({"source": "attempts", "refine_above": 0.5}, "refine_above would have no effect"),
        ({**WRITER, "lesson_prompt": "mine.md"}, "lesson_prompt would have no effect"),
        ({**SCRIPTED, "demonstration_chars": 9}, "demonstration_chars would have no effect"),
        ({"dropout": 0.0, "min_groups": 3}, "min_groups would have no effect"),
        ({"k_task": 0, "min_similarity": 0.5}, "min_similarity would have no effect"),
        ({"source": "writer", "writer": {"kind": "policy", "prompt": "critic_tags"}}, "set skills.lesson_prompt"),
        ({"source": "writer", "writer": {"kind": "none"}}, "writes no skill"),
        ({"embeder": "hashed"}, "embeder is not a known key"),
    ],
)
def test_what_is_refused(skills: Tree, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        lab_config({"skills": skills}, base=LAB)


def test_directives_need_somebody_who_gives_them() -> None:
    with pytest.raises(ConfigError, match=r"nothing to learn from.*\[skills.writer\]"):
        lab_config({"skills": {}}, base=GRPO)


def test_recalled_attempts_are_no_evidence_about_skills() -> None:
    without_critic = {key: value for key, value in LAB.items() if key != "critic"}
    feedback: Tree = {"feedback": {"path": "f.jsonl"}}
    assert lab_config({**feedback, "skills": {}}, base=without_critic).skills is not None
    with pytest.raises(ConfigError, match="without skills; remove them"):
        lab_config({**feedback, "skills": {"dropout": 0.3}}, base=without_critic)


def test_a_writer_is_asked_with_the_prompt_for_the_purpose() -> None:
    config = SkillsConfig.model_validate({"source": "writer", "writer": {"members": ["policy", "lab_rules"]}})
    assert config.asks_by_prompt
    written = config.writer_with("skill_pattern")
    assert [getattr(member, "prompt", None) for member in written.members] == ["skill_pattern", None]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownVariableType, reportUnknownMemberType]
    assert not SkillsConfig.model_validate(WRITER).asks_by_prompt

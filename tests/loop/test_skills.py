"""A run with a memory: prompts, file, second evaluation, checkpoints, and one opening for every context of a step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from critique_rl.errors import CheckpointError
from critique_rl.loop.checkpoint import latest_checkpoint
from critique_rl.loop.skills import SkillStage
from critique_rl.memory.bank import read_bank
from tests.lab_runs import GRPO, LAB, Tree, lab_config, lab_trainer, lines, run_lab

OPTIONS: Tree = {
    "prompt": "lab_skills", "match_kind": False, "min_similarity": -1.0, "every": 1, "refine_above": 1.0,
    "dropout": 0.25, "evaluate_with_skills": True,
}  # fmt: skip
WRITER: Tree = {"skills": {**OPTIONS, "source": "writer", "writer": {"kind": "lab_rules"}}}
LONG: Tree = {"budget": {"max_steps": 5}, "checkpoint": {"every": 2, "keep": 9}}


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("straight")
    run_lab(lab_config({**WRITER, **LONG}, base=GRPO), run_dir)
    return run_dir


def test_the_bank_is_written_as_it_grows(straight: Path) -> None:
    bank = read_bank(straight / "skills.json")
    steps = [row for row in lines(straight / "metrics.jsonl") if "loss/total" in row]
    assert bank.version == steps[-1]["skills/version"] > 1
    assert len(bank.active) == steps[-1]["skills/active"]
    assert steps[0]["skills/prompt_tokens"] == 0
    assert all(row["skills/prompt_tokens"] > 0 for row in steps[1:])  # pyright: ignore[reportOperatorIssue]
    assert any(event["kind"] == "skills" for event in lines(straight / "events.jsonl"))


def test_held_out_success_is_measured_bare_and_with_skills(straight: Path) -> None:
    first, last = (row for row in lines(straight / "metrics.jsonl") if "eval/hard" in row)
    assert first["eval/hard/context_tokens"] < last["eval/hard/context_tokens"]  # pyright: ignore[reportOperatorIssue]
    assert {"eval/hard/with_skills", "eval/hard/with_skills/low", "eval/hard/with_skills/high"} <= last.keys()


class PowerCut(BaseException):
    """Nothing catches this, and nothing is saved after it."""


def test_a_killed_run_goes_on_exactly(straight: Path, tmp_path: Path) -> None:
    config = lab_config({**WRITER, **LONG}, base=GRPO)
    killed = lab_trainer(config, tmp_path)
    real = killed.parts.policy.step

    def dies(samples: object) -> object:
        if killed.progress.step == 3:
            raise PowerCut
        return real(samples)  # pyright: ignore[reportArgumentType]

    killed.parts.policy.step = dies  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(PowerCut):
        killed.run()
    killed.parts.tracker.close()
    saved = latest_checkpoint(tmp_path / "checkpoints")
    assert saved is not None
    resumed = lab_trainer(config, tmp_path, saved=saved)
    resumed.run()
    resumed.parts.tracker.close()
    assert lines(tmp_path / "metrics.jsonl") == lines(straight / "metrics.jsonl")
    assert (tmp_path / "skills.json").read_text() == (straight / "skills.json").read_text()


def test_every_context_of_a_step_has_the_same_opening(tmp_path: Path) -> None:
    """Rollouts, refinements and teacher: whoever scores a token sees the block that it was sampled under."""
    seen: list[tuple[int, str, str]] = []
    trainer = lab_trainer(lab_config({"skills": {**OPTIONS, "dropout": 0.0}, "budget": {"max_steps": 4}}), tmp_path)
    policy = trainer.parts.policy
    real = policy.encode

    def listening(messages: object) -> object:
        turns = [m.content for m in messages]  # pyright: ignore[reportGeneralTypeIssues, reportUnknownVariableType]
        block = turns[0] if len(turns) > 1 else ""
        seen.append((trainer.progress.step, turns[-1].rsplit("\n", 1)[-1], block))
        return real(messages)  # pyright: ignore[reportArgumentType]

    policy.encode = listening  # pyright: ignore[reportAttributeAccessIssue]
    trainer._evaluate_if_due = lambda: None  # pyright: ignore[reportPrivateUsage]
    trainer.run()
    trainer.parts.tracker.close()
    blocks: dict[tuple[int, str], set[str]] = {}
    for step, question, block in seen:
        blocks.setdefault((step, question), set()).add(block)
    assert all(len(found) == 1 for found in blocks.values())
    assert any(block for found in blocks.values() for block in found)
    # More than the rollouts' own prompts were encoded: refinements and teacher contexts are among them.
    assert len(seen) > len(blocks)


def test_lessons_come_from_the_run_s_own_critiques(tmp_path: Path) -> None:
    trainer = run_lab(lab_config({"skills": OPTIONS, "budget": {"max_steps": 3}}), tmp_path)
    found = read_bank(tmp_path / "skills.json").active
    # The rule critic abstains from anything but a bare sum: that it spoke shows that it was asked without the block.
    assert [skill for skill in found if skill.form == "lesson" and skill.created_step > 0]
    assert trainer.parts.skills is not None
    assert trainer.parts.skills.writer_tokens == 0


def test_a_run_starts_from_a_bank_that_never_changes(straight: Path, tmp_path: Path) -> None:
    fixed: Tree = {"skills": {
        "source": "none", "bank": str(straight / "skills.json"), "prompt": "lab_skills", "min_similarity": -1.0,
        "match_kind": False,
    }}  # fmt: skip
    run_lab(lab_config({**fixed, "budget": {"max_steps": 2}}, base=GRPO), tmp_path)
    assert read_bank(tmp_path / "skills.json").version == read_bank(straight / "skills.json").version
    rows = [row for row in lines(tmp_path / "metrics.jsonl") if "loss/total" in row]
    assert rows[0]["skills/prompt_tokens"] > 0  # pyright: ignore[reportOperatorIssue]


def test_without_the_section_nothing_is_written(tmp_path: Path) -> None:
    run_lab(lab_config({"budget": {"max_steps": 1}}, base=GRPO), tmp_path)
    assert not (tmp_path / "skills.json").exists()
    assert not any(key.startswith("skills/") for row in lines(tmp_path / "metrics.jsonl") for key in row)
    state = latest_checkpoint(tmp_path / "checkpoints")
    assert state is not None
    assert "skills" not in state.state
    summary = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[0])
    assert "eval/hard/with_skills" not in summary


def test_a_bank_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    trainer = lab_trainer(lab_config(WRITER, base=GRPO), tmp_path)
    stage = SkillStage(trainer.config, trainer.parts, tmp_path / "gone")
    with pytest.raises(CheckpointError, match=r"skills.json could not be written"):
        stage.write()
    trainer.parts.tracker.close()


def test_lab_lessons_name_no_answer(straight: Path) -> None:
    assert not any(character.isdigit() for s in read_bank(straight / "skills.json").active for character in s.principle)


def test_lessons_come_from_feedback_that_was_collected_earlier(tmp_path: Path) -> None:
    row = {
        "id": "r1", "task_id": "lab/27+38", "question": "27+38=", "answer": "560", "kind": "hard", "attempt": "550",
        "feedback": {"critic": "person", "outcome": "ok",
                     "directives": [{"text": "The ones go over nine, so carry one into the tens."}]},
    }  # fmt: skip
    path = tmp_path / "feedback.jsonl"
    path.write_text(json.dumps(row) + "\n")
    without_critic = {key: value for key, value in LAB.items() if key != "critic"}
    changes: Tree = {
        "feedback": {"path": str(path)},
        "skills": {**{key: value for key, value in OPTIONS.items() if key != "dropout"}, "evaluate_with_skills": True},
    }
    run_lab(lab_config({**changes, "budget": {"max_steps": 2}}, base=without_critic), tmp_path / "run")
    (skill,) = read_bank(tmp_path / "run" / "skills.json").active
    assert skill.principle == "The ones go over nine, so carry one into the tens."
    assert (skill.category, skill.source_episode_ids, skill.when_to_apply) == ("hard", ("r1",), "27+38=")

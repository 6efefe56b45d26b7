"""Why a run ends: passes over the tasks, a flat reward, tokens, steps, and which of them is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from critique_rl.config.load import validate
from critique_rl.errors import ConfigError
from critique_rl.loop.ending import Ending, epoch_steps
from critique_rl.loop.train import Trainer
from critique_rl.tasks.search import SearchTasks
from tests.lab_runs import GRPO, lab_config, lab_trainer, lines, run_lab


def built(tmp_path: Path, **budget: object) -> Trainer:
    """Six easy and six hard training tasks, four to a step: three steps are a pass."""
    return lab_trainer(lab_config({"budget": budget}, base=GRPO), tmp_path)


def test_a_pass_is_as_many_whole_batches_as_the_tasks_fill(tmp_path: Path) -> None:
    for epochs, batch, wanted in ((1, 4, 3), (2, 4, 6), (2, 5, 4), (1, 12, 1), (3, 40, 3)):
        config = lab_config(
            {"budget": {"max_epochs": epochs, "max_steps": 50}, "rollout": {"prompts_per_step": batch}}, base=GRPO
        )
        parts = lab_trainer(lab_config(base=GRPO), tmp_path / f"{epochs}-{batch}").parts
        assert epoch_steps(config, parts) == wanted
        parts.tracker.close()


def test_a_run_of_one_pass(tmp_path: Path) -> None:
    trainer = run_lab(lab_config({"budget": {"max_epochs": 1, "max_steps": 50}}, base=GRPO), tmp_path)
    assert trainer.progress.step == 3 and trainer.stopped_because == "epochs done: 1 of 3 steps"


def test_the_steps_come_first_where_they_are_fewer(tmp_path: Path) -> None:
    trainer = run_lab(lab_config({"budget": {"max_epochs": 1, "max_steps": 2}}, base=GRPO), tmp_path)
    assert trainer.progress.step == 2 and trainer.stopped_because == "step budget spent"


def test_the_default_of_the_steps_never_cuts_passes_silently(tmp_path: Path) -> None:
    trainer = built(tmp_path, max_steps=9)
    trainer.parts.tracker.close()
    base = {key: value for key, value in GRPO.items() if key != "budget"}
    config = lab_config({"budget": {"max_epochs": 40}}, base=base)
    with pytest.raises(ConfigError, match=r"max_epochs = 40 are 120 steps of 4 of 12 tasks.*= 100 would end"):
        epoch_steps(config, trainer.parts)


def test_passes_over_a_file_of_questions_to_search_for(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    path.write_text("".join(f'{{"question": "q{i}", "answer": "a"}}\n' for i in range(13)), encoding="utf-8")
    trainer = built(tmp_path, max_epochs=2, max_steps=99)
    trainer.parts.tracker.close()
    # 13 questions, 4 to a step: three whole batches a pass
    parts = replace(trainer.parts, tasks=SearchTasks(path, verifier="search"))
    assert epoch_steps(trainer.config, parts) == 6


def test_tasks_that_are_not_counted_have_no_passes(tmp_path: Path) -> None:
    trainer = built(tmp_path, max_epochs=1, max_steps=9)
    trainer.parts.tracker.close()

    class Endless:
        batch = trainer.parts.tasks.batch
        held_out = trainer.parts.tasks.held_out

    with pytest.raises(ConfigError, match=r"tasks.kind = 'lab' does not tell how many training tasks it has"):
        Ending(trainer.config, replace(trainer.parts, tasks=Endless()))


def test_a_flat_reward_ends_a_run_and_says_why(tmp_path: Path) -> None:
    """Easy sums are always right: 8 blocks of 1 step without any change are flat, and 7 are too few to tell."""
    changes = {
        "tasks": {"hard_share": 0.0},
        "plateau": {"block": 1, "horizon": 8, "delta": 0.1},
        "budget": {"max_steps": 30, "stop_on_plateau": True},
        "rollout": {"prompts_per_step": 2, "group_size": 2},
    }
    trainer = run_lab(lab_config(changes, base=GRPO), tmp_path)
    assert trainer.progress.step == 8
    assert trainer.stopped_because == "plateau: change over 8 values within [+0, +0], inside +-0.1"
    told = [event for event in lines(tmp_path / "events.jsonl") if event["kind"] == "stop"]
    assert told == [{"step": 8, "kind": "stop", "message": trainer.stopped_because}]


def test_recalled_rollouts_have_no_plateau() -> None:
    tree = {
        "algorithm": {"name": "two_channel"},
        "feedback": {"path": "f.jsonl"},
        "budget": {"stop_on_plateau": True},
    }
    with pytest.raises(ConfigError, match=r"budget.stop_on_plateau has no effect with \[feedback\]"):
        validate(tree, source="test")

"""A finished run's policy is asked again what its last evaluation asked, and answers the same."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import cast

import pytest

from critique_rl.config.load import validate
from critique_rl.config.run import RunConfig
from critique_rl.decisions.deployed import stated_figures
from critique_rl.decisions.held_out import FILE, held_out_answers
from critique_rl.errors import CheckpointError
from tests.lab_runs import Tree, run_lab

GUESS: Tree = {
    "name": "guess",
    "policy": {"model": "lab_guess", "device": "cpu", "threads": 1},
    "tasks": {"kind": "lab_guess", "train_known": 4, "train_guessed": 4, "held_out": 6},
    "rewards": {
        "guess": {
            "kind": "with_confidence",
            "pattern": "^(?P<answer>[0-9]{2}) c(?P<confidence>[0-9])$",
            "form": "... c7",
            "divide_by": 9.0,
        }
    },
    "rollout": {"prompts_per_step": 4, "group_size": 4, "max_tokens": 6},
    "algorithm": {"name": "grpo"},
    "optimizer": {"learning_rate": 1e-3},
    "budget": {"max_steps": 2},
    "evaluation": {"every": 0, "samples_per_task": 3, "max_tasks": 20},
    "report": {"samples_per_step": 0},
}


def guess_config() -> RunConfig:
    return validate(GUESS, source="test")


def test_they_are_as_long_as_evaluations_and_not_as_rollouts(tmp_path: Path) -> None:
    config = validate({**GUESS, "evaluation": {"max_tasks": 4, "max_tokens": 2}}, source="test")
    run_lab(config, tmp_path)
    answers = held_out_answers(config, tmp_path)
    assert len(answers) == 4 and not any(answer.readable for answer in answers)  # cut before the confidence


def test_the_answers_are_those_of_the_last_evaluation(tmp_path: Path) -> None:
    config = guess_config()
    trainer = run_lab(config, tmp_path)
    answers = held_out_answers(config, tmp_path)
    ends = cast("dict[str, Tree]", trainer.progress.evaluations[-1]["success"])
    assert trainer.progress.evaluations[-1]["step"] == 2
    found = {kind: [answer.correct for answer in answers if answer.kind == kind] for kind in ends}
    assert {kind: (sum(right), len(right)) for kind, right in found.items()} == {
        kind: (end["successes"], end["trials"]) for kind, end in ends.items()
    }
    assert sum(len(right) for right in found.values()) == len(answers) == 60
    for kind, end in ends.items():
        stated = stated_figures([answer for answer in answers if answer.kind == kind])
        assert stated == {f"confidence/{name}": value for name, value in cast(Tree, end["calibration"]).items()}
    written = (tmp_path / FILE).read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in written] == [asdict(answer) for answer in answers]
    assert {answer.readable for answer in answers} >= {True}
    assert all(answer.readable or answer.confidence is None for answer in answers)


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        held_out_answers(guess_config(), tmp_path)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    config = guess_config()
    run_lab(config, tmp_path)
    (tmp_path / FILE).mkdir()
    with pytest.raises(CheckpointError, match=r"held_out\.jsonl could not be written"):
        held_out_answers(config, tmp_path)

"""A file as a task source: what is trained on, and what never is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from critique_rl.errors import DataError
from critique_rl.protocols import TaskSource
from critique_rl.tasks.jsonl import JsonlTasks


def write(path: Path, questions: range) -> Path:
    rows = [json.dumps({"prompt": f"{i} + 1?", "answer": i + 1}) for i in questions]
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def questions_of(source: TaskSource, size: int, steps: int) -> set[str]:
    return {task.question for step in range(steps) for task in source.batch(step, size, seed=0)}


def test_a_fraction_is_held_out_and_never_trained_on(tmp_path: Path) -> None:
    source = JsonlTasks(write(tmp_path / "sums.jsonl", range(10)), verifier="exact", held_out_fraction=0.2)
    held_out = {task.question for task in source.held_out()}
    assert len(held_out) == 2
    assert questions_of(source, size=4, steps=6) == {f"{i} + 1?" for i in range(10)} - held_out


def test_a_second_file_is_held_out(tmp_path: Path) -> None:
    train, test = write(tmp_path / "train.jsonl", range(4)), write(tmp_path / "test.jsonl", range(4, 6))
    source = JsonlTasks(train, verifier="exact", held_out_path=test)
    assert [task.id for task in source.held_out()] == ["test:1", "test:2"]
    assert questions_of(source, size=2, steps=2) == {f"{i} + 1?" for i in range(4)}


def test_a_prompt_in_both_files_is_an_error(tmp_path: Path) -> None:
    train, test = write(tmp_path / "train.jsonl", range(4)), write(tmp_path / "test.jsonl", range(3, 6))
    with pytest.raises(DataError, match=r"'test:1' .* same prompt as row 'train:4'"):
        JsonlTasks(train, verifier="exact", held_out_path=test)


def test_nothing_is_held_out_unless_asked(tmp_path: Path) -> None:
    assert JsonlTasks(write(tmp_path / "sums.jsonl", range(3)), verifier="exact").held_out() == ()


def test_two_ways_to_hold_out(tmp_path: Path) -> None:
    path = write(tmp_path / "sums.jsonl", range(3))
    with pytest.raises(ValueError, match="not both"):
        JsonlTasks(path, verifier="exact", held_out_path=path, held_out_fraction=0.5)

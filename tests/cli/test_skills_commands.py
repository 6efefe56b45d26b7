"""`critique-rl skills`: a table, a check, and an error that says where and how."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from critique_rl.cli.main import main

BANK = {
    "version": 3,
    "general_skills": [{"id": "g", "title": "Check", "principle": "Check it."}],
    "task_specific_skills": {"hard": [{"id": "h", "title": "Carry", "principle": "Carry.", "uses": 4, "wins": 3}]},
    "retired": [{"id": "r", "title": "Guess", "principle": "Guess.", "split": "held_out"}],
}


@pytest.fixture
def bank(tmp_path: Path) -> Path:
    path = tmp_path / "skills.json"
    path.write_text(json.dumps(BANK))
    return path


def test_show(bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["skills", "show", str(bank)]) == 0
    text = capsys.readouterr().out
    for part in ("Carry.", "hard", "75%", "Check it.", "all"):
        assert part in text
    assert "Guess." not in text
    assert main(["skills", "show", str(bank), "--retired"]) == 0
    assert "Guess." in capsys.readouterr().out


def test_check(bank: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["skills", "check", str(bank)]) == 0
    text = capsys.readouterr().out
    assert "version 3: 1 general skills, 1 for 1 kinds of task, 1 retired" in text
    assert "allow_val_leak" in text


def test_a_wrong_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "skills.json"
    path.write_text('{"query_type_skills": {}}')
    assert main(["skills", "check", str(path)]) == 2
    assert "unknown key 'query_type_skills'" in capsys.readouterr().err

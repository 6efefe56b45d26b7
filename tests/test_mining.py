"""Mining from files, and the command: what counts as a right answer, and what a wrong line is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from critique_rl.cli.main import main
from critique_rl.errors import DataError
from critique_rl.mining import right_solutions
from critique_rl.schedule.grams_file import grams_of, read_grams

TEXTS = [f"Let me check this. {word} is what we get." for word in ("Five", "Six", "Seven")]


def rows(path: Path, *lines: object) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def answer(text: str, reward: float = 1.0, status: str = "ok") -> dict[str, object]:
    return {"text": text, "reward": reward, "status": status}


def test_right_answers_of_a_run_and_of_a_file(tmp_path: Path) -> None:
    for arm in ("a", "b"):
        (tmp_path / arm).mkdir()
        attempts = [answer("x"), answer("half", 0.5), answer("broken", status="error"), answer(arm)]
        rows(tmp_path / arm / "samples.jsonl", {"attempts": attempts})
    assert right_solutions(tmp_path) == ["x", "a", "b"]
    assert right_solutions(rows(tmp_path / "f", {"text": "t", "correct": True}, {"text": "u", "correct": False})) == [
        "t"
    ]


@pytest.mark.parametrize(
    ("line", "told"),
    [("{", "f:1 is not JSON"), ("[1]", r"f:1 holds \[1\]"), ('{"text": "t"}', "f:1: text is 't' and correct is None")],
)
def test_wrong_lines(tmp_path: Path, line: str, told: str) -> None:
    (tmp_path / "f").write_text(line)
    with pytest.raises(DataError, match=told):
        right_solutions(tmp_path / "f")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no samples\.jsonl"):
        right_solutions(tmp_path / "empty")


def test_the_command_writes_what_a_run_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = rows(tmp_path / "f.jsonl", *({"text": text, "correct": True} for text in TEXTS))
    output = tmp_path / "grams.json"
    assert main(["phases", "mine", str(source), "-o", str(output), "--clusters", "4", "--max-words", "4"]) == 0
    assert "let me check" in capsys.readouterr().out
    assert ("let", "me", "check") in read_grams(output)
    tree = json.loads(output.read_text())
    assert tree["solutions"] == 3 and 0 < tree["planning_share"] < 1 and tree["options"]["clusters"] == 4


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = rows(tmp_path / "f.jsonl", {"text": "t", "correct": False})
    assert main(["phases", "mine", str(source)]) == 2
    assert "holds no right answer" in capsys.readouterr().err
    assert main(["phases", "mine", str(source), "--min-words", "6"]) == 2
    assert "min_words = 6 is above max_words = 5" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "is not JSON"),
        ("[]", "grams is None"),
        ('{"grams": [3]}', r"grams\[0\] is 3"),
        ('{"grams": ["?"]}', "no word"),
    ],
)
def test_files_that_hold_no_phrases(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "g.json").write_text(text)
    with pytest.raises(DataError, match=told):
        read_grams(tmp_path / "g.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_grams(tmp_path / "none.json")


def test_phrases_alike_are_one() -> None:
    assert grams_of(["Let me", "let  me,"], where="phases") == (("let", "me"),)

"""The row format, and the line that each unreadable row gets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from critique_rl.errors import DataError
from critique_rl.tasks.rows import parse_row, read_tasks
from critique_rl.types import Message, Task

GOOD = '{"prompt": "What is 2 + 2?", "answer": "4"}'


def write(tmp_path: Path, *lines: str) -> Path:
    path = tmp_path / "sums.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_row_becomes_a_task() -> None:
    row = {"id": "a", "prompt": "What?", "answer": 4, "verifier": "math", "kind": "easy", "metadata": {"source": "me"}}
    assert parse_row(json.dumps(row).encode(), "f, line 1", default_id="f:1", verifier="exact") == Task(
        id="a",
        messages=(Message(role="user", content="What?"),),
        answer="4",
        verifier="math",
        kind="easy",
        metadata={"source": "me"},
    )


def test_defaults_blank_lines_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + f"{GOOD}\r\n\r\n{GOOD}\r\n".encode())
    tasks = read_tasks(path, verifier="exact")
    assert [(task.id, task.verifier, task.kind) for task in tasks] == [
        ("sums:1", "exact", ""),
        ("sums:3", "exact", ""),
    ]


def test_a_unicode_line_separator_inside_a_text_does_not_end_the_row(tmp_path: Path) -> None:
    path = write(tmp_path, '{"prompt": "one\u2028two", "answer": "3"}')
    assert read_tasks(path, verifier="exact")[0].question == "one\u2028two"


def test_messages_and_system(tmp_path: Path) -> None:
    turns = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "2 + 2?"},
    ]
    path = write(tmp_path, json.dumps({"messages": turns, "answer": "4"}))
    task = read_tasks(path, verifier="exact", system="Be brief.")[0]
    assert [message.role for message in task.messages] == ["system", "user", "assistant", "user"]
    assert task.messages[0].content == "Be brief."
    assert task.question == "2 + 2?"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ('{"prompt": "x", "answer": ', "not JSON (Expecting value at column 27)"),
        ('["prompt"]', 'got ["prompt"]; wanted a JSON object'),
        ('{"prompt": "x"}', "answer is missing or null; wanted a text or a whole number"),
        ('{"prompt": "x", "answer": 0.5}', "answer is 0.5; wanted a text or a whole number"),
        ('{"prompt": "x", "answer": true}', "answer is true; wanted a text or a whole number"),
        ('{"prompt": "x", "answer": " "}', 'answer is " "; wanted a text or a whole number'),
        ('{"answer": "4"}', "exactly one of prompt (a text) and messages"),
        ('{"prompt": "x", "messages": [], "answer": "4"}', "exactly one of prompt (a text) and messages"),
        ('{"prompt": "", "answer": "4"}', 'prompt is ""; wanted a text that is not empty'),
        ('{"prompt": 7, "answer": "4"}', "prompt is 7; wanted a text"),
        ('{"prompt": "x", "answer": "4", "id": null}', "id is missing or null; wanted a text"),
        ('{"prompt": "x", "answer": "4", "verifer": "exact"}', "unknown key 'verifer'"),
        ('{"prompt": "x", "answer": "4", "metadata": {"n": 1}}', "metadata.n is 1; wanted a text"),
        ('{"prompt": "x", "answer": "4", "metadata": []}', "metadata is []; wanted an object of texts"),
        ('{"messages": [], "answer": "4"}', "messages is []; wanted a list of turns"),
        ('{"messages": [{"role": "tool", "content": "x"}], "answer": "4"}', "messages[0] is"),
        ('{"messages": ["x"], "answer": "4"}', 'messages[0] is "x"; wanted'),
        ('{"messages": [{"role": "assistant", "content": "x"}], "answer": "4"}', "last turn must be a user turn"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_an_unreadable_row_is_named_by_file_and_line(tmp_path: Path, row: str, complaint: str) -> None:
    path = write(tmp_path, GOOD, "", row)
    with pytest.raises(DataError) as raised:
        read_tasks(path, verifier="exact")
    assert str(raised.value).startswith(f"{path}, line 3: ")
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_long_value_is_cut_in_the_message(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        read_tasks(write(tmp_path, json.dumps(["x" * 10_000])), verifier="exact")
    assert len(str(raised.value)) < 400


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "sums.jsonl"
    path.write_bytes(GOOD.encode() + b'\n{"prompt": "\xff"}')
    with pytest.raises(DataError, match="line 2: byte 13 is not UTF-8"):
        read_tasks(path, verifier="exact")


def test_two_rows_with_one_id(tmp_path: Path) -> None:
    row = '{"id": "a", "prompt": "x", "answer": "4"}'
    with pytest.raises(DataError, match="line 3: id 'a' is already used on line 1"):
        read_tasks(write(tmp_path, row, GOOD, row), verifier="exact")


def test_two_system_turns(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]
    path = write(tmp_path, json.dumps({"messages": turns, "answer": "4"}))
    with pytest.raises(DataError, match=r"its own system turn and tasks\.system is set"):
        read_tasks(path, verifier="exact", system="Be brief.")


@pytest.mark.parametrize(("name", "complaint"), [("none.jsonl", "does not exist"), ("", "cannot be read")])
def test_a_file_that_cannot_be_read(tmp_path: Path, name: str, complaint: str) -> None:
    with pytest.raises(DataError, match=complaint):
        read_tasks(tmp_path / name, verifier="exact")


def test_a_file_without_rows(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no rows"):
        read_tasks(write(tmp_path, "", " "), verifier="exact")

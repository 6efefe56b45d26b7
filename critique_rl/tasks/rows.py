"""One line of a JSONL file -> one `Task`, or one clear error with the file and the line.

Owns: the row format. Must not know: which rows are trained on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol, TypeVar, cast

from critique_rl.errors import DataError
from critique_rl.types import Message, Task

KEYS = ("id", "prompt", "messages", "answer", "verifier", "kind", "steps", "titles", "metadata")
ROLES = ("system", "user", "assistant")
EXAMPLE = '{"prompt": "What is 2 + 2?", "answer": "4"}'


class Named(Protocol):
    """A row that has an id."""

    @property
    def id(self) -> str: ...


Row = TypeVar("Row", bound=Named)


def read_rows(
    path: Path, read: Callable[[bytes, str, int], Row], *, called: str = "task file", wanted: str
) -> list[Row]:
    """What `read(line, where, number)` makes of every line of `path`, in order; blank lines are skipped.

    Errors: DataError naming the file (`called` so) for one that cannot be read or has no rows, and the line for an id
    that is used twice.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
    except FileNotFoundError:
        raise DataError(f"{called} {str(path)!r} does not exist; give the path of a JSONL file") from None
    except OSError as error:
        raise DataError(f"{called} {str(path)!r} cannot be read: {error.strerror or error}") from None
    found: list[Row] = []
    first_line: dict[str, int] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        row = read(line, where, number)
        if row.id in first_line:
            raise DataError(f"{where}: id {row.id!r} is already used on line {first_line[row.id]}; ids must differ")
        first_line[row.id] = number
        found.append(row)
    if not found:
        raise DataError(f"{called} {str(path)!r} has no rows; wanted {wanted}")
    return found


def read_tasks(path: Path, *, verifier: str, system: str = "") -> list[Task]:
    """Every row of `path` in order; blank lines are skipped. A row without `id` gets `<file name>:<line>`.

    Errors: DataError naming the file, the line, what came and what was wanted.
    """

    def read(line: bytes, where: str, number: int) -> Task:
        return parse_row(line, where, default_id=f"{path.stem}:{number}", verifier=verifier, system=system)

    return read_rows(path, read, wanted=f"one JSON object a line, such as {EXAMPLE}")


def parse_row(line: bytes, where: str, *, default_id: str, verifier: str, system: str = "") -> Task:
    """One line as a task; `where` opens every error message."""
    row = _json_object(line, where)
    unknown = sorted(set(row) - set(KEYS))
    if unknown:
        raise DataError(f"{where}: unknown key {unknown[0]!r}; a row has {', '.join(KEYS)} (put the rest in metadata)")
    return Task(
        id=_text(row, "id", where, default_id),
        messages=_messages(row, where, system),
        answer=_answer(row, where),
        verifier=_text(row, "verifier", where, verifier),
        kind=_text(row, "kind", where, ""),
        metadata=_metadata(row, where) | _worked(row, where),
    )


def _json_object(line: bytes, where: str) -> Mapping[str, object]:
    try:
        value: object = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg} at column {error.colno}); wanted, say, {EXAMPLE}") from None
    except RecursionError:
        raise DataError(f"{where}: nested too deeply; wanted, say, {EXAMPLE}") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: got {_named(value)}; wanted a JSON object such as {EXAMPLE}")
    return cast("dict[str, object]", value)


def _text(row: Mapping[str, object], key: str, where: str, default: str) -> str:
    value = row.get(key, default)
    if not isinstance(value, str) or (key in row and not value.strip()):
        raise DataError(f"{where}: {key} is {_named(value)}; wanted a text that is not empty, or leave {key} out")
    return value


def _answer(row: Mapping[str, object], where: str) -> str:
    value = row.get("answer")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f'{where}: answer is {_named(value)}; wanted a text or a whole number, such as "answer": "4"')
    return value


def _metadata(row: Mapping[str, object], where: str) -> dict[str, str]:
    value = row.get("metadata", {})
    if not isinstance(value, dict):
        raise DataError(f"{where}: metadata is {_named(value)}; wanted an object of texts")
    items = cast("dict[str, object]", value).items()
    for key, item in items:
        if not isinstance(item, str):
            raise DataError(f"{where}: metadata.{key} is {_named(item)}; wanted a text")
    return {key: str(item) for key, item in items}


def _worked(row: Mapping[str, object], where: str) -> dict[str, str]:
    """The steps of a worked solution and their titles, as JSON lists; the solution is the steps in a row."""
    found: dict[str, str] = {}
    for key in ("steps", "titles"):
        if key not in row:
            continue
        value = row[key]
        texts = cast("list[object]", value) if isinstance(value, list) else []
        if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
            raise DataError(f"{where}: {key} is {_named(value)}; wanted a list of texts that are not empty")
        found[key] = json.dumps(texts, ensure_ascii=False)
        if key == "steps":
            found["solution"] = "".join(cast("list[str]", texts))
        elif "steps" not in row:
            raise DataError(f"{where}: titles came without steps; add the steps that they are titles of")
    stated = _metadata(row, where)
    twice = sorted(set(found) & set(stated))
    if twice and found[twice[0]] != stated[twice[0]]:
        raise DataError(f"{where}: metadata.{twice[0]} differs from what steps say; remove it")
    return found


def _messages(row: Mapping[str, object], where: str, system: str) -> tuple[Message, ...]:
    if ("prompt" in row) == ("messages" in row):
        raise DataError(f"{where}: wanted exactly one of prompt (a text) and messages (a list of turns)")
    if "prompt" in row:
        turns = (Message(role="user", content=_text(row, "prompt", where, "")),)
    else:
        turns = _turns(row["messages"], where)
    if not system:
        return turns
    if turns[0].role == "system":
        raise DataError(f"{where}: the row has its own system turn and tasks.system is set; remove one of them")
    return (Message(role="system", content=system), *turns)


def _turns(value: object, where: str) -> tuple[Message, ...]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{where}: messages is {_named(value)}; wanted a list of turns with role and content")
    turns: list[Message] = []
    for index, item in enumerate(cast("list[object]", value)):
        turn = cast("dict[str, object]", item) if isinstance(item, dict) else {}
        role, content = turn.get("role"), turn.get("content")
        if set(turn) != {"role", "content"} or role not in ROLES or not isinstance(content, str):
            raise DataError(
                f"{where}: messages[{index}] is {_named(item)}; wanted "
                f'{{"role": "user", "content": "..."}} with a role of {", ".join(ROLES)}'
            )
        turns.append(Message(role=role, content=content))
    if turns[-1].role != "user" or not turns[-1].content.strip():
        raise DataError(f"{where}: the last turn must be a user turn that is not empty: the policy answers it")
    return tuple(turns)


def _named(value: object) -> str:
    if value is None:
        return "missing or null"
    shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 60 else f"{shown[:57]}..."

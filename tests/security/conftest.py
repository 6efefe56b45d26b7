"""Hostile attempts and malformed replies, one JSON object a line; `times` repeats the text."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


def rows(name: str, field: str) -> Iterator[tuple[str, str, str]]:
    """(name, text, expected form or "") of every row."""
    for line in (HERE / name).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        yield row["name"], row[field] * row.get("times", 1), row.get("form", "")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    for name, file, field in (("hostile", "injections.jsonl", "attempt"), ("malformed", "malformed.jsonl", "reply")):
        if name in metafunc.fixturenames:
            found = [(title, text) for title, text, form in rows(file, field) if not form]
            assert len(found) >= 30
            metafunc.parametrize(name, [text for _, text in found], ids=[title for title, _ in found])
    if "lenient" in metafunc.fixturenames:
        found = [(title, text, form) for title, text, form in rows("malformed.jsonl", "reply") if form]
        metafunc.parametrize("lenient", [row[1:] for row in found], ids=[row[0] for row in found])

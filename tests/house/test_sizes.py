"""Files and functions stay short enough to read in one sitting, and every module says what it owns."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = sorted((ROOT / "critique_rl").rglob("*.py"))
CODE = [*MODULES, *sorted((ROOT / "tests").rglob("*.py")), *sorted((ROOT / "examples").rglob("*.py"))]
FILE_LINES = 400
FUNCTION_LINES = 60
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
DOCSTRING_LINES = 8
EXTRAS = re.compile(r"^(?:Legend|Deviations)\b", re.MULTILINE)
UNFINISHED = re.compile(r"\b(TO" r"DO|FIX" r"ME|XX" r"X|HA" r"CK)\b")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def code_lines(function: Function, source: list[str]) -> int:
    """Lines of a function that hold code: no docstring, no blank lines, no lines that are only a comment."""
    first = function.body[0]
    has_docstring = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant) and len(function.body) > 1
    skipped = range(first.lineno, (first.end_lineno or first.lineno) + 1) if has_docstring else range(0)
    lines = range(function.lineno, (function.end_lineno or function.lineno) + 1)
    return sum(
        1 for n in lines if n not in skipped and source[n - 1].strip() and not source[n - 1].lstrip().startswith("#")
    )


def test_code_lines_counts_neither_docstring_nor_comments_nor_blanks() -> None:
    text = 'def f():\n    """A\n    B"""\n    # why\n\n    x = 1\n    return x\n'
    function = ast.parse(text).body[0]
    assert isinstance(function, ast.FunctionDef)
    assert code_lines(function, text.splitlines()) == 3  # def, x, return


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_a_file_is_short_and_has_a_telling_name(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= FILE_LINES
    assert path.stem not in VAGUE_NAMES


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_function_is_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    functions = [node for node in ast.walk(ast.parse(text)) if isinstance(node, Function)]
    long = {f.name: n for f in functions if (n := code_lines(f, text.splitlines())) > FUNCTION_LINES}
    assert not long, f"functions over {FUNCTION_LINES} code lines: {long}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_module_says_what_it_owns(path: Path) -> None:
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, "no module docstring"
    # Beside what it owns, a docstring may hold a legend of axes, a paper's deviations, or a drawing (errors.py).
    owns = EXTRAS.split(docstring)[0].strip()
    assert path.name == "errors.py" or len(owns.splitlines()) <= DOCSTRING_LINES


@pytest.mark.parametrize("path", CODE, ids=name_of)
def test_nothing_is_left_half_done(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not UNFINISHED.findall(text)
    assert "NotImplemented" + "Error" not in text

"""Every results file that a page names exists, parses, says where its figures come from, and is shown as it is."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
RESULTS = sorted((ROOT / "docs" / "results").glob("*.json"))
NAMED = re.compile(r"(?:docs/)?results/([\w.-]+\.json)")
RUN_FIELDS = {"command", "commit", "device", "versions", "seeds", "wall_time_s", "rows"}
ROW_FIELDS = {"name", "value", "unit", "target", "holds"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_results_that_a_page_names_exist(page: Path) -> None:
    named = set(NAMED.findall(page.read_text(encoding="utf-8")))
    assert named <= {path.name for path in RESULTS}


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.name)
def test_a_results_file_says_where_its_numbers_come_from(path: Path) -> None:
    run = json.loads(path.read_text(encoding="utf-8"))
    assert set(run) >= RUN_FIELDS
    assert run["rows"]
    for row in run["rows"]:
        assert set(row) >= ROW_FIELDS


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_what_the_results_say(page: Path) -> None:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec and spec.loader
    tables = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tables)
    assert tables.render(page) == page.read_text(encoding="utf-8"), "run `python docs/tables.py`"

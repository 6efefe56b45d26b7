"""Every results file that a page names exists, parses, says where its figures come from, and is shown as it is."""

from __future__ import annotations

import importlib.util
import json
import re
from pathlib import Path
from types import ModuleType

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


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_tables_are_what_the_results_say(tables: ModuleType, page: Path) -> None:
    assert tables.render(page) == page.read_text(encoding="utf-8"), "run `python docs/tables.py`"


def block(option: str) -> str:
    return f"<!-- ablation: long.json{option} -->\nold\n<!-- end of ablation -->\n"


def test_an_option_of_a_block_gives_it_more_columns(
    tables: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = {"steps": 9.0, "generated_tokens": 1000.0, "critic_tokens": 0.0}
    watched = {"floor": 0.75, "lowest_entropy": 0.1, "highest_entropy": 0.2, "trips": 1}
    row = {"arm": "both", "class": "hard", "mean": 0.5, "low": 0.25, "high": 0.75, **used, **watched}
    made = {"command": "x", "device": "y", "wall_time_s": 60, "commit": "z", "seeds": [1]}
    (tmp_path / "docs" / "results").mkdir(parents=True)
    (tmp_path / "docs" / "results" / "long.json").write_text(json.dumps({"table": [row], "claims": [], **made}))
    monkeypatch.setattr(tables, "ROOT", tmp_path)
    page = tmp_path / "docs" / "page.md"
    page.write_text(block("") + block(" floor"))
    plain, _, more = tables.render(page).partition("<!-- end of ablation -->")
    assert plain.startswith("<!-- ablation: long.json -->\n| arm | hard | steps |")
    assert more.startswith(
        "\n<!-- ablation: long.json floor -->\n| arm | hard | hard: floor | entropy | trips | steps |"
    )
    assert "| 75.0% | 0.10 to 0.20 | 1 | 9 | 1,000 | 0 |" in more
    assert "commit z ([long.json](results/long.json))." in more
    assert more.endswith("<!-- end of ablation -->\n")
    page.write_text(block(" ceiling"))
    with pytest.raises(ValueError, match="unknown option 'ceiling'; known are ablation: floor"):
        tables.render(page)

"""The ablation's table: its cells by hand, floors only where there are any, and the words of a claim."""

from __future__ import annotations

import pytest

from critique_rl.report.ablation_table import FLOOR_CAPTION, ablation_table, has_floors

Json = dict[str, object]


def row(arm: str, kind: str, **more: object) -> Json:
    used: Json = {"steps": 12.4, "generated_tokens": 12345.0, "critic_tokens": 0.0}
    return {"arm": arm, "class": kind, "mean": 0.5, "low": 0.25, "high": 0.755, **used, **more}


def claim(name: str, holds: bool | None) -> Json:
    return {"name": name, "holds": holds}


def test_by_hand() -> None:
    claims = [claim("a", True), claim("b", False), claim("c", None)]
    table = [row("x", "easy"), row("x", "hard", mean=1.0), row("y", "easy")]
    assert ablation_table({"table": table, "claims": claims}) == (
        "| arm | easy | hard | steps | tokens | critic tokens |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
        "| x | 50.0% (25.0% to 75.5%) | 100.0% (25.0% to 75.5%) | 12 | 12,345 | 0 |\n"
        "| y | 50.0% (25.0% to 75.5%) |  | 12 | 12,345 | 0 |\n"
        "\n"
        "- a: holds\n"
        "- b: **fails**\n"
        "- c: not measured\n"
    )


def test_floors_are_shown_where_there_are_any() -> None:
    watched: Json = {"lowest_entropy": 0.014, "highest_entropy": 1.0, "trips": 3}
    table = [
        row("x", "easy", floor=0.9, **watched),
        row("x", "hard", floor=None, **watched),
        row("y", "easy", floor=0.0, lowest_entropy=None, highest_entropy=None, trips=None),
    ]
    result: Json = {"table": table, "claims": []}
    assert has_floors(result)
    text = ablation_table(result)
    assert text.startswith("| arm | easy | hard | easy: floor | hard: floor | entropy | trips | steps |")
    assert "| 90.0% | - | 0.01 to 1.00 | 3 | 12 | 12,345 | 0 |\n" in text
    assert "| y | 50.0% (25.0% to 75.5%) |  | 0.0% | - | - | - | 12 |" in text
    assert text.endswith(FLOOR_CAPTION + "\n")
    assert "floor" not in ablation_table(result, floors=False)


def test_floors_that_nobody_measured_are_refused() -> None:
    with pytest.raises(ValueError, match=r"set evaluation\.every"):
        ablation_table({"table": [row("x", "easy")], "claims": []}, floors=True)


def test_further_metrics_have_columns_of_their_own() -> None:
    ece: Json = {"mean": 0.1234, "low": 0.1, "high": 0.2}
    rate: Json = {"mean": 0.5, "low": None, "high": None}
    table = [
        row("x", "all", metrics={"confidence/ece": ece, "pass@64": rate}),
        row("y", "all", metrics={"confidence/ece": {"mean": None, "low": None, "high": None}}),
    ]
    lines = ablation_table({"table": table, "claims": []}).splitlines()
    assert lines[0] == "| arm | all | all: confidence/ece | all: pass@64 | steps | tokens | critic tokens |"
    assert lines[2] == "| x | 50.0% (25.0% to 75.5%) | 0.123 (0.100 to 0.200) | 50.0% | 12 | 12,345 | 0 |"
    assert lines[3] == "| y | 50.0% (25.0% to 75.5%) | - | - | 12 | 12,345 | 0 |"

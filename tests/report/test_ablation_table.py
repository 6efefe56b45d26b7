"""The ablation's table: its cells by hand, floors only where there are any, and the words of a claim."""

from __future__ import annotations

import pytest

from critique_rl.report.ablation_table import DIFFERENCE_CAPTION, FLOOR_CAPTION, ablation_table, has_floors

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


def seeded(arm: str, kind: str, rates: list[float], seeds: list[int] | None = None, **more: object) -> Json:
    return row(arm, kind, seeds=seeds or [1, 2, 3], rates=rates, trials=[100] * len(rates), **more)


def test_differences_by_hand() -> None:
    table = [
        seeded("x", "easy", [0.4, 0.5, 0.6]),
        seeded("x", "hard", [0.0, 0.0, 0.0]),
        seeded("y", "easy", [0.39, 0.5, 0.61]),
        seeded("y", "hard", [0.1, 0.1, 0.13]),
        seeded("z", "easy", [0.75], [2]),
        seeded("w", "easy", [0.75], [7]),
    ]
    claims: list[Json] = [
        {
            "name": "a",
            "holds": None,
            "verdict": "undecided",
            "metric": "success",
            "differences": {"x": {"mean": -0.0004, "low": -0.0248, "high": 0.02}, "v": {"mean": None}},
        },
        {
            "name": "b",
            "holds": True,
            "verdict": "holds",
            "metric": "reward",
            "differences": {"x": {"mean": 1.5, "low": 0.25, "high": 2.75}},
        },
        {
            "name": "c",
            "holds": None,
            "verdict": "not measured",
            "metric": "success",
            "differences": {"v": {"mean": None}},
        },
    ]
    # d = -.01, 0, .01: 0 +- 4.3027 * .01 / sqrt(3) = 2.48 points
    # d = .1, .1, .13: 11 points, s = 1.732, and 11 +- 2.4841 * 1.732 = 6.70 to 15.30
    assert ablation_table({"reference": "x", "table": table, "claims": claims}) == (
        "| arm | easy | hard | easy: to x | hard: to x | steps | tokens | critic tokens |\n"
        "| --- | --- | --- | --- | --- | --- | --- | --- |\n"
        "| x | 50.0% (25.0% to 75.5%) | 50.0% (25.0% to 75.5%) | - | - | 12 | 12,345 | 0 |\n"
        "| y | 50.0% (25.0% to 75.5%) | 50.0% (25.0% to 75.5%) | +0.0 points (-2.5 to +2.5) "
        "| +11.0 points (+6.7 to +15.3) | 12 | 12,345 | 0 |\n"
        "| z | 50.0% (25.0% to 75.5%) |  | +25.0 points | - | 12 | 12,345 | 0 |\n"
        "| w | 50.0% (25.0% to 75.5%) |  | - | - | 12 | 12,345 | 0 |\n"
        "\n"
        "- a: not decided; +0.0 points (-2.5 to +2.0) to x\n"
        "- b: holds; +1.500 (+0.250 to +2.750) to x\n"
        "- c: not measured\n"
        "\n" + DIFFERENCE_CAPTION.format(reference="x") + "\n"
    )


def test_differences_are_of_success_alone() -> None:
    ece: Json = {"mean": 0.1, "low": 0.1, "high": 0.1, "values": [0.1, 0.1, 0.1]}
    table = [seeded(arm, "all", [0.5, 0.5, 0.6], metrics={"confidence/ece": ece}) for arm in ("x", "y")]
    head = ablation_table({"reference": "x", "table": table, "claims": []}).splitlines()[0]
    assert head == "| arm | all | all: to x | all: confidence/ece | steps | tokens | critic tokens |"


def test_a_class_in_which_no_seed_is_shared_has_no_column_of_differences() -> None:
    table = [seeded("x", "easy", [0.5], [1]), seeded("y", "easy", [0.5], [2])]
    text = ablation_table({"reference": "x", "table": table, "claims": []})
    assert text.startswith("| arm | easy | steps |") and "To x" not in text

"""Costs from a file: its forms, what is refused, and the decisions with what they cost."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from critique_rl.decisions.costs import decide_by_costs, read_costs
from critique_rl.errors import ConfigError

THREE = [[0, 5, 9], [1, 0, 4], [2, 1, 0], [1.5, 1.5, 1.5]]
NAMED = {"actions": ["a", "b", "c", "abstain"], "classes": ["a", "b", "c"], "costs": THREE}


def _file(tmp_path: Path, value: object) -> Path:
    path = tmp_path / "costs.json"
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


def test_both_forms_are_read(tmp_path: Path) -> None:
    bare, named = read_costs(_file(tmp_path, THREE)), read_costs(_file(tmp_path, NAMED))
    assert (bare.matrix.costs == named.matrix.costs).all()
    assert (bare.matrix.actions, bare.classes) == (("0", "1", "2", "3"), ("0", "1", "2"))
    assert (named.matrix.actions, named.classes) == (("a", "b", "c", "abstain"), ("a", "b", "c"))


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("{", "is not JSON"),
        ({"cost": THREE}, "unknown key 'cost'"),
        ({"actions": ["a"]}, "costs are missing or no list of rows"),
        ([0, 1], "costs are missing or no list of rows"),
        ([[0, "1"], [1, 0]], "row 0 of the costs holds '1'; wanted finite numbers"),
        ("[[0, NaN], [1, 0]]", "row 0 of the costs holds nan"),
        ([[0, 10**400], [1, 0]], "row 0 of the costs holds 1000"),
        ("[" * 100_000, "is not JSON"),
        ([[0, True], [1, 0]], "row 0 of the costs holds True"),
        ([[0, 1, 2], [1, 0]], "one number per class"),
        ([[1, 2], [1, 2]], "all rows of the costs are equal"),
        ({**NAMED, "actions": ["a", "b"]}, "wanted one name per row"),
        ({**NAMED, "classes": ["a", "b"]}, "2 classes .* wanted one name per column"),
        ({**NAMED, "classes": ["a", "b", "b"]}, "all different"),
        ({**NAMED, "classes": "abc"}, "classes is 'abc'; wanted a list of texts"),
    ],
)
def test_a_bad_file_is_refused(tmp_path: Path, value: object, wanted: str) -> None:
    with pytest.raises(ConfigError, match=f"costs.json.*{wanted}"):
        read_costs(_file(tmp_path, value))


def test_three_classes_by_hand(tmp_path: Path) -> None:
    costs = read_costs(_file(tmp_path, NAMED))
    found = decide_by_costs(np.array([[0.6, 0.3, 0.1], [0.95, 0.04, 0.01]]), costs, labels=[1, 0], draws=20)
    assert found.actions == ["b", "a"]
    assert found.expected_costs == pytest.approx([1.0, 0.29])
    report = found.report
    assert report["expected_cost"] == pytest.approx(0.645)
    assert report["actions"] == {"a": 0.5, "b": 0.5, "c": 0.0, "abstain": 0.0}
    # Both decisions are right and cost nothing; of single actions b costs (0 + 1) / 2, less than a's 2.5.
    assert (report["cost"], report["hindsight_cost"], report["regret"]) == (0.0, 0.0, 0.0)
    assert (report["best_single_action"], report["best_single_cost"], report["saving"]) == ("b", 0.5, 0.5)
    assert report["threshold"] is None


def test_two_rows_and_columns_have_a_threshold(tmp_path: Path) -> None:
    costs = read_costs(_file(tmp_path, [[0, 4], [1, 0]]))
    found = decide_by_costs(np.array([[0.81, 0.19], [0.79, 0.21]]), costs)
    assert found.report["threshold"] == pytest.approx(0.2)
    assert found.actions == ["0", "1"]
    assert "cost" not in found.report


def test_actions_that_are_never_chosen_are_noted(tmp_path: Path) -> None:
    costs = read_costs(_file(tmp_path, {"actions": ["no", "yes", "abstain"], "costs": [[0, 4], [1, 0], [9, 9]]}))
    found = decide_by_costs(np.array([[0.5, 0.5]]), costs)
    assert found.notes == ("action 'abstain' is never chosen: another one never costs more",)


def test_cost_intervals_hold_the_mean(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    q = rng.random(300)
    labels = (rng.random(300) < q).astype(int).tolist()
    costs = read_costs(_file(tmp_path, {"actions": ["no", "yes"], "costs": [[0, 9], [1, 0]]}))
    report = decide_by_costs(np.stack([1 - q, q], axis=1), costs, labels=labels, draws=200).report
    cost, low, high = (report[name] for name in ("cost", "cost_low", "cost_high"))
    assert isinstance(cost, float) and isinstance(low, float) and isinstance(high, float)
    assert low < cost < high
    rows = [1 if p >= 0.1 else 0 for p in q]
    paid = [[[0, 9], [1, 0]][row][label] for row, label in zip(rows, labels, strict=True)]
    assert cost == pytest.approx(sum(paid) / 300)
    assert report["saving"] == pytest.approx(min(9 * sum(labels), 300 - sum(labels)) / 300 - cost)

"""`decide` by a matrix of costs: the action of the smallest expected cost for each record.

Owns: the form of a costs file, and the report on its decisions. Must not know: utilities, how anything is printed.
A confidence stands for two classes: wrong is column 0, correct column 1.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from critique_rl.errors import ConfigError
from critique_rl.stats.decisions import LARGEST, CostMatrix, binary_threshold
from critique_rl.stats.selective import mean_interval_over_units

Array = NDArray[np.float64]
Json = dict[str, object]
FORM = '{"actions": ["a", "b", "abstain"], "classes": ["a", "b"], "costs": [[0, 9], [1, 0], [0.5, 0.5]]}'


class Costs(NamedTuple):
    """A costs file: the matrix with its actions, and what its columns are called."""

    matrix: CostMatrix
    classes: tuple[str, ...]


class CostDecisions(NamedTuple):
    """The action and its expected cost for each record, and the report."""

    actions: list[str]
    expected_costs: Array
    report: Json
    notes: tuple[str, ...]


def read_costs(path: Path) -> Costs:
    """A JSON file of costs: rows are actions, columns are true classes. Names are optional, and so is the object:
    a bare list of rows will do. Raises ConfigError naming the file, OSError where it cannot be read."""
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # not JSON, not UTF-8, or nested too deeply
        raise ConfigError(f"{path} is not JSON ({error}); wanted a file such as {FORM}") from None
    tree = cast("dict[str, object]", value) if isinstance(value, dict) else {"costs": value}
    unknown = next((key for key in tree if key not in ("actions", "classes", "costs")), None)
    if unknown is not None:
        raise ConfigError(f"{path}: unknown key {unknown!r}; wanted a file such as {FORM}")
    try:
        matrix, classes = CostMatrix(_rows(tree.get("costs")), _names(tree, "actions")), _names(tree, "classes")
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    classes = classes or tuple(str(n) for n in range(matrix.classes))
    if len(classes) != matrix.classes or len(set(classes)) != len(classes):
        raise ConfigError(
            f"{path}: {len(classes)} classes ({', '.join(classes)}) came with {matrix.classes} columns; wanted "
            "one name per column, all different"
        )
    return Costs(matrix, classes)


def decide_by_costs(
    probabilities: Array,
    costs: Costs,
    *,
    labels: Sequence[int] | None = None,
    units: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> CostDecisions:
    """a* = argmin_a sum_j p_j C[a, j] per record; with `labels`, what that cost beside the best single action.

    `saving` is what deciding per record costs less than the best single action for all. `regret` is what it costs
    more than the cheapest action per record with the truth known, which no rule gets below.
    """
    matrix = costs.matrix
    expected = matrix.expected(probabilities)
    rows = matrix.choose(probabilities)
    n = np.arange(len(rows))
    shares = np.bincount(rows, minlength=len(matrix.actions)) / len(rows)
    report: Json = {
        "records": len(rows),
        "actions": dict(zip(matrix.actions, shares.tolist(), strict=True)),
        "expected_cost": float(expected[n, rows].mean()),
        "threshold": _threshold(matrix),
    }
    if labels is not None:
        truth = np.array(labels, dtype=np.int64)
        paid, constant = matrix.costs[rows, truth], matrix.costs[:, truth].mean(axis=1)
        best = int(constant.argmin())
        spread = mean_interval_over_units(paid, units=units, draws=draws, seed=seed)
        saved = matrix.costs[best, truth] - paid
        saving = mean_interval_over_units(saved, units=units, draws=draws, seed=seed)
        hindsight = float(matrix.costs[:, truth].min(axis=0).mean())
        report |= {
            "cost": float(paid.mean()),
            "cost_low": spread.low,
            "cost_high": spread.high,
            "best_single_action": matrix.actions[best],
            "best_single_cost": float(constant[best]),
            "saving": float(saved.mean()),
            "saving_low": saving.low,
            "saving_high": saving.high,
            "hindsight_cost": hindsight,
            "regret": float(paid.mean()) - hindsight,
        }
    notes = tuple(f"action {name!r} is never chosen: another one never costs more" for name in matrix.idle())
    return CostDecisions([matrix.actions[row] for row in rows], expected[n, rows], report, notes)


def _threshold(matrix: CostMatrix) -> float | None:
    """The probability of class 1 from which row 1 is chosen, for two rows and two columns that trade off."""
    try:
        return binary_threshold(matrix.costs)
    except ValueError:
        return None


def _rows(value: object) -> list[list[float]]:
    if not isinstance(value, list) or not all(isinstance(row, list) for row in cast("list[object]", value)):
        raise ValueError(f"costs are missing or no list of rows; wanted a file such as {FORM}")
    rows = cast("list[list[object]]", value)
    for n, row in enumerate(rows):
        for number in row:
            if isinstance(number, bool) or not isinstance(number, (int, float)) or not abs(number) <= LARGEST:
                raise ValueError(f"row {n} of the costs holds {number!r:.60}; wanted finite numbers")
    return cast("list[list[float]]", rows)


def _names(tree: dict[str, object], key: str) -> tuple[str, ...]:
    names = tree.get(key, [])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in cast("list[object]", names)):
        raise ValueError(f"{key} is {names!r:.60}; wanted a list of texts")
    return tuple(cast("list[str]", names))

"""A transfer matrix in a file: there and back, and what is wrong with a broken one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from critique_rl.errors import DataError
from critique_rl.schedule.transfer_file import read_transfer, transfer_json
from critique_rl.stats.transfer import TransferMatrix

PLAIN: dict[str, object] = {"tasks": ["a", "b"], "base": [0.1, 0.2], "acc": [[0.5, 0.25], [0, 1]]}


def written(tmp_path: Path, tree: object) -> Path:
    path = tmp_path / "transfer.json"
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return path


def test_there_and_back(tmp_path: Path) -> None:
    matrix = TransferMatrix(
        tasks=("a", "b"),
        base=np.array([0.1, 0.2]),
        acc=np.array([[0.5, 0.25], [0.0, 1.0]]),
        se=np.full((2, 2), 0.01),
        base_se=np.array([0.02, 0.03]),
        normaliser="base",
    )
    found = read_transfer(written(tmp_path, transfer_json(matrix)))
    assert transfer_json(found) == transfer_json(matrix)


def test_a_file_of_somebody_elses(tmp_path: Path) -> None:
    found = read_transfer(written(tmp_path, {**PLAIN, "made_by": "another trainer", "se": None}))
    assert (found.tasks, found.se, found.base_se, found.normaliser) == (("a", "b"), None, None, "none")
    assert found.effect[1, 1] == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("tree", "wanted"),
    [
        ("{", "not JSON"),
        ("[]", "holds list"),
        ({"tasks": ["a"]}, "'base' is missing"),
        ({**PLAIN, "tasks": "ab"}, "wanted a list of names"),
        ({**PLAIN, "tasks": ["a", 2]}, "wanted a list of names"),
        ({**PLAIN, "tasks": ["a", "a"]}, "each once"),
        ({**PLAIN, "base": None}, "is null"),
        ({**PLAIN, "base": 3}, "base is 3; wanted numbers"),
        ({**PLAIN, "base": ["x", 1]}, "wanted numbers"),
        ({**PLAIN, "base": [True, 1]}, "wanted numbers"),
        ({**PLAIN, "acc": [[1, 2], [3]]}, "different lengths"),
        ({**PLAIN, "acc": [[1, 2]]}, r"acc has shape \(1, 2\)"),
        ({**PLAIN, "se": [[1, 2], [3, -4]]}, "0 or more"),
        ({**PLAIN, "normaliser": "max"}, "normaliser = 'max'"),
    ],
)
def test_broken_files(tmp_path: Path, tree: object, wanted: str) -> None:
    with pytest.raises(DataError, match=wanted):
        read_transfer(written(tmp_path, tree))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; make it with"):
        read_transfer(tmp_path / "transfer.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_transfer(tmp_path)

"""A transfer matrix as a JSON file: written by `critique-rl curriculum measure`, or by hand or another trainer.

    {"tasks": ["math", "write"], "base": [0.4, 0.5], "acc": [[0.6, 0.45], [0.38, 0.7]],
     "se": [[0.02, 0.02], [0.02, 0.02]], "base_se": [0.02, 0.02], "normaliser": "none"}

Owns: that form; `se`, `base_se` and `normaliser` may be left out, and further keys are left alone. Must not know: runs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np

from critique_rl.errors import DataError
from critique_rl.stats.transfer import Matrix, Normaliser, TransferMatrix

_FORM = 'wanted {"tasks": [names], "base": [numbers], "acc": [[numbers]]}, as docs/curriculum.md shows'


def read_transfer(path: Path) -> TransferMatrix:
    """Errors: DataError naming the file and the key."""
    tree = read_transfer_tree(path)
    missing = [key for key in ("tasks", "base", "acc") if key not in tree]
    if missing:
        raise DataError(f"{path}: {missing[0]!r} is missing; {_FORM}")
    tasks = tree["tasks"]
    if not isinstance(tasks, list) or not all(isinstance(name, str) and name for name in cast("list[object]", tasks)):
        raise DataError(f"{path}: tasks is {tasks!r:.80}; wanted a list of names")
    numbers = {key: _numbers(tree.get(key), f"{path}: {key}") for key in ("base", "acc", "se", "base_se")}
    base, acc = numbers["base"], numbers["acc"]
    if base is None or acc is None:
        raise DataError(f"{path}: base or acc is null; {_FORM}")
    try:
        return TransferMatrix(
            tasks=tuple(cast("list[str]", tasks)),
            base=base,
            acc=acc,
            se=numbers["se"],
            base_se=numbers["base_se"],
            normaliser=cast(Normaliser, tree.get("normaliser", "none")),
        )
    except ValueError as error:
        raise DataError(f"{path}: {error}") from None


def read_transfer_tree(path: Path) -> Mapping[str, object]:
    """All that the file holds. Errors: DataError."""
    try:
        tree: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; make it with `critique-rl curriculum measure`, or by hand") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read: {error}") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{path} is not JSON ({error.msg} on line {error.lineno}); {_FORM}") from None
    if not isinstance(tree, dict):
        raise DataError(f"{path} holds {type(tree).__name__}; {_FORM}")
    return cast("dict[str, object]", tree)


def transfer_json(matrix: TransferMatrix) -> dict[str, object]:
    """The same as plain JSON, for `read_transfer` to read back."""
    return {
        "tasks": list(matrix.tasks),
        "base": matrix.base.tolist(),
        "acc": matrix.acc.tolist(),
        "se": None if matrix.se is None else matrix.se.tolist(),
        "base_se": None if matrix.base_se is None else matrix.base_se.tolist(),
        "normaliser": matrix.normaliser,
    }


def _numbers(value: object, where: str) -> Matrix | None:
    if value is None:
        return None
    rows = cast("list[object]", value) if isinstance(value, list) else [value]
    flat = [item for row in rows for item in (cast("list[object]", row) if isinstance(row, list) else [row])]
    if not isinstance(value, list) or not all(type(item) in (int, float) for item in flat):
        raise DataError(f"{where} is {value!r:.80}; wanted numbers in a list, or in a list of lists of one length")
    try:
        return np.array(value, dtype=np.float64)
    except ValueError:
        raise DataError(f"{where} has rows of different lengths; wanted one number for each task in each row") from None

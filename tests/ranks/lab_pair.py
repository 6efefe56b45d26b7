"""Lab runs that several processes make together, and what is compared of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.lab_runs import LAB, toml
from tests.ranks.pair import finish, start

Changes = Mapping[str, Mapping[str, object]]
SHORT: Changes = {
    "policy": {"dtype": "float64"},
    "tasks": {"train_easy": 4, "train_hard": 4, "held_out_easy": 2, "held_out_hard": 2},
    "rollout": {"batch_size": 3},
    "optimizer": {"micro_batch_tokens": 200},
    "budget": {"max_steps": 3},
}


def train_command(path: Path, changes: Changes) -> list[str]:
    """Write the run file `path`; the run goes to the folder beside it of its name."""
    sections = {**LAB, **{key: {} for key in changes if key not in LAB}}
    tree = {
        key: {**value, **changes.get(key, {})} if isinstance(value, dict) else value for key, value in sections.items()
    }
    path.write_text(toml(tree), encoding="utf-8")
    return ["-m", "critique_rl", "train", str(path), "--output", str(path.with_suffix(""))]


def lab_runs(folder: Path, changes: Changes, kinds: tuple[str, ...]) -> Mapping[str, Path]:
    """The same run by one process, and by two of each kind: repeated weights ("ddp") or split ones ("fsdp2")."""
    running = {
        name: start(
            train_command(folder / f"{name}.toml", changes), size=1 if name == "one" else 2, sharded=name == "fsdp2"
        )
        for name in ("one", *kinds)
    }
    for name, processes in running.items():
        for rank, (code, output, errors) in enumerate(finish(processes)):
            assert code == 0, (name, rank, errors[-3000:])
            assert rank == 0 or output == errors == "", (name, "the following rank wrote something")
    return {name: folder / name for name in running}


def assert_same(mine: object, other: object) -> None:
    """Equal, numbers to 1e-9."""
    assert type(mine) is type(other)
    if isinstance(mine, dict) and isinstance(other, dict):
        assert mine.keys() == other.keys()
        for key in mine:
            assert_same(mine[key], other[key])
    elif isinstance(mine, list) and isinstance(other, list):
        assert len(mine) == len(other)
        for left, right in zip(mine, other, strict=True):
            assert_same(left, right)
    elif isinstance(mine, float):
        assert mine == pytest.approx(other, rel=1e-9, abs=1e-9)
    else:
        assert mine == other

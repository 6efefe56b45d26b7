"""Files of several stages as those of one run."""

from __future__ import annotations

import errno
import json
from pathlib import Path

import pytest

from critique_rl.errors import CheckpointError
from critique_rl.report.joined import StageFiles, join_stages
from tests.lab_runs import Tree, lines


def stage(root: Path, name: str, rows: list[Tree], steps: int) -> StageFiles:
    here = root / name
    here.mkdir()
    (here / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (here / "events.jsonl").write_text(json.dumps({"step": steps, "kind": "stall", "message": name}) + "\n")
    return StageFiles(here, steps, f"stage {name}", "step budget spent")


def test_steps_and_counters_go_on(tmp_path: Path) -> None:
    first: list[Tree] = [
        {"step": 0, "eval/a": 0.1, "tokens/generated": 0.0},
        {"step": 1, "tokens/generated": 50.0, "critic/calls": 2.0, "critic/outcome/ok": 1.0, "steps/total": 2.0},
        {"step": 2, "tokens/generated": 90.0, "critic/calls": 5.0, "critic/outcome/ok": 4.0, "loss/pg": None},
    ]
    second: list[Tree] = [
        {"step": 0, "tokens/generated": 0.0},
        {"step": 1, "tokens/generated": 7.0, "critic/calls": 1.0, "critic/step_calls": 1.0, "steps/total": 4.0},
    ]
    third: list[Tree] = [{"step": 1, "tokens/generated": 3.0, "critic/calls": 0.0}]
    join_stages(
        tmp_path,
        [stage(tmp_path, "one", first, 2), stage(tmp_path, "two", second, 1), stage(tmp_path, "three", third, 1)],
    )
    found = lines(tmp_path / "metrics.jsonl")
    assert [row["step"] for row in found] == [0, 1, 2, 2, 3, 4]
    assert [row["tokens/generated"] for row in found] == [0.0, 50.0, 90.0, 90.0, 97.0, 100.0]
    assert [row.get("critic/calls") for row in found] == [None, 2.0, 5.0, None, 6.0, 6.0]
    assert found[4]["critic/step_calls"] == 1.0 and found[4]["steps/total"] == 6.0 and found[2]["loss/pg"] is None
    events = [(row["step"], row["message"]) for row in lines(tmp_path / "events.jsonl")]
    assert events[:3] == [(0, "stage one begins"), (2, "one"), (2, "stage one ends: step budget spent")]
    assert events[-1] == (4, "stage three ends: step budget spent")
    assert lines(tmp_path / "samples.jsonl") == []


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = [stage(tmp_path, "one", [{"step": 1}], 1)]
    join_stages(tmp_path, made)
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def full(self: Path, *_: object, **__: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CheckpointError, match="could not be written: No space left"):
        join_stages(tmp_path, made)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before

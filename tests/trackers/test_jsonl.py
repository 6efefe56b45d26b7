"""Lines on disk: format, durability, exact resumption, a full disk."""

from __future__ import annotations

import errno
import json
import math
from pathlib import Path
from typing import IO, cast

import pytest

from critique_rl.errors import CheckpointError, ConfigError
from critique_rl.trackers.jsonl import JsonlTracker, truncate_after


def play(tracker: JsonlTracker, steps: range) -> None:
    for step in steps:
        tracker.log(step, {"reward/mean": step / 10})
        tracker.event(step, "note", f"step {step}")
        tracker.sample(step, {"task_id": "t", "attempts": [{"text": "1\n2", "reward": 0.0}]})
    tracker.close()


def contents(run_dir: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(run_dir.iterdir())}


def test_a_line_is_on_disk_before_the_call_returns(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path / "new" / "run")
    tracker.log(3, {"loss/pg": 0.5})
    tracker.event(3, "stall", 'a "quoted" é')
    assert (tmp_path / "new/run/metrics.jsonl").read_text() == '{"step": 3, "loss/pg": 0.5}\n'
    event = json.loads((tmp_path / "new/run/events.jsonl").read_text(encoding="utf-8"))
    assert event == {"step": 3, "kind": "stall", "message": 'a "quoted" é'}
    tracker.close()


def test_what_json_cannot_say_becomes_null_or_an_escape(tmp_path: Path) -> None:
    tracker = JsonlTracker(tmp_path)
    tracker.sample(0, {"step": 99, "x": math.nan, "deep": [{"y": math.inf}], "half": "\ud83d", "pair": (1, 2.5)})
    tracker.close()
    assert json.loads((tmp_path / "samples.jsonl").read_bytes()) == {
        "step": 0,
        "x": None,
        "deep": [{"y": None}],
        "half": "\ud83d",
        "pair": [1, 2.5],
    }


@pytest.mark.parametrize("last", [-1, 0, 3, 5])
def test_a_resumed_run_leaves_the_same_bytes(tmp_path: Path, last: int) -> None:
    play(JsonlTracker(tmp_path / "whole"), range(6))
    play(JsonlTracker(tmp_path / "cut"), range(6))
    whole = (tmp_path / "cut/metrics.jsonl").read_bytes()
    (tmp_path / "cut/metrics.jsonl").write_bytes(whole + b'{"step": 6, "rew')
    play(JsonlTracker(tmp_path / "cut", resume_step=last), range(last + 1, 6))
    assert contents(tmp_path / "cut") == contents(tmp_path / "whole")


def test_truncation_counts_what_it_removed(tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    assert truncate_after(path, 0) == 0
    path.write_text('{"step": 0}\n{"step": 1}\n{"step": 2}\n{"step"')
    assert truncate_after(path, 1) == 2
    assert path.read_text() == '{"step": 0}\n{"step": 1}\n'


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"step": "1"}', '{"kind": "x"}'])
def test_a_broken_line_in_the_middle_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "events.jsonl").write_text(f'{{"step": 0}}\n{line}\n{{"step": 1}}\n')
    with pytest.raises(CheckpointError, match=r"events\.jsonl:2: .*repair or delete"):
        JsonlTracker(tmp_path, resume_step=1)


def test_a_new_run_does_not_write_over_an_old_one(tmp_path: Path) -> None:
    play(JsonlTracker(tmp_path), range(1))
    with pytest.raises(ConfigError, match="already holds an earlier run; resume"):
        JsonlTracker(tmp_path)


def test_a_directory_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(CheckpointError, match="cannot be opened for writing"):
        JsonlTracker(tmp_path / "file" / "run")


class FullDisk:
    def __init__(self, room: int) -> None:
        self.room, self.written = room, b""

    def write(self, data: memoryview) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        part = bytes(data[: self.room])
        self.room -= len(part)
        self.written += part
        return len(part)

    def close(self) -> None: ...


def test_a_full_disk_says_what_is_safe_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = FullDisk(room=len(b'{"step": 0, "a": 1.0}\n') + 5)
    opened = Path.open

    def full(self: Path, mode: str = "r", buffering: int = -1) -> IO[bytes]:
        if self.name == "metrics.jsonl" and mode == "ab":
            return cast("IO[bytes]", disk)
        return cast("IO[bytes]", opened(self, mode, buffering))

    monkeypatch.setattr(Path, "open", full)
    tracker = JsonlTracker(tmp_path)
    tracker.log(0, {"a": 1.0})
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: step 1 cannot be written: No space left.*resume"):
        tracker.log(1, {"a": 2.0})
    tracker.close()
    assert disk.written == b'{"step": 0, "a": 1.0}\n{"ste'

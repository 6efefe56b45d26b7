"""A lab run by two processes: the run of one process, and a Ctrl-C that saves and ends both."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from critique_rl.loop.checkpoint import latest_checkpoint
from tests.lab_runs import lines
from tests.ranks.lab_pair import SHORT, assert_same, lab_runs, train_command
from tests.ranks.pair import finish, start


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    return lab_runs(tmp_path_factory.mktemp("lab"), SHORT, ("ddp", "fsdp2"))


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_two_processes_make_the_run_of_one(runs: Mapping[str, Path], kind: str) -> None:
    for name in ("samples.jsonl", "metrics.jsonl", "events.jsonl"):
        assert_same(lines(runs[kind] / name), lines(runs["one"] / name))
    steps = [row for row in lines(runs["one"] / "metrics.jsonl") if "loss/total" in row]
    assert len(steps) == 3 and any(row["loss/distill"] for row in steps) and any(row["grad/norm"] for row in steps)
    results = [json.loads((path / "summary.json").read_text())["results"][0] for path in (runs[kind], runs["one"])]
    assert results[0]["end"] == results[1]["end"]


@pytest.mark.parametrize("kind", ["ddp", "fsdp2"])
def test_the_checkpoint_holds_the_same_files(runs: Mapping[str, Path], kind: str) -> None:
    names: list[list[tuple[str, int]]] = []
    for name in (kind, "one"):
        saved = latest_checkpoint(runs[name] / "checkpoints")
        assert saved is not None
        names.append(sorted((path.name, path.stat().st_size) for path in saved.directory.glob("policy/*")))
    assert names[0] == names[1]


def test_ctrl_c_saves_and_ends_both(tmp_path: Path) -> None:
    pair = start(train_command(tmp_path / "long.toml", {**SHORT, "budget": {"max_steps": 100_000}}))
    metrics = tmp_path / "long" / "metrics.jsonl"
    wait_for(lambda: metrics.exists() and any("loss/total" in row for row in lines(metrics)))
    for process in reversed(pair):  # as a terminal does; the follower leaves it to the leader
        os.kill(process.pid, signal.SIGINT)
    (code, _, errors), (follower_code, *said) = finish(pair)
    assert (code, follower_code, said) == (130, 0, ["", ""]), errors[-3000:]
    saved = latest_checkpoint(tmp_path / "long" / "checkpoints")
    assert saved is not None
    steps = [row for row in lines(metrics) if "loss/total" in row]
    assert saved.state["progress"]["step"] == len(steps) > 0  # pyright: ignore[reportIndexIssue, reportArgumentType]


def test_a_command_that_cannot_share_its_work_says_so(tmp_path: Path) -> None:
    train_command(tmp_path / "run.toml", SHORT)
    (code, _, errors), (_, _, follower) = finish(start(["-m", "critique_rl", "eval", str(tmp_path / "run.toml")]))
    assert code == 2
    assert "error: eval works in one process; only train and demo share their work with others" in errors
    assert "error: rank 1: eval works in one process" in follower


def wait_for(condition: Callable[[], bool], timeout_s: float = 90.0) -> None:
    ends_at = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < ends_at
        time.sleep(0.1)

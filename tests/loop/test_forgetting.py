"""Evaluations by source, shown to the guard; a forgotten source comes back into the batch, or the run stops."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from critique_rl.build import build
from critique_rl.loop.checkpoint import latest_checkpoint
from critique_rl.loop.evaluate import Success
from critique_rl.loop.forgetting import success_by_part
from critique_rl.loop.train import Trainer
from critique_rl.schedule.forgetting import ForgettingGuard
from critique_rl.stats.intervals import wilson_interval
from critique_rl.tasks.mixture import MixtureTasks, replaying
from critique_rl.trackers.fanout import FanoutTracker
from critique_rl.trackers.jsonl import JsonlTracker
from tests.lab_runs import GRPO, lab_config, lines
from tests.tasks.test_mixture import Pool, parts


def success(kind: str, right: int, trials: int) -> Success:
    low, high = wilson_interval(right, trials)
    return Success(kind=kind, successes=right, trials=trials, success=right / trials, low=low, high=high)


def test_kinds_of_one_source_are_one_level() -> None:
    easy, hard = success("math:easy", 45, 50), success("math:hard", 30, 150)
    found = success_by_part({"math:easy": easy, "math:hard": hard, "write": success("write", 5, 10)})
    assert set(found) == {"math", "write"}
    mean, se = found["math"]
    assert mean == pytest.approx(75 / 200)
    # A quarter and three quarters of the weight; a standard error is the 95 % interval's width over 2 * 1.959964.
    widths = [0.25 * (easy.high - easy.low), 0.75 * (hard.high - hard.low)]
    assert se == pytest.approx(math.hypot(*widths) / (2 * 1.959964), rel=1e-6)


def test_a_forgotten_source_comes_back_into_the_batch() -> None:
    guard = ForgettingGuard(trained=["b"], finished=["a"], replay_share=0.25)
    source = replaying(MixtureTasks({"a": Pool(""), "b": Pool("")}, shares={"b": 1.0}), guard.replayed)
    assert parts(source.batch(0, 8, seed=0)) == {"b": 8}
    guard.observe({"a": (0.9, 0.01), "b": (0.1, 0.01)})
    guard.observe({"a": (0.1, 0.01), "b": (0.8, 0.01)})
    assert parts(source.batch(1, 8, seed=0)) == {"a": 2, "b": 6}
    assert source.batch(1, 8, seed=0) == source.batch(1, 8, seed=0)
    assert parts(source.held_out()) == {"a": 2, "b": 2}


def test_without_a_guard_or_a_mixture_the_tasks_are_as_they_were() -> None:
    pool, mixture = Pool(""), MixtureTasks({"a": Pool(""), "b": Pool("")}, shares={"b": 1.0})
    assert replaying(pool, lambda: {}) is pool
    assert replaying(mixture, None) is mixture


class FallsAt:
    """A guard whose second evaluation is one too many."""

    def __init__(self) -> None:
        self.seen: list[Mapping[str, tuple[float, float]]] = []

    def observe(self, levels: Mapping[str, tuple[float, float]]) -> None:
        self.seen.append(levels)

    @property
    def stopped(self) -> str:
        return "forgetting: easy" if len(self.seen) > 1 else ""

    def message(self) -> str | None:
        return "easy is forgotten" if len(self.seen) == 2 else None

    def figures(self) -> Mapping[str, float]:
        return {"forgetting/easy/lost": 0.5 * (len(self.seen) - 1)}

    def state_dict(self) -> dict[str, object]:
        return {"seen": len(self.seen)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.seen = [{}] * int(str(state["seen"]))


def test_a_run_stops_after_the_evaluation_that_found_it_and_stays_stopped(tmp_path: Path) -> None:
    config = lab_config({"budget": {"max_steps": 3}, "evaluation": {"every": 1}}, base=GRPO)
    built = replace(build(config, tracker=JsonlTracker(tmp_path)), forgetting=FallsAt())
    trainer = Trainer(config, built, tmp_path)
    trainer.run()
    built.tracker.close()
    assert (trainer.stopped_because, trainer.progress.step) == ("forgetting: easy", 1)
    events = [line["message"] for line in lines(tmp_path / "events.jsonl") if line["kind"] == "forgetting"]
    assert events == ["easy is forgotten"]
    told = [
        line["forgetting/easy/lost"] for line in lines(tmp_path / "metrics.jsonl") if "forgetting/easy/lost" in line
    ]
    assert told[-1] == 0.5
    saved = latest_checkpoint(tmp_path / "checkpoints")
    assert saved is not None
    again = Trainer(config, replace(built, forgetting=FallsAt()), tmp_path / "again")
    again.resume(saved)
    again.run()
    assert (again.stopped_because, again.progress.step) == ("forgetting: easy", 1)


def test_a_run_file_builds_the_guard_and_puts_it_between_tasks_and_batches(tmp_path: Path) -> None:
    transfer = tmp_path / "transfer.json"
    transfer.write_text(json.dumps({"tasks": ["a", "b"], "base": [0.1, 0.1], "acc": [[0.9, 0.1], [0.0, 0.8]]}))
    of = {name: {"kind": "lab", "train_easy": 6, "train_hard": 6} for name in ("a", "b")}
    config = lab_config(
        {
            "tasks": {"kind": "mixture", "of": of, "only": ["b"]},
            "forgetting": {"transfer": str(transfer), "finished": ["a"], "replay_share": 0.5},
        },
        base=GRPO,
    )
    built = build(config, tracker=FanoutTracker([]))
    assert isinstance(built.forgetting, ForgettingGuard)
    built.forgetting.observe({"a": (0.9, 0.0), "b": (0.1, 0.0)})
    assert built.forgetting.figures()["forgetting/a/allowed"] == pytest.approx(0.1)  # D[b, a] = 0 - .1
    assert parts(built.tasks.batch(0, 4, seed=0)) == {"b": 4}
    built.forgetting.observe({"a": (0.7, 0.0), "b": (0.8, 0.0)})
    assert parts(built.tasks.batch(0, 4, seed=0)) == {"a": 2, "b": 2}

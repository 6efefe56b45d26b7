"""Held-out success: counts by hand, intervals against the closed form, which tasks are asked."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest

from critique_rl.config.evaluation import EvaluationConfig
from critique_rl.engines.scripted import ScriptedEngine
from critique_rl.loop.evaluate import Success, evaluate
from critique_rl.types import Task
from tests.loop.fakes import CharPolicy, ExactReward, engine, task


def measured(tasks: Sequence[Task], sampler: ScriptedEngine, **options: object) -> dict[str, Success]:
    found = evaluate(
        tasks,
        policy=CharPolicy(),
        engine=sampler,
        reward=ExactReward(),
        config=EvaluationConfig.model_validate(options),
        max_tokens=8,
        seed=0,
    )
    return dict(found)


def wilson(k: int, n: int) -> tuple[float, float]:
    z = 1.959963984540054
    middle = (k + z * z / 2) / (n + z * z)
    half = z / (n + z * z) * math.sqrt(k * (n - k) / n + z * z / 4)
    return middle - half, middle + half


def test_success_is_counted_by_kind() -> None:
    tasks = [task("a", kind="hard"), task("b", kind="easy"), task("c", kind="hard"), task("d")]
    found = measured(tasks, engine("42", "41", "?", "42"))
    assert list(found) == ["hard", "easy", "all"]
    hard = found["hard"]
    assert (hard.kind, hard.successes, hard.trials, hard.success) == ("hard", 1, 2, 0.5)
    assert (hard.low, hard.high) == pytest.approx(wilson(1, 2))
    assert (found["easy"].successes, found["easy"].trials) == (0, 1)


def test_several_samples_of_a_task_follow_each_other() -> None:
    found = measured([task("a", answer="1"), task("b", answer="2")], engine("1", "1", "1", "2"), samples_per_task=2)
    assert (found["all"].successes, found["all"].trials) == (3, 4)


def test_a_verifier_error_is_no_success() -> None:
    assert measured([task()], engine("!"))["all"].successes == 0


def test_fewer_tasks_are_spread_over_all_kinds() -> None:
    tasks = [*(task(f"e{i}", kind="easy") for i in range(6)), *(task(f"h{i}", kind="hard") for i in range(6))]
    found = measured(tasks, engine("42"), max_tasks=4)
    assert {kind: s.trials for kind, s in found.items()} == {"easy": 2, "hard": 2}
    assert sum(s.trials for s in measured(tasks, engine("42"), max_tasks=100).values()) == 12


def test_nothing_held_out_is_nothing_measured() -> None:
    assert measured([], engine("42")) == {}
    assert measured([], engine("42"), max_tasks=3) == {}

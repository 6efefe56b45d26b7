"""Held-out success per kind of task, asked without any hint, with 95 % Wilson intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from critique_rl.config.evaluation import EvaluationConfig
from critique_rl.protocols import Policy, Reward, RolloutEngine
from critique_rl.stats.intervals import wilson_interval
from critique_rl.types import Task


@dataclass(frozen=True, slots=True, kw_only=True)
class Success:
    """Verified successes of one kind of task; `low` and `high` bound the rate at 95 %."""

    kind: str
    successes: int
    trials: int
    success: float
    low: float
    high: float


def evaluate(
    tasks: Sequence[Task],
    *,
    policy: Policy,
    engine: RolloutEngine,
    reward: Reward,
    config: EvaluationConfig,
    max_tokens: int,
    seed: int,
) -> Mapping[str, Success]:
    """Success of the bare policy on `tasks` (on `max_tasks` of them, evenly spread), by kind as they first appear."""
    count = min(config.max_tasks or len(tasks), len(tasks))
    chosen = [tasks[i * len(tasks) // count] for i in range(count)]
    asked = [task for task in chosen for _ in range(config.samples_per_task)]
    completions = engine.generate(
        [policy.encode(task.messages) for task in asked],
        max_tokens=max_tokens,
        temperature=config.temperature,
        seed=seed,
    )
    verdicts: dict[str, list[bool]] = {}
    for task, completion in zip(asked, completions, strict=True):
        verdicts.setdefault(task.kind or "all", []).append(reward.score(task, completion.text).correct)
    return {kind: _success(kind, correct) for kind, correct in verdicts.items()}


def _success(kind: str, correct: list[bool]) -> Success:
    interval = wilson_interval(sum(correct), len(correct))
    return Success(
        kind=kind,
        successes=sum(correct),
        trials=len(correct),
        success=sum(correct) / len(correct),
        low=interval.low,
        high=interval.high,
    )

"""A gated teacher in a run: who decides, what travels in a checkpoint, and that a broken-off step leaves no trace."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import ValidationError

from critique_rl.build import build_teacher_gate
from critique_rl.config.algorithm import DistillationConfig
from critique_rl.loop.checkpoint import latest_checkpoint
from critique_rl.loop.train import Trainer
from critique_rl.protocols import StepReport
from critique_rl.schedule.refresh_gate import RefreshGate
from critique_rl.types import TrainSample
from tests.lab_runs import lab_config, lab_trainer, lines, run_lab
from tests.loop.fakes import CharPolicy
from tests.loop.test_train import Sampler, make

GATED = {"distillation": {"prompt": "lab_teacher", "teacher": "ema", "ema_rate": 1.0, "ema_every": 1, "gated": True}}


class Told(CharPolicy):
    """Remembers what each step was told about the teacher."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[bool | None] = []

    def step(self, samples: Sequence[TrainSample], *, refresh_teacher: bool | None = None) -> StepReport:
        self.told.append(refresh_teacher)
        return super().step(samples)


class Rising(RefreshGate):
    """Sees a reward that rises with every step."""

    def __init__(self) -> None:
        super().__init__(every=1)
        self.seen: list[float | None] = []

    def observe(self, *, reward: float | None, p95_tokens: float | None, truncated: float | None) -> bool:
        self.seen.append(reward)
        return super().observe(reward=float(len(self.seen)), p95_tokens=p95_tokens, truncated=truncated)


def gated(run_dir: Path, policy: Told, *, sampler: Sampler | None = None) -> tuple[Trainer, Rising]:
    trainer = make(run_dir, {"budget": {"max_steps": 3}}, policy=policy, sampler=sampler)
    gate = Rising()
    trainer = Trainer(trainer.config, replace(trainer.parts, teacher_gate=gate), run_dir)
    return trainer, gate


def test_the_gate_decides_and_the_policy_is_told(tmp_path: Path) -> None:
    policy = Told()
    trainer, gate = gated(tmp_path, policy)
    trainer.run()
    assert policy.told == [False, True, True]
    assert gate.seen == [0.0, 0.0, 0.0]  # the success of bare rollouts, not of refinements


def test_without_a_gate_the_teacher_keeps_its_own_schedule(tmp_path: Path) -> None:
    policy = Told()
    make(tmp_path, {"budget": {"max_steps": 2}}, policy=policy).run()
    assert policy.told == [None, None]


def test_it_is_built_where_the_run_asks_for_it() -> None:
    gate = build_teacher_gate(lab_config(GATED))
    assert gate is not None and gate.every == 1
    unsaid = {"distillation": {**GATED["distillation"], "ema_every": None}}
    assert getattr(build_teacher_gate(lab_config(unsaid)), "every", None) == 10
    assert build_teacher_gate(lab_config()) is None


def test_other_teachers_cannot_be_gated() -> None:
    with pytest.raises(ValidationError, match="gated = True has no effect with teacher = 'frozen'"):
        DistillationConfig(gated=True)


def test_a_resumed_run_with_a_gated_teacher_is_the_unbroken_one(tmp_path: Path) -> None:
    whole = lab_config({**GATED, "rollout": {"temperature": 4.0}, "budget": {"max_steps": 6}})
    run_lab(whole, tmp_path / "whole")
    first = lab_config({**GATED, "rollout": {"temperature": 4.0}, "budget": {"max_steps": 3}})
    run_lab(first, tmp_path / "broken")
    saved = latest_checkpoint(tmp_path / "broken" / "checkpoints")
    assert saved is not None and "teacher_gate" in saved.state
    resumed = lab_trainer(whole, tmp_path / "broken", saved=saved)
    resumed.run()
    resumed.parts.tracker.close()

    def figures(name: str) -> list[tuple[object, ...]]:
        rows = [row for row in lines(tmp_path / name / "metrics.jsonl") if "loss/total" in row]
        keys = ("loss/total", "teacher/refreshes", "teacher/held", "teacher/refreshed")
        return [tuple(row[key] for key in keys) for row in rows]

    assert figures("broken") == figures("whole")
    assert any(row[1] or row[2] for row in figures("whole"))

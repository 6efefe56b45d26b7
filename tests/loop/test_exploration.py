"""The guard inside a run: what it sees, when its knobs hold, going back, and a resumed run that acts as before."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from critique_rl.algorithms.grpo import Grpo
from critique_rl.config.algorithm import GrpoConfig
from critique_rl.config.run import RunConfig
from critique_rl.errors import EngineError
from critique_rl.loop.checkpoint import latest_checkpoint
from critique_rl.loop.exploration import note_probe, rollout_now, zero_variance
from critique_rl.loop.parts import Parts
from critique_rl.loop.train import Trainer
from critique_rl.policy.hf import HFPolicy
from critique_rl.protocols import StepReport
from critique_rl.schedule.plateau import PlateauTracker
from critique_rl.types import Group, Knobs, Score, ScoreStatus
from tests.lab_runs import lab_config, lab_trainer, lines, run_lab, same_weights, weights
from tests.loop.fakes import CharPolicy, ExactReward, Memory, engine, task
from tests.loop.test_train import TwoTasks

Tree = dict[str, object]


class Script:
    """A guard that says what it is told to, by step; remembers what it saw."""

    def __init__(self, knobs: Mapping[int, Knobs] | None = None, *, back: Mapping[int, int] | None = None) -> None:
        self.by_step = dict(knobs or {})
        self.back = dict(back or {})
        self.step = 0
        self.stop_at: int | None = None
        self.seen: list[dict[str, float | None]] = []
        self.probes: list[tuple[float, float, int]] = []
        self.trained: list[tuple[float, float | None]] = []
        self.saved: list[int] = []

    def observe(self, step: int, **figures: float | None) -> None:
        self.seen.append(figures)
        self.step = step + 1

    def observe_probe(self, *, pass_at_1: float, pass_at_k: float, tasks: int) -> None:
        self.probes.append((pass_at_1, pass_at_k, tasks))

    def note_training(self, *, grad_norm: float, clip_fraction: float | None) -> None:
        self.trained.append((grad_norm, clip_fraction))

    def note_checkpoint(self, step: int) -> int | None:
        self.saved.append(step)
        return min(self.saved)

    def take_rollback(self) -> int | None:
        return self.back.get(self.step)

    @property
    def knobs(self) -> Knobs:
        return self.by_step.get(self.step, Knobs())

    @property
    def stop_reason(self) -> str:
        return "enough" if self.step == self.stop_at else ""

    def messages(self) -> Sequence[str]:
        return [f"seen {self.step}"]

    def figures(self) -> Mapping[str, float]:
        return {"exploration/state": 0.0}

    def state_dict(self) -> dict[str, object]:
        return {"step": self.step}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.step = cast(int, state["step"])


class Wide(CharPolicy):
    """Reports a gradient norm and a clip fraction."""

    def step(self, samples: object, *, refresh_teacher: bool | None = None) -> StepReport:
        report = super().step([], refresh_teacher=refresh_teacher)
        return report._replace(grad_norm=0.5, diagnostics={"ratio/clip_fraction": 0.25})


class Heard:
    """Remembers the temperature of each call."""

    def __init__(self) -> None:
        self.temperatures: list[float] = []
        self.fail_at: int | None = None

    def generate(self, prompts: object, *, temperature: float, **options: object) -> list[object]:
        self.temperatures.append(temperature)
        if len(self.temperatures) == self.fail_at:
            raise EngineError("gone")
        return engine("2", "9").generate(prompts, temperature=temperature, **options)  # pyright: ignore[reportArgumentType, reportReturnType]


def trainer_of(guard: Script, run_dir: Path, *, sampler: Heard | None = None, **sections: object) -> Trainer:
    base: Tree = {
        "rollout": {"prompts_per_step": 2, "group_size": 2, "max_tokens": 4, "temperature": 0.8},
        "budget": {"max_steps": 4},
        "evaluation": {"every": 0},
    }
    config = RunConfig.model_validate(base | sections)
    parts = Parts(
        tasks=TwoTasks(),
        policy=Wide(),
        engine=sampler or Heard(),  # pyright: ignore[reportArgumentType]
        reward=ExactReward(),
        plateau=PlateauTracker(config.plateau, total_steps=4),
        algorithm=Grpo(GrpoConfig()),
        tracker=Memory(),
        exploration=guard,
    )
    return Trainer(config, parts, run_dir)


def test_knobs_hold_from_the_step_after_in_sampling_and_training_alike(tmp_path: Path) -> None:
    guard, sampler = Script({2: Knobs(temperature=0.1), 3: Knobs()}), Heard()
    trainer = trainer_of(guard, tmp_path, sampler=sampler)
    trainer.run()
    policy = cast(CharPolicy, trainer.parts.policy)
    assert policy.knobs == [Knobs(), Knobs(), Knobs(temperature=0.1), Knobs()]
    # an evaluation before and after, at its own temperature
    assert sampler.temperatures[1:-1] == pytest.approx([0.8, 0.8, 0.9, 0.8])


def test_the_weight_of_a_bonus_alone_counts_in_the_step_whose_entropy_moved_it(tmp_path: Path) -> None:
    # after the first observation the guard says .005 and a higher temperature, after the third nothing any more
    raised = Knobs(entropy_weight=0.005, temperature=0.1)
    guard, sampler = Script({1: raised, 2: replace(raised, entropy_weight=0.0), 3: Knobs()}), Heard()
    trainer = trainer_of(guard, tmp_path, sampler=sampler)
    trainer.run()
    policy = cast(CharPolicy, trainer.parts.policy)
    assert policy.knobs == [
        Knobs(),  # step 1 as it begins, then as it trains
        Knobs(entropy_weight=0.005),
        raised,
        Knobs(entropy_weight=0.0, temperature=0.1),
        Knobs(entropy_weight=0.0, temperature=0.1),
        Knobs(temperature=0.1),
        Knobs(),
    ]
    assert sampler.temperatures[1:-1] == pytest.approx([0.8, 0.9, 0.9, 0.8])


def test_what_the_guard_sees_and_what_is_told_of_it(tmp_path: Path) -> None:
    guard = Script()
    trainer = trainer_of(guard, tmp_path)
    trainer.run()
    assert len(guard.seen) == 4 and guard.trained == [(0.5, 0.25)] * 4
    assert guard.seen[0].keys() == {
        "entropy",
        "success",
        "truncated",
        "p95_tokens",
        "zero_variance",
        "strategy_entropy",
    }
    assert guard.seen[0]["success"] == 0.25 and guard.seen[0]["strategy_entropy"] is None
    # rollouts of the first task: right, wrong; of the second: wrong twice
    assert guard.seen[0]["zero_variance"] == 0.5
    memory = cast(Memory, trainer.parts.tracker)
    assert any(kind == "exploration" and message == "seen 1" for _, kind, message in memory.events)
    assert guard.saved == [4]


def test_a_guard_ends_a_run(tmp_path: Path) -> None:
    guard = Script()
    guard.stop_at = 2
    trainer = trainer_of(guard, tmp_path)
    trainer.run()
    assert trainer.progress.step == 2 and trainer.stopped_because == "enough"


def test_a_rollback_takes_up_the_pinned_weights_though_newer_ones_crowd_it_out(tmp_path: Path) -> None:
    guard = Script(back={3: 1})
    trainer = trainer_of(guard, tmp_path, checkpoint={"every": 1, "keep": 1})
    trainer.run()
    # version 1 after step 1; 3 after step 3; back to 1, and one more
    assert cast(CharPolicy, trainer.parts.policy).version == 2
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-000001", "step-000004"]
    told = [message for _, kind, message in cast(Memory, trainer.parts.tracker).events if kind == "exploration"]
    assert "weights and optimizer are those after step 1 again; counters and memories go on" in told


def test_a_step_that_is_broken_off_is_not_remembered(tmp_path: Path) -> None:
    guard, sampler = Script(), Heard()
    sampler.fail_at = 4  # the evaluation, two steps, and then the third
    trainer = trainer_of(guard, tmp_path, sampler=sampler)
    with pytest.raises(EngineError):
        trainer.run()
    saved = latest_checkpoint(tmp_path / "checkpoints")
    assert saved is not None and saved.state["exploration"] == {"step": 2}


def group(*scores: Score) -> Group:
    return Group(task=task("a"), rollouts=(), scores=scores)


def test_the_share_of_groups_that_teach_nothing() -> None:
    broken = Score(reward=0.0, status=ScoreStatus.ERROR)
    right, wrong = Score(reward=1.0), Score(reward=0.0)
    assert zero_variance([]) is None
    assert zero_variance([group(right), group(broken, broken)]) is None
    assert zero_variance([group(right, right), group(right, wrong), group(wrong, wrong, broken)]) == pytest.approx(
        2 / 3
    )
    assert zero_variance([group(right, broken, wrong)]) == 0.0


class Probed:
    """Monitors of a probe's figures and nothing else."""

    def __init__(self, figures: Mapping[str, float]) -> None:
        self._figures = figures

    def probe_figures(self) -> Mapping[str, float]:
        return self._figures


def test_a_probe_is_handed_on_with_its_largest_k(tmp_path: Path) -> None:
    guard = Script()
    config = RunConfig.model_validate({"monitors": {"probe_tasks": 30, "probe_samples": 8}})
    parts = trainer_of(guard, tmp_path).parts
    figures = {f"monitor/probe/pass@{k}": v for k, v in {"1": 0.2, "2": 0.3, "8": 0.5, "8/rounds_2": 0.4}.items()}
    note_probe(config, replace(parts, monitors=Probed({**figures, "monitor/probe/pass^8": 0.1})))  # pyright: ignore[reportArgumentType]
    note_probe(config, replace(parts, monitors=Probed({"monitor/probe/pass@1": 0.2})))  # pyright: ignore[reportArgumentType]
    note_probe(config, parts)
    assert guard.probes == [(0.2, 0.5, 1)]  # there is one held-out task


def test_without_a_guard_the_run_s_own_section_is_used(tmp_path: Path) -> None:
    trainer = trainer_of(Script(), tmp_path)
    assert rollout_now(trainer.config, replace(trainer.parts, exploration=None)) is trainer.config.rollout


# the real guard, in a real run

SHORT: Tree = {
    "policy": {"model": "lab_guess", "device": "cpu", "threads": 1},
    "tasks": {"kind": "lab_guess", "held_out": 2},  # guesses, so that groups differ
    "rewards": {
        "guess": {
            "kind": "with_confidence",
            "pattern": "^(?P<answer>[0-9]{2}) c(?P<confidence>[0-9])$",
            "form": "... c7",
            "divide_by": 9.0,
        }
    },
    "rollout": {"prompts_per_step": 4, "group_size": 4, "max_tokens": 6},
    "algorithm": {"name": "grpo"},
    "optimizer": {"learning_rate": 3e-4, "updates_per_step": 2},
    "loss": {"normalizer": "tokens", "clip_cov_share": 0.1, "clip_cov_band": [-9.0, 9.0]},
    "budget": {"max_steps": 12},
    "evaluation": {"every": 0},
    "report": {"samples_per_step": 0},
    "exploration": {"reference_steps": 4, "sustain_steps": 1},
    "checkpoint": {"every": 6},
}


def collapsing(trainer: Trainer) -> None:
    """Make the figures of strategies that a batch of the lab does not have: gone after the sixth step."""
    guard = trainer.parts.exploration
    assert guard is not None
    observe = guard.observe

    def observed(step: int, **figures: float | None) -> None:
        observe(step, **(figures | {"strategy_entropy": 1.0 if step < 5 else 0.01}))  # pyright: ignore[reportArgumentType]

    guard.observe = observed  # pyright: ignore[reportAttributeAccessIssue]


GOING_BACK: Tree = {
    "exploration": {"reference_steps": 4, "sustain_steps": 1, "actions": ["rollback", "raise_temperature"]},
    "checkpoint": {"every": 2},
}


@pytest.mark.parametrize(
    ("changes", "broken_after", "acted"), [({}, 9, "raise_clip_high"), (GOING_BACK, 8, "rollback")]
)
def test_a_resumed_run_equals_an_unbroken_one_while_the_guard_acts(
    tmp_path: Path, changes: Tree, broken_after: int, acted: str
) -> None:
    config = lab_config({**SHORT, **changes}, base={})
    whole = lab_trainer(config, tmp_path / "whole")
    collapsing(whole)
    whole.run()
    budget = config.budget.model_copy(update={"max_steps": broken_after})
    half = lab_trainer(config.model_copy(update={"budget": budget}), tmp_path / "half")
    collapsing(half)
    half.run()
    for trainer in (whole, half):
        trainer.parts.tracker.close()
    saved = latest_checkpoint(tmp_path / "half" / "checkpoints")
    assert saved is not None
    remembered = cast(Tree, saved.state["exploration"])
    assert [deed["action"] for deed in cast("list[Tree]", remembered["log"])] == [acted]
    assert remembered["rollback_to"] == (6 if acted == "rollback" else None)  # decided, and yet to come
    resumed = lab_trainer(config, tmp_path / "half", saved=saved)
    collapsing(resumed)
    resumed.run()
    resumed.parts.tracker.close()
    assert same_weights(weights(whole), weights(resumed))
    told, again = (
        [
            {key: value for key, value in row.items() if "time" not in key and key != "steps/total"}
            for row in lines(tmp_path / name / "metrics.jsonl")
            if "loss/total" in row
        ]
        for name in ("whole", "half")
    )
    assert len(told) == 12 and told == again
    assert sum(cast(float, row["updates/applied"]) for row in told) >= 8
    assert json.dumps(whole.parts.exploration and whole.parts.exploration.state_dict()) == json.dumps(
        resumed.parts.exploration and resumed.parts.exploration.state_dict()
    )
    policy = cast(HFPolicy, resumed.parts.policy)
    assert policy.train_step.config.loss.clip_high == pytest.approx(0.22 if acted == "raise_clip_high" else 0.2)
    taken = sum(cast(float, row["updates/applied"]) for row in told)
    assert (policy.version < taken) is (acted == "rollback")


def test_a_guard_that_turns_nothing_leaves_a_run_bit_for_bit_as_it_was(tmp_path: Path) -> None:
    changes = {key: value for key, value in SHORT.items() if key != "exploration"} | {"budget": {"max_steps": 4}}
    plain = run_lab(lab_config(changes, base={}), tmp_path / "plain")
    guarded = run_lab(lab_config({**changes, "exploration": {"mode": "warn"}}, base={}), tmp_path / "guarded")
    assert same_weights(weights(plain), weights(guarded))
    rows = [row for row in lines(tmp_path / "guarded" / "metrics.jsonl") if "loss/total" in row]
    assert all(row["exploration/state"] == 0.0 for row in rows)
    assert not any(math.isnan(cast(float, row["updates/applied"])) for row in rows)


def test_a_raised_temperature_keeps_the_ratio_at_one(tmp_path: Path) -> None:
    config = lab_config(
        {**SHORT, "loss": {}, "optimizer": {"learning_rate": 3e-4}, "budget": {"max_steps": 3}}, base={}
    )
    trainer = lab_trainer(config, tmp_path)
    parts = replace(trainer.parts, exploration=Script({step: Knobs(temperature=0.5) for step in range(1, 3)}))
    trainer = Trainer(config, parts, tmp_path)
    trainer.run()
    parts.tracker.close()
    ratios = [row["ratio/mean"] for row in lines(tmp_path / "metrics.jsonl") if "ratio/mean" in row]
    assert len(ratios) >= 2 and ratios == pytest.approx([1.0] * len(ratios), abs=1e-5)

"""Vitals by hand, and a run whose trip wires stop injection: what is spent, trained and taken back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import cast

import pytest

from critique_rl.config.guards import GuardsConfig
from critique_rl.loop import gather
from critique_rl.loop.checkpoint import latest_checkpoint
from critique_rl.loop.guards import Vitals, uninjected, vitals
from critique_rl.loop.parts import Parts
from critique_rl.loop.run_state import RunState
from critique_rl.loop.train import Trainer
from critique_rl.protocols import GRADIENT_CONFLICT, Guards, Policy, StepReport
from critique_rl.schedule.refresh_gate import RefreshGate
from critique_rl.schedule.trip_wires import TripWires
from critique_rl.types import Group, TrainSample
from tests.loop.fakes import CharPolicy, critique, group, task
from tests.loop.test_exploration import Script
from tests.loop.test_train import Sampler, make, memory

TIGHT = {"reference_steps": 1, "recent_steps": 1, "min_steps": 1, "sustain_steps": 1, "cooldown_steps": 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class Guarded(Parts):
    guards: Guards | None = None


class Scripted:
    """Trip wires that allow what a list says, one entry a step."""

    def __init__(self, allowed: Sequence[bool]) -> None:
        self.allowed = allowed
        self.seen: list[bool] = []
        self.conflicts: list[float | None] = []

    def observe(self, *, injecting: bool, conflict: float | None = None, **_: object) -> None:
        self.seen.append(injecting)
        self.conflicts.append(conflict)

    @property
    def allows_injection(self) -> bool:
        return not self.seen or self.allowed[len(self.seen) - 1]

    def message(self) -> str | None:
        return "tripped" if self.seen and not self.allows_injection else None

    def figures(self) -> Mapping[str, float]:
        return {"guards/allows_injection": float(self.allows_injection)}

    def state_dict(self) -> dict[str, object]:
        return {"seen": list(self.seen)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.seen = list(cast("list[bool]", state["seen"]))


def guarded(trainer: Trainer, guards: Guards) -> Trainer:
    own = {field.name: getattr(trainer.parts, field.name) for field in fields(trainer.parts) if field.name != "guards"}
    return Trainer(trainer.config, Guarded(**own, guards=guards), trainer.run_dir)


def test_vitals_by_hand() -> None:
    one = group(task(answer="42"), "42", "4", "!", "?")  # right, wrong, a verifier error, unreadable
    cut = replace(one, rollouts=(replace(one.rollouts[0], finished=False), *one.rollouts[1:]))
    seen = vitals([cut])
    # 3, 2, 2 and 2 ids with the end; every log-prob is -1
    assert (seen.p50_tokens, seen.entropy, seen.truncated) == (2.0, 1.0, 0.25)
    assert seen.p95_tokens == pytest.approx(2.85)  # 2 + 0.85 of the way from the third to the fourth of (2, 2, 2, 3)
    assert seen.success == pytest.approx(1 / 3)
    assert seen.success_by_kind == {cut.task.kind: seen.success}
    other = replace(one, task=replace(one.task, kind="other"), scores=one.scores[1:2] * 4)
    assert vitals([cut, other, cut]).success_by_kind == pytest.approx({cut.task.kind: 1 / 3, "other": 0.0})
    assert vitals([]) == (None, None, None, None, None, {})
    unknown = replace(one, rollouts=tuple(replace(r, behaviour_logprobs=()) for r in one.rollouts))
    assert vitals([unknown]).entropy is None


def test_one_reading_of_a_step_serves_wires_guard_and_teacher_and_none_is_made_for_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Vitals] = []
    seen: dict[str, list[object]] = {"wires": [], "guard": [], "gate": []}

    def counted(groups: Sequence[Group]) -> Vitals:
        read.append(vitals(groups))
        return read[-1]

    class Wires(Scripted):
        def observe(self, *, injecting: bool, conflict: float | None = None, **figures: object) -> None:
            seen["wires"].append((figures["entropy"], figures["success"], figures["p95_tokens"]))
            super().observe(injecting=injecting, conflict=conflict)

    class Explored(Script):
        def observe(self, step: int, **figures: float | None) -> None:
            seen["guard"].append((figures["entropy"], figures["success"], figures["p95_tokens"]))
            super().observe(step, **figures)

    class Gate(RefreshGate):
        def observe(self, *, reward: float | None, p95_tokens: float | None, truncated: float | None) -> bool:
            seen["gate"].append((read[-1].entropy, reward, p95_tokens))
            return super().observe(reward=reward, p95_tokens=p95_tokens, truncated=truncated)

    monkeypatch.setattr(gather, "vitals", counted)
    make(tmp_path / "plain").run()
    assert read == []
    trainer = guarded(make(tmp_path / "watched"), Wires([True] * 5))
    parts = replace(trainer.parts, exploration=Explored(), teacher_gate=Gate(every=1))
    Trainer(trainer.config, parts, trainer.run_dir).run()
    assert len(read) == 5
    assert seen["wires"] == seen["guard"] == seen["gate"] == [(r.entropy, r.success, r.p95_tokens) for r in read]


def test_a_group_without_injection_keeps_only_what_the_verifier_said() -> None:
    full = replace(group(task(), "41", "40"), critiques={"t/0": critique("t/0")})
    (bare,) = uninjected([full])
    assert (bare.rollouts, bare.scores) == (full.rollouts, full.scores)
    assert bare.critiques == {} and not bare.plateaued


def test_a_run_without_trip_wires_and_one_whose_wires_are_quiet_train_alike(tmp_path: Path) -> None:
    plain, watched = make(tmp_path / "plain"), guarded(make(tmp_path / "watched"), Scripted([True] * 5))
    plain.run()
    watched.run()

    def trained(trainer: Trainer) -> list[list[str]]:
        return [[s.rollout_id for s in batch] for batch in cast(CharPolicy, trainer.parts.policy).trained]

    assert trained(plain) == trained(watched)
    assert plain.progress.critic.outcomes == watched.progress.critic.outcomes


def test_a_trip_stops_refinements_targets_and_calls_at_once_and_until_it_is_over(tmp_path: Path) -> None:
    # both prompts are plateaued at the second step; the wires trip at the third and are quiet again after the fourth
    trainer = guarded(make(tmp_path), Scripted([True, True, False, False, True]))
    trainer.run()
    steps = memory(trainer).steps()
    # the calls of the third step were out before its rollouts had been looked at
    assert [s["critic/step_calls"] for s in steps] == [0, 4, 4, 0, 0]
    assert [s["refinement/sampled"] for s in steps] == [0, 4, 0, 0, 0]
    assert [s["guards/allows_injection"] for s in steps] == [1, 1, 0, 0, 1]
    assert [(step, told) for step, kind, told in memory(trainer).events if kind == "guards"] == [
        (3, "tripped"),
        (4, "tripped"),
    ]
    batches = cast(CharPolicy, trainer.parts.policy).trained
    assert [len(b) for b in batches] == [4, 6, 4, 4, 4]
    assert all(s.teacher is None and not s.imitate_weight.any() for b in batches[2:] for s in b)


def test_injection_begins_with_the_first_critic_call(tmp_path: Path) -> None:
    wires = Scripted([True] * 5)
    guarded(make(tmp_path), wires).run()
    assert wires.seen == [False, False, True, True, True]  # called in the second step, after its rollouts


class Measuring:
    """A policy whose k-th step finds a cosine of -k / 10, or none where `gaps` names it."""

    def __init__(self, policy: Policy, gaps: Sequence[int]) -> None:
        self._policy = policy
        self._gaps = gaps

    def __getattr__(self, name: str) -> object:
        return getattr(self._policy, name)

    def step(self, samples: Sequence[TrainSample], *, refresh_teacher: bool | None = None) -> StepReport:
        report = self._policy.step(samples, refresh_teacher=refresh_teacher)
        found = {} if self._policy.version in self._gaps else {GRADIENT_CONFLICT: -self._policy.version / 10}
        return report._replace(diagnostics={**report.diagnostics, **found})


def measuring(trainer: Trainer, guards: Guards) -> Trainer:
    parts = guarded(trainer, guards).parts
    own = {field.name: getattr(parts, field.name) for field in fields(parts)}
    own["policy"] = Measuring(parts.policy, gaps=(2,))
    return Trainer(trainer.config, Guarded(**own), trainer.run_dir)


def test_the_wires_hear_of_the_conflict_in_the_step_before(tmp_path: Path) -> None:
    wires = Scripted([True] * 5)
    measuring(make(tmp_path), wires).run()
    assert wires.conflicts == [None, -0.1, None, -0.3, -0.4]


def test_a_resumed_run_still_knows_the_conflict_of_its_latest_step(tmp_path: Path) -> None:
    broken = measuring(make(tmp_path, sampler=Sampler(stop_at=4)), Scripted([True] * 5))
    broken.run()
    saved = latest_checkpoint(tmp_path / "checkpoints")
    assert saved is not None
    taken = broken.progress.step
    assert saved.state["conflict"] == (None if taken in (0, 2) else -taken / 10)
    wires = Scripted([True] * 5)
    resumed = guarded(make(tmp_path), wires)
    resumed.resume(saved)
    resumed.run()
    assert wires.conflicts[0] == saved.state["conflict"]


def test_a_checkpoint_from_before_there_was_a_conflict_is_taken_up(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    trainer.run()
    saved = latest_checkpoint(tmp_path / "checkpoints")
    assert saved is not None
    old = {name: value for name, value in saved.state.items() if name != "conflict"}
    again = RunState(trainer.parts)
    again.take_up(old)
    assert again.conflict is None and again.progress.step == trainer.progress.step


@pytest.mark.parametrize("call", [3, 5, 6])
def test_a_broken_off_step_is_taken_back_from_the_wires_too(tmp_path: Path, call: int) -> None:
    def wires() -> TripWires:
        return TripWires(GuardsConfig.model_validate(TIGHT))

    def last_state(trainer: Trainer) -> str:
        saved = latest_checkpoint(trainer.run_dir / "checkpoints")
        assert saved is not None
        return json.dumps(saved.state["guards"])

    straight = guarded(make(tmp_path / "straight"), wires())
    straight.run()
    broken = guarded(make(tmp_path / "run", sampler=Sampler(stop_at=call)), wires())
    broken.run()
    saved = latest_checkpoint(tmp_path / "run/checkpoints")
    assert saved is not None
    resumed = guarded(make(tmp_path / "run"), wires())
    resumed.resume(saved)
    resumed.run()
    assert last_state(resumed) == last_state(straight)


def test_a_failed_step_never_serialises_the_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = make(tmp_path, sampler=Sampler(stop_at=4))
    plateau = trainer.parts.plateau
    own: Callable[[], dict[str, object]] = plateau.state_dict
    asked: list[int] = []

    def counted() -> dict[str, object]:
        asked.append(trainer.progress.step)
        return own()

    monkeypatch.setattr(plateau, "state_dict", counted)
    trainer.run()
    assert asked == [1]  # the checkpoint alone

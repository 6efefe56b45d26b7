"""When each stage runs, what is counted, and what is on disk when a run stops early. The model is a fake."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from critique_rl.algorithms.directive_distillation import DirectiveDistillation
from critique_rl.algorithms.grpo import Grpo
from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.config.algorithm import DirectiveDistillationConfig, GrpoConfig, TwoChannelConfig
from critique_rl.config.load import merge, validate
from critique_rl.config.run import RunConfig
from critique_rl.critics.scripted import FailingCritic, ScriptedCritic
from critique_rl.errors import CheckpointError, CriticSetupError
from critique_rl.loop.checkpoint import latest_checkpoint
from critique_rl.loop.parts import Parts
from critique_rl.loop.progress import Progress
from critique_rl.loop.train import Trainer
from critique_rl.protocols import Algorithm, Critic, Skipped, StepReport
from critique_rl.schedule.plateau import PlateauTracker
from critique_rl.types import Completion, CriticOutcome, CriticRequest, Critique, Task, TokenIds, TrainSample
from tests.loop.fakes import TEMPLATE, CharPolicy, ExactReward, Memory, engine, task

REPLY = '{"directives": [{"text": "Count six sevens.", "kind": "procedure", "quote": null}], "scores": {}}'
Tree = dict[str, object]
BASE: Tree = {
    "algorithm": {"name": "two_channel"},
    "critic": {"kind": "scripted", "replies": [REPLY]},
    "plateau": {"min_failures": 4, "max_success": 0.6},
    "rollout": {"prompts_per_step": 2, "group_size": 2, "max_tokens": 4},
    "budget": {"max_steps": 5},
    "evaluation": {"every": 0},
    "report": {"every": 1},
}


class TwoTasks:
    """The same two prompts at every step, one of which is held out under another name."""

    def batch(self, step: int, size: int, *, seed: int) -> Sequence[Task]:
        return [task("a", question="1+1=", answer="2"), task("b", question="6*7=", answer="42")][:size]

    def held_out(self) -> Sequence[Task]:
        return [task("h", kind="hard")]


class Sampler:
    """Wrong answers to bare prompts, right ones under a directive; `stop_at` names a call that is interrupted."""

    def __init__(self, *, stop_at: int | None = None, error: type[BaseException] = KeyboardInterrupt) -> None:
        self.calls = 0
        self.stop_at = stop_at
        self.error = error

    def generate(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        on_done: Callable[[int, Completion], None] | None = None,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        self.calls += 1
        if self.calls == self.stop_at:
            raise self.error()
        guided = "Count" in CharPolicy().decode(prompts[0])
        return engine("2" if guided else "9", "42" if guided else "8").generate(
            prompts, max_tokens=max_tokens, temperature=temperature, seed=seed, on_done=on_done
        )


def config_of(changes: Tree) -> RunConfig:
    return validate(merge(BASE, changes), source="test")


def make(
    run_dir: Path,
    changes: Tree | None = None,
    *,
    sampler: Sampler | None = None,
    policy: CharPolicy | None = None,
    critic: Critic | None = None,
    algorithm: Algorithm | None = None,
) -> Trainer:
    config = config_of(changes or {})
    chosen = algorithm or TwoChannel(TwoChannelConfig())
    parts = Parts(
        tasks=TwoTasks(),
        policy=policy or CharPolicy(),
        engine=sampler or Sampler(),
        reward=ExactReward(),
        plateau=PlateauTracker(config.plateau),
        algorithm=chosen,
        tracker=Memory(),
        critic=critic if critic is not None else ScriptedCritic([REPLY]),
        refine_template=TEMPLATE if "refinement" in chosen.needs else None,
        teacher_template=TEMPLATE if "teacher" in chosen.needs else None,
    )
    return Trainer(config, parts, run_dir)


def memory(trainer: Trainer) -> Memory:
    assert isinstance(trainer.parts.tracker, Memory)
    return trainer.parts.tracker


def kinds(trainer: Trainer) -> list[tuple[int, str]]:
    return [(step, kind) for step, kind, _ in memory(trainer).events]


def evaluated(trainer: Trainer) -> list[int]:
    return [cast(int, e["step"]) for e in trainer.progress.evaluations]


# -- a run that ends by itself -----------------------------------------------------------------------------------------


def test_the_stall_is_told_before_the_first_critic_call(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    trainer.run()
    # two rollouts a visit: four failures of each prompt after the second step
    assert kinds(trainer) == [(0, "evaluation"), (2, "stall"), (2, "critic"), (5, "evaluation")]
    assert memory(trainer).events[2][2] == "first critic call: 2 of 2 prompts of this step are plateaued"
    assert trainer.progress.first_critic_step == 1 == trainer.parts.plateau.first_stall_step
    calls = [values["critic/step_calls"] for values in memory(trainer).steps()]
    assert calls[:2] == [0.0, 4.0]
    assert trainer.stopped_because == "step budget spent"


def test_what_is_counted_by_hand(tmp_path: Path) -> None:
    trainer = make(tmp_path, {"budget": {"max_steps": 2}})
    trainer.run()
    first, second = memory(trainer).steps()
    assert first["tokens/generated"] == 8.0  # four rollouts of one character and an end
    # the second step adds 4 refinements: "2" and "42" in turn; max_attempts leaves all 2 attempts of both prompts
    assert second["tokens/generated"] == 8.0 + 8.0 + 2 * 2 + 2 * 3
    assert (second["critic/calls"], second["critic/ok"], second["critic/directives"]) == (4.0, 4.0, 4.0)
    assert (second["refinement/sampled"], second["refinement/verified"]) == (4.0, 2.0)
    assert second["refinement/injected"] == 2.0 == trainer.progress.injected
    assert trainer.progress.critic.outcomes == {"ok": 4}
    assert [len(samples) for samples in cast(CharPolicy, trainer.parts.policy).trained] == [4, 6]


def test_grpo_watches_but_asks_nobody(tmp_path: Path) -> None:
    trainer = make(tmp_path, {"algorithm": {"name": "grpo"}, "critic": {"kind": "none"}}, algorithm=Grpo(GrpoConfig()))
    trainer.run()
    assert kinds(trainer) == [(0, "evaluation"), (2, "stall"), (5, "evaluation")]
    assert trainer.progress.critic.calls == 0


def test_the_generated_token_budget_ends_the_run_after_the_step_that_spends_it(tmp_path: Path) -> None:
    trainer = make(
        tmp_path,
        {"budget": {"max_generated_tokens": 17}, "algorithm": {"name": "grpo"}, "critic": {"kind": "none"}},
        algorithm=Grpo(GrpoConfig()),
    )
    trainer.run()
    assert trainer.stopped_because == "generated-token budget spent"
    assert (trainer.progress.step, trainer.progress.generated_tokens) == (3, 24)  # 8 a step: 8, 16, 24


@pytest.mark.parametrize(("every", "steps"), [(0, [0, 5]), (2, [0, 2, 4, 5]), (5, [0, 5])])
def test_evaluations_come_when_due_and_once(tmp_path: Path, every: int, steps: list[int]) -> None:
    trainer = make(tmp_path, {"evaluation": {"every": every}})
    trainer.run()
    assert evaluated(trainer) == steps
    assert [step for step, values in memory(trainer).logs if "eval/hard" in values] == steps


def test_checkpoints_come_when_due_and_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved: list[int] = []
    monkeypatch.setattr(CharPolicy, "save", lambda self, directory: saved.append(self.version))  # pyright: ignore
    make(tmp_path / "a", {"checkpoint": {"every": 2, "keep": 9}}).run()
    assert saved == [2, 4, 5]
    saved.clear()
    make(tmp_path / "b", {"checkpoint": {"every": 5}}).run()
    assert saved == [5]


def test_the_first_story_with_a_critic_is_told_out_of_turn(tmp_path: Path) -> None:
    trainer = make(tmp_path, {"report": {"every": 4, "samples_per_step": 1}})
    trainer.run()
    assert [step for step, _ in memory(trainer).samples] == [1, 2, 5]
    trainer = make(tmp_path, {"report": {"samples_per_step": 0}})
    trainer.run()
    assert memory(trainer).samples == []


def test_groups_without_a_failure_are_no_critic_call(tmp_path: Path) -> None:
    class Solved(Sampler):
        def generate(self, prompts: Sequence[TokenIds], *, on_done: Any = None, **_: object) -> list[Completion]:  # pyright: ignore
            rights = [CharPolicy().decode(p).partition("user: ")[2] for p in prompts]
            texts = ["2" if q == "1+1=" else "42" for q in rights]
            return engine(*texts).generate(prompts, max_tokens=4, temperature=1.0, seed=0, on_done=on_done)

    trainer = make(tmp_path, {"plateau": {"mode": "always"}}, sampler=Solved())
    trainer.run()
    assert kinds(trainer) == [(0, "evaluation"), (5, "evaluation")]
    assert trainer.progress.first_critic_step is None


def test_a_step_that_was_skipped_for_its_gradient_is_told(tmp_path: Path) -> None:
    class Exploding(CharPolicy):
        def step(self, samples: Sequence[TrainSample]) -> StepReport:
            seen = super().step(samples)
            return seen._replace(applied=False, skipped=Skipped.NOT_FINITE, reason="the gradient norm is nan")

    trainer = make(tmp_path, {"budget": {"max_steps": 1}}, policy=Exploding())
    trainer.run()
    assert (1, "skipped", "the step was skipped: the gradient norm is nan") in memory(trainer).events
    assert trainer.progress.skipped_steps == 1


# -- a critic that is of no use ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("outcome", [CriticOutcome.FAILED, CriticOutcome.TIMED_OUT])
def test_a_critic_that_always_fails_is_told_at_the_end(tmp_path: Path, outcome: CriticOutcome) -> None:
    trainer = make(tmp_path, critic=FailingCritic(outcome=outcome))
    trainer.run()
    message = f"all 16 critic calls failed ({outcome}: 16); the run trained as scalar GRPO"
    assert memory(trainer).events[-1] == (5, "critic", message)
    last = memory(trainer).steps()[-1]
    assert last[f"critic/outcome/{outcome}"] == last["critic/failed"] == last["critic/calls"] == 16.0
    assert last["critic/ok"] == last["refinement/sampled"] == 0.0


def test_a_method_without_any_other_signal_says_so(tmp_path: Path) -> None:
    class Idle(CharPolicy):
        def step(self, samples: Sequence[TrainSample]) -> StepReport:
            return StepReport(0.0, 0.0, 0.0, 0.0, 0.0, 0, False, "no sample carries a gradient", {})

    trainer = make(
        tmp_path,
        {"algorithm": {"name": "directive_distillation"}},
        critic=FailingCritic(),
        algorithm=DirectiveDistillation(DirectiveDistillationConfig()),
        policy=Idle(),
    )
    trainer.run()
    assert memory(trainer).events[-1][2] == "all 16 critic calls failed (failed: 16); no step had anything to train on"


class Unusable:
    """Answers twice, and then its setup turns out to be wrong."""

    name = "unusable"

    def __init__(self) -> None:
        self.scripted = ScriptedCritic([REPLY])
        self.reviews = 0

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]:
        self.reviews += 1
        if self.reviews == 3:
            raise CriticSetupError("critic: the key was revoked; set another")
        return self.scripted.review(requests)

    def close(self) -> None:
        pass


def test_a_critic_that_can_never_answer_stops_the_run_with_everything_on_disk(tmp_path: Path) -> None:
    trainer = make(tmp_path, critic=Unusable())
    with pytest.raises(CriticSetupError, match="revoked"):
        trainer.run()
    saved = latest_checkpoint(tmp_path / "checkpoints")
    assert saved is not None and saved.directory.name == "step-000003"
    assert without_time(dict(saved.state)) == without_time(as_json(expected_after(tmp_path / "other", 3)))


# -- Ctrl-C and kills --------------------------------------------------------------------------------------------------


def as_json(trainer: Trainer) -> Tree:
    # No conflict between gradients is measured on this policy.
    state = {"progress": trainer.progress.to_json(), "conflict": None, "plateau": trainer.parts.plateau.state_dict()}
    state["late_critiques"] = {"groups": [], "questions": []}
    return json.loads(json.dumps(state))


def without_time(state: Tree) -> Tree:
    progress = {key: value for key, value in cast(Tree, state["progress"]).items() if key != "wall_s"}
    return {**state, "progress": progress}


def expected_after(run_dir: Path, steps: int) -> Trainer:
    """A run of five steps that was stopped cleanly between two steps."""
    trainer = make(run_dir)
    trainer._evaluate_if_due()  # pyright: ignore[reportPrivateUsage]
    for _ in range(steps):
        trainer._whole_step()  # pyright: ignore[reportPrivateUsage]
    return trainer


# the calls of the engine: evaluation, step 1, step 2 and its refinements, step 3 and its refinements, ...
@pytest.mark.parametrize(("call", "steps"), [(2, 0), (3, 1), (4, 1), (5, 2), (6, 2)])
def test_ctrl_c_saves_the_state_before_the_broken_step(tmp_path: Path, call: int, steps: int) -> None:
    trainer = make(tmp_path / "run", sampler=Sampler(stop_at=call))
    trainer.run()
    assert trainer.stopped_because == "interrupted"
    assert memory(trainer).events[-1][:2] == (steps, "stop")
    saved = latest_checkpoint(tmp_path / "run/checkpoints")
    assert saved is not None and saved.directory.name == f"step-{steps:06d}"
    clean = as_json(expected_after(tmp_path / "clean", steps))
    assert without_time(dict(saved.state)) == without_time(clean)


def test_ctrl_c_in_the_first_and_in_the_last_evaluation_saves_too(tmp_path: Path) -> None:
    first = make(tmp_path / "first", sampler=Sampler(stop_at=1))
    first.run()
    assert latest_checkpoint(tmp_path / "first/checkpoints") is not None
    whole = make(tmp_path / "whole")
    whole.run()
    last = make(tmp_path / "last", sampler=Sampler(stop_at=cast(Sampler, whole.parts.engine).calls))
    last.run()
    assert (last.stopped_because, last.progress.step, evaluated(last)) == ("interrupted", 5, [0])
    saved = latest_checkpoint(tmp_path / "last/checkpoints")
    assert saved is not None
    resumed = make(tmp_path / "last")
    resumed.resume(saved)
    resumed.run()
    assert evaluated(resumed) == [0, 5]
    assert resumed.stopped_because == "step budget spent"


def test_ctrl_c_during_the_optimiser_step_lets_it_end(tmp_path: Path) -> None:
    class Pressed(CharPolicy):
        def step(self, samples: Sequence[TrainSample]) -> StepReport:
            if self.version == 2:
                os.kill(os.getpid(), signal.SIGINT)
            return super().step(samples)

    trainer = make(tmp_path, policy=Pressed())
    trainer.run()
    assert (trainer.stopped_because, trainer.progress.step, trainer.parts.policy.version) == ("interrupted", 3, 3)
    assert len(memory(trainer).steps()) == 3


@pytest.mark.parametrize("call", [2, 4, 5, 6])
def test_an_interrupted_run_goes_on_as_if_nothing_had_happened(tmp_path: Path, call: int) -> None:
    straight = make(tmp_path / "straight", {"evaluation": {"every": 1}})
    straight.run()
    broken = make(tmp_path / "run", {"evaluation": {"every": 1}}, sampler=Sampler(stop_at=call))
    broken.run()
    saved = latest_checkpoint(tmp_path / "run/checkpoints")
    assert saved is not None
    resumed = make(tmp_path / "run", {"evaluation": {"every": 1}})
    resumed.resume(saved)
    resumed.run()
    assert without_time(as_json(resumed)) == without_time(as_json(straight))
    kept = [
        entry for entry in memory(broken).logs if entry[0] <= cast(int, cast(Tree, saved.state["progress"])["step"])
    ]
    assert kept + memory(resumed).logs == memory(straight).logs


def test_progress_survives_json(tmp_path: Path) -> None:
    trainer = make(tmp_path)
    trainer.run()
    again = Progress.from_json(json.loads(json.dumps(trainer.progress.to_json())))
    assert again == trainer.progress


@pytest.mark.parametrize("change", [{"critic": None}, {"new_field": 1}])
def test_progress_of_another_version_is_one_clear_error(change: Tree) -> None:
    with pytest.raises(CheckpointError, match="another version"):
        Progress.from_json({**Progress().to_json(), **change})

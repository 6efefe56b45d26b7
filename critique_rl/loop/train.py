"""The loop itself: one method a stage, in the order of the sentence.

    task -> rollout -> reward -> plateau -> critic -> refinement and targets -> advantages -> one step -> record

Owns: when each stage runs and what is counted. Must not know: any concrete critic, engine, policy or method.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

from critique_rl.config.run import RunConfig
from critique_rl.errors import CheckpointError, CritiqueRLError
from critique_rl.loop.checkpoint import SavedRun, save_checkpoint
from critique_rl.loop.collect import collect
from critique_rl.loop.criticize import CriticTally, criticize
from critique_rl.loop.evaluate import Success, evaluate
from critique_rl.loop.interrupts import interrupts_held
from critique_rl.loop.metrics import critic_metrics, group_metrics
from critique_rl.loop.refine import refine
from critique_rl.loop.seeds import derive_seed
from critique_rl.loop.stories import tell
from critique_rl.loop.targets import teach
from critique_rl.prompting.template import PromptTemplate
from critique_rl.protocols import (
    Algorithm,
    Critic,
    GroupState,
    Plateau,
    Policy,
    Reward,
    RolloutEngine,
    StepReport,
    TaskSource,
    Tracker,
)
from critique_rl.types import Group, TrainSample


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Every live object of a run, behind its protocol; `critic` and templates are None where a method needs none."""

    tasks: TaskSource
    policy: Policy
    engine: RolloutEngine
    reward: Reward
    plateau: Plateau
    algorithm: Algorithm
    tracker: Tracker
    critic: Critic | None = None
    refine_template: PromptTemplate | None = None
    teacher_template: PromptTemplate | None = None


@dataclass(slots=True, kw_only=True)
class Progress:
    """What a resumed run must know besides the weights and the plateau tracker."""

    step: int = 0
    generated_tokens: int = 0
    critic: CriticTally = field(default_factory=CriticTally)
    first_critic_step: int | None = None
    injected: int = 0
    skipped_steps: int = 0
    wall_s: float = 0.0
    evaluations: list[dict[str, object]] = field(default_factory=list[dict[str, object]])

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Progress:
        try:
            tally = CriticTally(**cast("dict[str, Any]", data["critic"]))
            return cls(**cast("dict[str, Any]", {**data, "critic": tally}))
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"progress in the checkpoint: {error}; it was written by another version: resume with that version"
            ) from error


class Trainer:
    """Runs one config to its budget. `run` may be called on a fresh trainer or after `resume`."""

    def __init__(self, config: RunConfig, parts: Parts, run_dir: Path) -> None:
        self.config = config
        self.parts = parts
        self.run_dir = run_dir
        self.progress = Progress()
        self.stopped_because = ""
        self._saved_step: int | None = None

    def resume(self, saved: SavedRun) -> None:
        """Take up weights, optimiser, plateau memory and counters where `saved` left them."""
        self._take_up(saved.state)
        self.parts.policy.restore(saved.directory)

    def run(self) -> None:
        """Train until a budget ends it; the last state is always saved, also after Ctrl-C."""
        started = time.monotonic() - self.progress.wall_s
        try:
            self._evaluate_if_due()
            while not self._finished():
                self._whole_step()
                self.progress.wall_s = time.monotonic() - started
                self._after_step()
            self._evaluate_if_due()
        except KeyboardInterrupt:
            self.stopped_because = "interrupted"
            self.parts.tracker.event(self.progress.step, "stop", "interrupted; the state so far is saved")
        self._tell_if_the_critic_never_helped()
        if self._saved_step != self.progress.step:
            self.save()

    def save(self) -> None:
        """Write a checkpoint of this moment. Errors: CheckpointError."""
        with interrupts_held():
            save_checkpoint(
                self.run_dir / "checkpoints",
                self.progress.step,
                policy=self.parts.policy,
                state=self._state(),
                keep=self.config.checkpoint.keep,
            )
            self._saved_step = self.progress.step

    def _state(self) -> dict[str, object]:
        return {"progress": self.progress.to_json(), "plateau": self.parts.plateau.state_dict()}

    # -- stages of one step (trackers count steps from 1, seeds and schedules from 0) --------------------------------

    def _whole_step(self) -> None:
        """One step, or none of it: a step that is broken off is taken back, so that a resume repeats it exactly."""
        before = self._state()
        step = self.progress.step
        try:
            self._step()
        except (KeyboardInterrupt, CritiqueRLError) as stop:
            if self.progress.step == step:
                self._take_up(before)
            if isinstance(stop, CritiqueRLError) and not isinstance(stop, CheckpointError):
                self.save()
            raise

    def _step(self) -> None:
        step, config, parts = self.progress.step, self.config, self.parts
        tasks = parts.tasks.batch(step, config.rollout.prompts_per_step, seed=derive_seed(config.seed, 0, "tasks"))
        groups = collect(
            tasks,
            policy=parts.policy,
            engine=parts.engine,
            reward=parts.reward,
            config=config.rollout,
            step=step,
            seed=derive_seed(config.seed, step, "rollout"),
        )
        groups, states = self._watch(groups)
        groups, tally = self._criticize(groups)
        groups = self._refine_and_teach(groups)
        samples = parts.algorithm.assemble(groups)
        self._record(groups, states, samples)
        with interrupts_held():
            report = parts.policy.step(samples)
            self.progress.generated_tokens += _generated_tokens(groups)
            self.progress.step += 1
            self.progress.skipped_steps += not report.applied
            if not report.applied and "gradient norm" in report.reason:
                parts.tracker.event(step + 1, "skipped", f"the step was skipped: {report.reason}")
            parts.tracker.log(step + 1, self._metrics(groups, report, tally))

    def _watch(self, groups: Sequence[Group]) -> tuple[list[Group], list[GroupState]]:
        step, plateau = self.progress.step, self.parts.plateau
        stalled_before = plateau.first_stall_step is not None
        states = [
            plateau.observe(step, g.task.id, g.scores, [r.finished for r in g.rollouts], kind=g.task.kind)
            for g in groups
        ]
        if not stalled_before and plateau.first_stall_step is not None:
            self.parts.tracker.event(step + 1, "stall", plateau.message())
        acts = "critique" in self.parts.algorithm.needs
        watched = [replace(g, plateaued=acts and s.select) for g, s in zip(groups, states, strict=True)]
        return watched, states

    def _criticize(self, groups: list[Group]) -> tuple[list[Group], CriticTally]:
        chosen = [g for g in groups if g.plateaued]
        critic, step = self.parts.critic, self.progress.step
        if not chosen or critic is None:
            return groups, CriticTally()
        show = bool(getattr(self.config.critic, "show_reference", False))
        reviewed, tally = criticize(
            groups, critic=critic, max_attempts=self.config.refinement.max_attempts, show_reference=show
        )
        if tally.calls and self.progress.first_critic_step is None:
            self.progress.first_critic_step = step
            message = f"first critic call: {len(chosen)} of {len(groups)} prompts of this step are plateaued"
            self.parts.tracker.event(step + 1, "critic", message)
        for group in reviewed:
            if group.critiques:
                self.parts.plateau.note_critiqued(group.task.id, step)
        self.progress.critic = self.progress.critic + tally
        return reviewed, tally

    def _refine_and_teach(self, groups: list[Group]) -> list[Group]:
        parts, step = self.parts, self.progress.step
        if parts.refine_template is not None:
            groups = refine(
                groups,
                policy=parts.policy,
                engine=parts.engine,
                reward=parts.reward,
                template=parts.refine_template,
                config=self.config.refinement,
                rollout=self.config.rollout,
                step=step,
                seed=derive_seed(self.config.seed, step, "refinement"),
            )
            for group in groups:
                injected = sum(not r.rejected for r in group.refinements)
                self.progress.injected += injected
                if injected:
                    parts.plateau.note_rescued(group.task.id, step)
        if parts.teacher_template is not None:
            groups = teach(
                groups, policy=parts.policy, template=parts.teacher_template, config=self.config.distillation
            )
        return groups

    def _record(self, groups: Sequence[Group], states: Sequence[GroupState], samples: Sequence[TrainSample]) -> None:
        report, step = self.config.report, self.progress.step
        told_first = step == self.progress.first_critic_step
        if report.samples_per_step == 0 or (step % report.every and not told_first):
            return
        order = sorted(range(len(groups)), key=lambda i: (not groups[i].critiques, not groups[i].refinements, i))
        for i in order[: report.samples_per_step]:
            story = tell(
                groups[i],
                states[i],
                samples,
                policy=self.parts.policy,
                distillation=self.config.distillation,
                step=step + 1,
            )
            self.parts.tracker.sample(step + 1, story)

    # -- around the steps --------------------------------------------------------------------------------------------

    def _take_up(self, state: Mapping[str, object]) -> None:
        self.progress = Progress.from_json(cast("Mapping[str, object]", state["progress"]))
        self.parts.plateau.load_state_dict(cast("Mapping[str, object]", state["plateau"]))

    def _tell_if_the_critic_never_helped(self) -> None:
        critic = self.progress.critic
        if not critic.calls or critic.outcomes.get("ok"):
            return
        left = "the run trained as scalar GRPO" if self.parts.policy.version else "no step had anything to train on"
        how = ", ".join(f"{outcome}: {count}" for outcome, count in sorted(critic.outcomes.items()))
        message = f"all {critic.calls} critic calls failed ({how}); {left}"
        self.parts.tracker.event(self.progress.step, "critic", message)

    def _after_step(self) -> None:
        self._evaluate_if_due()
        every = self.config.checkpoint.every
        if every and self.progress.step % every == 0:
            self.save()

    def _evaluate_if_due(self) -> None:
        """At the start, every `evaluation.every` steps and at the end; once for a step, also if it was resumed at."""
        evaluations, step, every = self.progress.evaluations, self.progress.step, self.config.evaluation.every
        due = self._finished() or (every and step % every == 0)
        if not evaluations or (due and evaluations[-1]["step"] != step):
            self._evaluate()

    def _evaluate(self) -> None:
        config, parts, step = self.config, self.parts, self.progress.step
        self._saved_step = None
        found = evaluate(
            parts.tasks.held_out(),
            policy=parts.policy,
            engine=parts.engine,
            reward=parts.reward,
            config=config.evaluation,
            max_tokens=config.rollout.max_tokens,
            seed=derive_seed(config.seed, step, "evaluation"),
        )
        self.progress.evaluations.append(
            {
                "step": step,
                "generated_tokens": self.progress.generated_tokens,
                "success": {kind: asdict(s) for kind, s in found.items()},
            }
        )
        values = {f"eval/{kind}": s.success for kind, s in found.items()}
        bounds = {f"eval/{kind}/{end}": getattr(s, end) for kind, s in found.items() for end in ("low", "high")}
        tokens = {"tokens/generated": float(self.progress.generated_tokens)}
        parts.tracker.log(step, values | bounds | tokens)
        if found:
            parts.tracker.event(step, "evaluation", _in_words(found))

    def _finished(self) -> bool:
        budget, progress = self.config.budget, self.progress
        if budget.max_generated_tokens is not None and progress.generated_tokens >= budget.max_generated_tokens:
            self.stopped_because = "generated-token budget spent"
        elif progress.step >= budget.max_steps:
            self.stopped_because = "step budget spent"
        return bool(self.stopped_because)

    def _metrics(self, groups: Sequence[Group], report: StepReport, tally: CriticTally) -> dict[str, float]:
        return {
            **group_metrics(groups),
            "loss/total": report.loss,
            "loss/pg": report.pg_loss,
            "loss/distill": report.distill_loss,
            "loss/imitate": report.imitate_loss,
            "grad/norm": report.grad_norm,
            "step/applied": float(report.applied),
            "critic/step_calls": float(tally.calls),
            **critic_metrics(self.progress.critic),
            "tokens/generated": float(self.progress.generated_tokens),
            "tokens/budget": float(self.config.budget.max_generated_tokens or 0),
            "steps/total": float(self.config.budget.max_steps),
            **report.diagnostics,
            **self.parts.plateau.counts(),
        }


def _generated_tokens(groups: Sequence[Group]) -> int:
    rollouts = sum(len(r.completion_ids) for g in groups for r in g.rollouts)
    return rollouts + sum(len(r.rollout.completion_ids) for g in groups for r in g.refinements)


def _in_words(found: Mapping[str, Success]) -> str:
    parts = [f"{s.kind} {s.success:.1%} [{s.low:.1%}, {s.high:.1%}] of {s.trials}" for s in found.values()]
    return "held-out success: " + "; ".join(parts)

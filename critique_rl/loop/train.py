"""The loop itself: one method a stage, in the order of the sentence.

    task -> rollout -> reward -> plateau -> critic -> refinement and targets -> advantages -> one step -> record

Owns: when each stage runs and what is counted. Must not know: any concrete critic, engine, policy or method.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from critique_rl.config.run import RunConfig
from critique_rl.errors import CheckpointError, CritiqueRLError
from critique_rl.loop.auxiliary import CritiquePrediction
from critique_rl.loop.checkpoint import SavedRun, save_checkpoint
from critique_rl.loop.copies import sharing_baselines
from critique_rl.loop.critic_stage import CriticStage
from critique_rl.loop.criticize import CriticTally
from critique_rl.loop.ending import Ending
from critique_rl.loop.evaluate import evaluate, figures, in_words
from critique_rl.loop.exploration import (
    begin_step,
    exploration_figures,
    note_probe,
    note_training,
    pinned_checkpoint,
    rollout_now,
)
from critique_rl.loop.forgetting import watch_forgetting
from critique_rl.loop.gather import Gatherer
from critique_rl.loop.guards import conflict_of, uninjected
from critique_rl.loop.guidance import load_guidance
from critique_rl.loop.interrupts import interrupts_held
from critique_rl.loop.metrics import algorithm_metrics, critic_metrics, generated_tokens, group_metrics
from critique_rl.loop.mismatch import MismatchCheck, check_mismatch
from critique_rl.loop.monitoring import monitor_figures, probe
from critique_rl.loop.parts import Parts
from critique_rl.loop.phases import phase_figures
from critique_rl.loop.progress import Progress
from critique_rl.loop.refine import refine
from critique_rl.loop.replay import ReplayStage, injected_anew
from critique_rl.loop.run_state import RunState
from critique_rl.loop.seeds import derive_seed
from critique_rl.loop.selection import check_second_verifier, weighted_by_reliance
from critique_rl.loop.skills import SkillStage
from critique_rl.loop.stories import tell
from critique_rl.loop.targets import TeacherTally, teach
from critique_rl.protocols import GroupState, Skipped, StepReport
from critique_rl.types import Group, TrainSample


class Trainer:
    """Runs one config to its budget. `run` may be called on a fresh trainer or after `resume`."""

    def __init__(self, config: RunConfig, parts: Parts, run_dir: Path) -> None:
        self.config = config
        self.parts = parts
        self.run_dir = run_dir
        self._ending = Ending(config, parts)
        self.stopped_because = ""
        self._saved_step: int | None = None
        check_second_verifier(config.refinement, parts.tasks, reward=parts.reward, seed=config.seed)
        self._guidance = load_guidance(config.refinement, parts.refine_template)
        self._critic = CriticStage(config, parts, self._guidance)
        self._state = RunState(parts, self._critic)
        self._replay = ReplayStage(config, parts)
        self._gatherer = Gatherer(config, parts, self._critic, self._replay, self._state)
        self._skills = SkillStage(config, parts, run_dir)
        self._prediction = CritiquePrediction(config.refinement, parts)
        self._taught = TeacherTally()

    @property
    def progress(self) -> Progress:
        """The run's counters."""
        return self._state.progress

    def resume(self, saved: SavedRun) -> None:
        """Take up weights, optimiser, plateau memory and counters where `saved` left them."""
        self._state.take_up(saved.state)
        self.parts.policy.restore(saved.directory)

    def carry_over(self, state: Mapping[str, object]) -> None:
        """Begin with the memories of an earlier stage, by name; everything else is new."""
        self._state.carry(state)

    def run(self) -> None:
        """Train until a budget ends it; the last state is always saved, also after Ctrl-C."""
        started = time.monotonic() - self.progress.wall_s
        try:
            self._evaluate_if_due()
            while not self._finished():
                self._whole_step()
                self._skills.write()
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
            pinned = pinned_checkpoint(self.parts, self.progress.step)
            save_checkpoint(
                self.run_dir / "checkpoints",
                self.progress.step,
                policy=self.parts.policy,
                state=self._state.to_json(),
                keep=self.config.checkpoint.keep,
                pinned=pinned,
            )
            self._saved_step = self.progress.step

    # -- stages of one step (trackers count steps from 1, seeds and schedules from 0) --------------------------------

    def _whole_step(self) -> None:
        """One step, or none of it: a step that is broken off is taken back, so that a resume repeats it exactly."""
        step = self.progress.step
        self._critic.begin(step)
        take_back = self._state.mark()
        try:
            self._step()
        except (KeyboardInterrupt, CritiqueRLError) as stop:
            if self.progress.step == step:
                take_back()
            if isinstance(stop, CritiqueRLError) and not isinstance(stop, CheckpointError):
                self.save()
            raise

    def _step(self) -> None:
        step, parts = self.progress.step, self.parts
        begin_step(parts, step, checkpoints=self.run_dir / "checkpoints")
        groups, states = self._gatherer.gather()
        if not groups and parts.feedback is not None:
            self.stopped_because = "feedback used up"
            return
        sampled = generated_tokens(self._gatherer.sampled) if self._gatherer.samples else 0
        checked = MismatchCheck({}, "")
        if self._gatherer.samples and self.config.engine.kind != "hf":
            checked = check_mismatch(groups, policy=parts.policy, config=self.config.mismatch)
        if checked.alarm:
            parts.tracker.event(step + 1, "mismatch", checked.alarm)
        reviewed = self._critic.collect(step, groups)
        self.progress.critic = self.progress.critic + reviewed.tally
        if self._gatherer.injects:
            groups = self._refine_and_teach([*reviewed.groups, *reviewed.late])
        else:
            groups, self._taught = uninjected(reviewed.groups), TeacherTally()
        groups = self._critic.judge(step, groups, reviewed)
        self._skills.learn(step, groups, self._gatherer.sampled)
        samples = parts.algorithm.assemble(sharing_baselines(groups))
        samples = weighted_by_reliance(samples, groups, self.config.refinement)
        for told in parts.objectives.messages() if parts.objectives is not None else ():
            parts.tracker.event(step + 1, "objectives", told)
        self._record(groups, states, samples)
        samples = self._prediction.add(samples, groups)
        with interrupts_held():
            report = self._train(groups, samples)
            self._state.conflict = conflict_of(report)
            note_training(parts, report)
            self.progress.generated_tokens += sampled + generated_tokens(groups, second_attempts=True)
            self.progress.step += 1
            self.progress.skipped_steps += not report.applied
            if report.skipped is Skipped.NOT_FINITE:
                parts.tracker.event(step + 1, "skipped", f"the step was skipped: {report.reason}")
            parts.tracker.log(step + 1, self._metrics(groups, report, reviewed.tally) | dict(checked.figures))

    def _train(self, groups: Sequence[Group], samples: Sequence[TrainSample]) -> StepReport:
        gate = self.parts.teacher_gate
        if gate is None:
            return self.parts.policy.step(samples)
        seen = self._gatherer.vitals()
        refresh = gate.observe(reward=seen.success, p95_tokens=seen.p95_tokens, truncated=seen.truncated)
        return self.parts.policy.step(samples, refresh_teacher=refresh)

    def _refine_and_teach(self, groups: list[Group]) -> list[Group]:
        parts, step = self.parts, self.progress.step
        if parts.refine_template is not None:
            groups = refine(
                self._replay.recall(step, groups),
                policy=parts.policy,
                engine=parts.engine,
                reward=parts.reward,
                guidance=self._guidance,
                rollout=rollout_now(self.config, parts),
                step=step,
                seed=derive_seed(self.config.seed, step, "refinement"),
                environment=parts.environment,
            )
            self._replay.keep(step, groups)
            for group in groups:
                self.progress.injected += sum(not r.rejected for r in group.refinements)
                if injected_anew(group) and parts.feedback is None:
                    parts.plateau.note_rescued(group.task.id, step)
        self._taught = TeacherTally()
        if parts.teacher_template is not None:
            groups = teach(
                groups,
                policy=parts.policy,
                template=parts.teacher_template,
                config=self.config.distillation,
                anchor=self.config.feedback is not None and self.config.feedback.anchor,
                tally=self._taught,
            )
        return groups

    def _record(self, groups: Sequence[Group], states: Sequence[GroupState], samples: Sequence[TrainSample]) -> None:
        report, step = self.config.report, self.progress.step
        told_first = step == self.progress.first_critic_step
        if report.samples_per_step == 0 or (step % report.every and not told_first):
            return
        order = sorted(range(len(states)), key=lambda i: (not groups[i].critiques, not groups[i].refinements, i))
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
        if self.config.budget.stop_on_plateau and self._finished():
            self.parts.tracker.event(self.progress.step, "stop", self.stopped_because)
        every = self.config.checkpoint.every
        if every and self.progress.step % every == 0:
            self.save()

    def _evaluate_if_due(self) -> None:
        """At the start, every `evaluation.every` steps and at the end; once for a step, also if it was resumed at."""
        evaluations, step, every = self.progress.evaluations, self.progress.step, self.config.evaluation.every
        due = self._finished() or (every and step % every == 0)
        if not evaluations or (due and evaluations[-1]["step"] != step):
            self._evaluate()
        if probe(self.config, self.parts, step, last=self._finished()):
            self._saved_step = None
            note_probe(self.config, self.parts)

    def _evaluate(self) -> None:
        config, parts, step = self.config, self.parts, self.progress.step
        self._saved_step = None
        found = evaluate(
            parts.tasks.held_out(),
            policy=parts.policy,
            engine=parts.engine,
            reward=parts.reward,
            config=config.evaluation,
            max_tokens=config.evaluation_tokens,
            seed=derive_seed(config.seed, step, "evaluation"),
            environment=parts.environment,
        )
        found = self._skills.evaluated(step, found)
        self.progress.evaluations.append(
            {
                "step": step,
                "generated_tokens": self.progress.generated_tokens,
                "success": {kind: s.to_json() for kind, s in found.items()},
            }
        )
        parts.tracker.log(step, figures(found) | {"tokens/generated": float(self.progress.generated_tokens)})
        if found:
            parts.tracker.event(step, "evaluation", in_words(found))
        watch_forgetting(parts, step, found)

    def _finished(self) -> bool:
        self.stopped_because = self._ending.reason(self.progress) or self.stopped_because
        return bool(self.stopped_because)

    def _metrics(self, groups: Sequence[Group], report: StepReport, tally: CriticTally) -> dict[str, float]:
        return {
            **group_metrics(groups, recalled=not self._gatherer.samples),
            **self._gatherer.figures(),
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
            **algorithm_metrics(self.parts.algorithm),
            **(self._taught.figures() if self.parts.teacher_template is not None else {}),
            **self.parts.plateau.counts(),
            **self._replay.figures(),
            **self._prediction.figures(),
            **(self.parts.trust.figures() if self.parts.trust is not None else {}),
            **(self.parts.feedback.counts() if self.parts.feedback is not None else {}),
            **(self.parts.objectives.figures() if self.parts.objectives is not None else {}),
            **(self.parts.guards.figures() if self.parts.guards is not None else {}),
            **monitor_figures(self.parts),
            **exploration_figures(self.parts),
            **phase_figures(self.parts),
            **self._skills.figures(),
            **(self.parts.teacher_gate.figures() if self.parts.teacher_gate is not None else {}),
        }

"""Where a step's groups come from: sampled, verified and watched now, or recalled from a file of feedback.

Owns: that the critic is sent a plateaued group while others are still being sampled, and what is told of verifiers, the
first stall and the trip wires. Must not know: what becomes of the critiques, training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from critique_rl.config.run import RunConfig
from critique_rl.config.sft import SFT
from critique_rl.loop.collect import collect
from critique_rl.loop.critic_stage import CriticStage
from critique_rl.loop.demonstrations import demonstrate
from critique_rl.loop.exploration import rollout_now, watch_exploration
from critique_rl.loop.guards import Vitals, vitals
from critique_rl.loop.monitoring import monitor_batch
from critique_rl.loop.offpolicy import correct_for_age
from critique_rl.loop.parts import Parts
from critique_rl.loop.phases import watch_phases
from critique_rl.loop.recall import Recalled
from critique_rl.loop.replay import ReplayStage
from critique_rl.loop.resample import Resampler, Watched
from critique_rl.loop.run_state import RunState
from critique_rl.loop.seeds import derive_seed
from critique_rl.loop.skills import with_skills
from critique_rl.loop.verifier_check import check_verifiers
from critique_rl.protocols import FeedbackSource, GroupState
from critique_rl.types import Group, Task


class Gathered(NamedTuple):
    """A step's groups, and where each one's prompt stands."""

    groups: list[Group]
    states: list[GroupState]


class _Round(NamedTuple):
    """Groups with where their prompts stand, and how many of them the critic was asked about."""

    found: list[Watched]
    asked: int


class Gatherer:
    """One run's source of groups."""

    def __init__(
        self, config: RunConfig, parts: Parts, critic: CriticStage, replay: ReplayStage, state: RunState
    ) -> None:
        self._config = config
        self._parts = parts
        self._critic = critic
        self._replay = replay
        self._state = state
        self._resampler = Resampler(config, parts)
        self._sampled: list[Group] = []
        self._vitals: Vitals | None = None

    @property
    def sampled(self) -> list[Group]:
        """Every group of the latest step, with those that are not trained on."""
        return self._sampled

    def vitals(self) -> Vitals:
        """Of `sampled`: read when first asked for, then handed on for the rest of the step."""
        if self._vitals is None:
            self._vitals = vitals(self._sampled)
        return self._vitals

    def _hold(self, groups: list[Group]) -> None:
        self._sampled, self._vitals = groups, None

    @property
    def samples(self) -> bool:
        """Whether the groups of this run are sampled from the policy as it is now."""
        return self._parts.feedback is None and self._config.algorithm.name != SFT

    def gather(self) -> Gathered:
        """The step's groups, from wherever this run has them."""
        if self._parts.feedback is not None:
            return self.recall(self._parts.feedback)
        return self.sample() if self.samples else self._demonstrate()

    def sample(self) -> Gathered:
        """Sample, verify and watch; the critic is sent each plateaued group while others are still being sampled."""
        step, config, parts = self._state.progress.step, self._config, self._parts
        drawn = parts.tasks.batch(step, config.rollout.prompts_per_step, seed=derive_seed(config.seed, 0, "tasks"))
        tasks = self._resampler.start(step, self._replay.batch(step, drawn))
        groups: list[Group] = []
        kept: list[Watched] = []
        asked = 0
        while tasks:
            found, questions = self._round(step, tasks)
            groups += [group for group, _ in found]
            asked += questions
            kept += self._resampler.sift(step, found)
            tasks = self._resampler.more(step)
        self._hold(groups)
        monitor_batch(parts, step, groups)
        watch_exploration(parts, step, groups, vitals=self.vitals)
        watch_phases(config, parts, step, groups)
        if asked and self._state.progress.first_critic_step is None:
            self._state.progress.first_critic_step = step
            message = f"first critic call: {asked} of {len(groups)} prompts of this step are plateaued"
            parts.tracker.event(step + 1, "critic", message)
        self._critic.ask_probes(step, groups)
        for cause, told in parts.plateau.alarms():
            parts.tracker.event(step + 1, str(cause), told)
        self._guard(step)
        return Gathered([group for group, _ in kept], [state for _, state in kept])

    def _round(self, step: int, tasks: Sequence[Task]) -> _Round:
        """Groups of prompts that the step has not asked yet, in their order."""
        config, parts, count = self._config, self._parts, self._resampler.rounds
        tasks = with_skills(parts, step, tasks)
        check_verifiers(
            step,
            tasks,
            held_out=parts.tasks.held_out,
            plateau=parts.plateau,
            reward=parts.reward,
            rewards=config.rewards,
        )
        watched: dict[int, Watched] = {}
        asked = 0

        def watch(t: int, group: Group) -> None:
            nonlocal asked
            watched[t] = self._watch(group)
            asked += self._critic.ask(step, watched[t][0])

        collect(
            tasks,
            policy=parts.policy,
            engine=parts.engine,
            reward=parts.reward,
            config=rollout_now(config, parts),
            step=step,
            seed=derive_seed(config.seed, step, f"rollout/{count}" if count else "rollout"),
            on_group=watch,
            environment=parts.environment,
        )
        return _Round([watched[t] for t in range(len(tasks))], asked)

    def _guard(self, step: int) -> None:
        if self._parts.guards is None:
            return
        first = self._state.progress.first_critic_step
        injecting = self._state.progress.injected > 0 or (first is not None and first < step)
        conflict = self._state.conflict
        self._parts.guards.observe(**self.vitals()._asdict(), injecting=injecting, conflict=conflict)
        message = self._parts.guards.message()
        if message:
            self._parts.tracker.event(step + 1, "guards", message)
            if self._parts.paces is not None and not self._parts.guards.allows_injection:
                self._parts.paces.back_off()

    def figures(self) -> Mapping[str, float]:
        """For the trackers: what became of the latest step's groups."""
        return self._resampler.figures()

    @property
    def injects(self) -> bool:
        return self._parts.guards is None or self._parts.guards.allows_injection

    def recall(self, feedback: FeedbackSource) -> Gathered:
        """Groups that were sampled and criticised earlier: they tell nothing of how the policy fares now."""
        recalled = feedback.batch(self._config.rollout.prompts_per_step)
        assert self._config.feedback is not None
        cap = self._config.feedback.correction_cap
        states: list[GroupState] = [Recalled()] * len(recalled)
        self._hold(recalled)
        return Gathered(correct_for_age(recalled, policy=self._parts.policy, cap=cap), states)

    def _demonstrate(self) -> Gathered:
        """Worked solutions: they tell nothing of how the policy fares, as recalled rollouts do not."""
        step, config, parts = self._state.progress.step, self._config, self._parts
        tasks = parts.tasks.batch(step, config.rollout.prompts_per_step, seed=derive_seed(config.seed, 0, "tasks"))
        groups = demonstrate(
            tasks, policy=parts.policy, reward=parts.reward, max_tokens=config.rollout.max_tokens, step=step
        )
        self._hold(groups)
        return Gathered(groups, [Recalled()] * len(groups))

    def _watch(self, group: Group) -> tuple[Group, GroupState]:
        step, plateau, task = self._state.progress.step, self._parts.plateau, group.task
        stalled_before = plateau.first_stall_step is not None
        finished = [r.finished for r in group.rollouts]
        state = plateau.observe(step, task.id, group.scores, finished, kind=task.kind, verifier=task.verifier)
        if not stalled_before and plateau.first_stall_step is not None:
            self._parts.tracker.event(step + 1, "stall", plateau.message())
        asks = not self._replay.serves(step, group) and self.injects and state.select
        rung = self._critic.rung(task, state.rung) if asks else None
        return replace(group, plateaued=rung is not None, rung=rung or ""), state

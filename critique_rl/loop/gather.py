"""Where a step's groups come from: sampled, verified and watched now, or recalled from a file of feedback.

Owns: that the critic is sent a plateaued group while others are still being sampled, and what is told of verifiers, the
first stall and the trip wires. Must not know: what becomes of the critiques, training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from critique_rl.config.run import RunConfig
from critique_rl.loop.collect import collect
from critique_rl.loop.critic_stage import CriticStage
from critique_rl.loop.guards import vitals
from critique_rl.loop.offpolicy import correct_for_age
from critique_rl.loop.parts import Parts
from critique_rl.loop.recall import Recalled
from critique_rl.loop.replay import ReplayStage
from critique_rl.loop.run_state import RunState
from critique_rl.loop.seeds import derive_seed
from critique_rl.loop.verifier_check import check_verifiers
from critique_rl.protocols import FeedbackSource, GroupState
from critique_rl.types import Group


class Gathered(NamedTuple):
    """A step's groups, and where each one's prompt stands."""

    groups: list[Group]
    states: list[GroupState]


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

    def sample(self) -> Gathered:
        """Sample, verify and watch; the critic is sent each plateaued group while others are still being sampled."""
        step, config, parts = self._state.progress.step, self._config, self._parts
        drawn = parts.tasks.batch(step, config.rollout.prompts_per_step, seed=derive_seed(config.seed, 0, "tasks"))
        tasks = self._replay.batch(step, drawn)
        check_verifiers(
            step,
            tasks,
            held_out=parts.tasks.held_out,
            plateau=parts.plateau,
            reward=parts.reward,
            rewards=config.rewards,
        )
        watched: dict[int, tuple[Group, GroupState]] = {}
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
            config=config.rollout,
            step=step,
            seed=derive_seed(config.seed, step, "rollout"),
            on_group=watch,
        )
        groups = [watched[t][0] for t in range(len(tasks))]
        if asked and self._state.progress.first_critic_step is None:
            self._state.progress.first_critic_step = step
            message = f"first critic call: {asked} of {len(groups)} prompts of this step are plateaued"
            parts.tracker.event(step + 1, "critic", message)
        self._critic.ask_probes(step, groups)
        for cause, told in parts.plateau.alarms():
            parts.tracker.event(step + 1, str(cause), told)
        self._guard(step, groups)
        return Gathered(groups, [watched[t][1] for t in range(len(tasks))])

    def _guard(self, step: int, groups: Sequence[Group]) -> None:
        if self._parts.guards is None:
            return
        first = self._state.progress.first_critic_step
        injecting = self._state.progress.injected > 0 or (first is not None and first < step)
        conflict = self._state.conflict
        self._parts.guards.observe(**vitals(groups)._asdict(), injecting=injecting, conflict=conflict)
        message = self._parts.guards.message()
        if message:
            self._parts.tracker.event(step + 1, "guards", message)
            if self._parts.paces is not None and not self._parts.guards.allows_injection:
                self._parts.paces.back_off()

    @property
    def injects(self) -> bool:
        return self._parts.guards is None or self._parts.guards.allows_injection

    def recall(self, feedback: FeedbackSource) -> Gathered:
        """Groups that were sampled and criticised earlier: they tell nothing of how the policy fares now."""
        recalled = feedback.batch(self._config.rollout.prompts_per_step)
        assert self._config.feedback is not None
        cap = self._config.feedback.correction_cap
        states: list[GroupState] = [Recalled()] * len(recalled)
        return Gathered(correct_for_age(recalled, policy=self._parts.policy, cap=cap), states)

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

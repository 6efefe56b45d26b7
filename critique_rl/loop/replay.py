"""Rescued prompts until they succeed by themselves: their verified refinements are kept and injected again.

Owns: when something is kept, injected, dropped and forgotten, and which prompts are revisited. Must not know: how it is
kept, how refinements are sampled, training. What is injected is verified and filtered again and scored under the bare
prompt with the present weights; what it was sampled with stays as it was then.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from critique_rl.config.replay import REPLAY
from critique_rl.config.run import RunConfig
from critique_rl.loop.parts import Parts
from critique_rl.loop.selection import NO_ROOM, fault
from critique_rl.types import Group, Refinement, ScoreStatus, Task


class ReplayStage:
    """One run's dealings with its memory; without one every method leaves things as they are."""

    def __init__(self, config: RunConfig, parts: Parts) -> None:
        self._memory = parts.replay if config.replay is not None else None
        self._reward = parts.reward
        self._refinement = config.refinement
        self._options = config.replay

    def batch(self, step: int, tasks: Sequence[Task]) -> list[Task]:
        """A step's prompts, of which the last ones have given way to remembered ones that are not among them."""
        memory, options = self._memory, self._options
        if memory is None or options is None or not options.revisit_share:
            return list(tasks)
        known = {task.id for task in tasks}
        waiting = [task for task in memory.unsolved(step=step) if task.id not in known]
        # 0.1 * 30 is a little less than 3 in floating point.
        revisited = waiting[: int(options.revisit_share * len(tasks) + 1e-9)]
        batch = [*tasks[: len(tasks) - len(revisited)], *revisited]
        for task in batch:
            memory.visited(task.id)
        return batch

    def serves(self, step: int, group: Group) -> bool:
        """Whether a group of bare rollouts gets a remembered refinement in place of the critic; what has succeeded is
        forgotten."""
        memory, options = self._memory, self._options
        if memory is None or options is None:
            return False
        if any(score.correct for score in group.scores):
            memory.forget(group.task.id)
            return False
        return options.instead_of_critic and self._recalled(step, group) is not None

    def recall(self, step: int, groups: Sequence[Group]) -> list[Group]:
        """The groups, in the order of the step, each failed one with what is remembered of it."""
        if self._memory is None:
            return list(groups)
        found = [self._recalled(step, group) for group in groups]
        return [
            group if one is None else replace(group, refinements=(self._judged(one, group.task), *group.refinements))
            for group, one in zip(groups, found, strict=True)
        ]

    def keep(self, step: int, groups: Sequence[Group]) -> None:
        """Remember new refinements that nothing speaks against; drop remembered ones that something does by now."""
        if self._memory is None:
            return
        for group in groups:
            for refinement in group.refinements:
                sound = not refinement.rejected or refinement.rejected in NO_ROOM
                if refinement.rung != REPLAY and sound:
                    self._memory.note(group.task, refinement, step=step)
                elif refinement.rung == REPLAY and not sound:
                    self._memory.discard(group.task.id, refinement.rollout.completion_ids)

    def figures(self) -> Mapping[str, float]:
        """For the trackers: how much is remembered."""
        return {} if self._memory is None else self._memory.counts()

    def _recalled(self, step: int, group: Group) -> Refinement | None:
        failed = any(score.status is not ScoreStatus.ERROR for score in group.scores)
        if self._memory is None or group.late or not failed or any(score.correct for score in group.scores):
            return None
        return self._memory.recall(group.task.id, step=step)

    def _judged(self, refinement: Refinement, task: Task) -> Refinement:
        again = replace(refinement, score=self._reward.score(task, refinement.rollout.text))
        told = again.critique.directive_text
        refused = fault(again, task, self._refinement, told=told, reward=self._reward)
        return replace(again, rejected=refused, bare_logprobs=(), rung=REPLAY)


def injected_anew(group: Group) -> bool:
    """Whether a refinement that was sampled in this step may be trained on."""
    return any(not r.rejected and r.rung != REPLAY for r in group.refinements)

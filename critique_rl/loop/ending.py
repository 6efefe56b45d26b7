"""When a run is over, and why: its budget of steps, of passes over the tasks, of tokens, or no more progress.

Owns: the order in which the ends are looked at, and how each is told. Must not know: what a step does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from critique_rl.config.run import RunConfig
from critique_rl.errors import ConfigError
from critique_rl.loop.parts import Parts
from critique_rl.loop.progress import Progress
from critique_rl.stats.trend import TrendReport
from critique_rl.types import Task


@runtime_checkable
class PooledTasks(Protocol):
    """A task source that can tell all its training tasks."""

    def training(self) -> Sequence[Task]: ...


@runtime_checkable
class _KnowsTheTrend(Protocol):
    def run_report(self, kind: str | None = None) -> TrendReport: ...


class Ending:
    """The ends of one run. Errors: ConfigError for one that could never be told, or would never be reached."""

    def __init__(self, config: RunConfig, parts: Parts) -> None:
        self._budget = config.budget
        self._parts = parts
        self._epoch_steps = epoch_steps(config, parts)
        self._plateau = parts.plateau if self._budget.stop_on_plateau else None
        if self._plateau is not None and not isinstance(self._plateau, _KnowsTheTrend):
            raise ConfigError("budget.stop_on_plateau: this run's plateau tracker keeps no history of rewards")

    def reason(self, progress: Progress) -> str:
        """Why the run is over, or "" while it is not."""
        budget, feedback = self._budget, self._parts.feedback
        if feedback is not None and feedback.exhausted:
            return "feedback used up"
        if self._parts.exploration is not None and self._parts.exploration.stop_reason:
            return self._parts.exploration.stop_reason
        if budget.max_generated_tokens is not None and self.spent_tokens(progress) >= budget.max_generated_tokens:
            return "generated-token budget spent"
        if self._epoch_steps is not None and progress.step >= self._epoch_steps:
            return f"epochs done: {budget.max_epochs} of {self._epoch_steps // (budget.max_epochs or 1)} steps"
        if progress.step >= budget.max_steps:
            return "step budget spent"
        if self._parts.forgetting is not None and self._parts.forgetting.stopped:
            return self._parts.forgetting.stopped
        return self._flat()

    def spent_tokens(self, progress: Progress) -> int:
        """What counts towards budget.max_generated_tokens."""
        counted = self._budget.count_critic_tokens
        written = self._parts.skills.writer_tokens if self._parts.skills is not None else 0
        return progress.generated_tokens + (progress.critic.completion_tokens + written if counted else 0)

    def _flat(self) -> str:
        if not isinstance(self._plateau, _KnowsTheTrend):
            return ""
        trend = self._plateau.run_report()
        return f"plateau: {trend.reason}" if trend.verdict == "flat" else ""


def epoch_steps(config: RunConfig, parts: Parts) -> int | None:
    """Steps in which budget.max_epochs passes over the training tasks are done; None without that key.

    A pass has as many steps as whole batches fit, at least one. Errors: ConfigError if nobody knows how many tasks
    there are, or if the default of budget.max_steps would end the run before.
    """
    budget = config.budget
    if budget.max_epochs is None:
        return None
    if not isinstance(parts.tasks, PooledTasks):
        raise ConfigError(
            f"budget.max_epochs = {budget.max_epochs}: tasks.kind = {config.tasks.kind!r} does not tell how many "
            "training tasks it has; set budget.max_steps"
        )
    tasks = len(parts.tasks.training())
    steps = budget.max_epochs * max(1, tasks // config.rollout.prompts_per_step)
    if steps > budget.max_steps and "max_steps" not in budget.model_fields_set:
        raise ConfigError(
            f"budget.max_epochs = {budget.max_epochs} are {steps} steps of {config.rollout.prompts_per_step} of "
            f"{tasks} tasks, and the default of budget.max_steps = {budget.max_steps} would end the run before; set "
            "max_steps"
        )
    return steps

"""Which prompts have stalled, with what confidence, and whether the critic should be asked about a group now.

    FRESH -> PLATEAUED          enough recent failures, success bounded from above, past the exemption
    PLATEAUED -> RESCUED        a success under the bare prompt, and nothing else; evidence starts anew
    PLATEAUED -> DORMANT        `max_tries` critiqued visits without a verified refinement
    DORMANT -> PLATEAUED        after `cooldown_visits` visits;  DORMANT -> RESCUED as above;  RESCUED -> as FRESH

Must not know: critics, refinements' text, torch.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from critique_rl.config.plateau import MIN_BLOCKS, PlateauConfig
from critique_rl.errors import ConfigError
from critique_rl.schedule.causes import GroupCause, GroupEvidence, group_evidence
from critique_rl.schedule.history import StepRecord, mean_rewards
from critique_rl.schedule.state import STALLED, PromptRecord, PromptStatus, TrackerState, dump_state, load_state
from critique_rl.stats.intervals import success_upper_bound
from critique_rl.stats.trend import TrendReport, run_trend
from critique_rl.types import Score


class GroupState(NamedTuple):
    """What is known about a prompt after this group. `failures` and `successes` are the remembered ones; `select` says
    whether the critic should be asked about the group now."""

    status: PromptStatus
    cause: GroupCause
    upper_bound: float
    failures: int
    successes: int
    select: bool


class PlateauTracker:
    """Per-prompt state machine and run-level history (Critique-GRPO triggers on the current group alone,
    arXiv 2506.03106; the exemption follows Scaf-GRPO, arXiv 2510.19807).

    Args: `total_steps` is the run's length, needed only for `exempt_fraction`. Raises ConfigError without it then.
    """

    def __init__(self, config: PlateauConfig, *, total_steps: int | None = None) -> None:
        if config.exempt_fraction and total_steps is None:
            raise ConfigError(
                f"plateau.exempt_fraction = {config.exempt_fraction} needs the run's number of steps, and none is "
                "known; set plateau.exempt_steps instead"
            )
        self.config = config
        self.exempt_steps = max(config.exempt_steps, math.ceil(config.exempt_fraction * (total_steps or 0)))
        self._state = TrackerState()

    # -- one group ---------------------------------------------------------------------------------------------------

    def observe(
        self, step: int, task_id: str, scores: Sequence[Score], finished: Sequence[bool], *, kind: str = ""
    ) -> GroupState:
        """Take in one group of plain rollouts (steps count from 0) and say where its prompt stands."""
        evidence = group_evidence(
            scores,
            finished,
            count_unparsed=self.config.critique_unparsed,
            count_truncated=self.config.critique_truncated,
        )
        record = self._state.prompts.setdefault(task_id, PromptRecord())
        record.kind = kind
        self._record_step(step).add(kind, evidence)
        self._advance(record, evidence, step)
        return GroupState(
            status=record.status,
            cause=evidence.cause,
            upper_bound=self._bound(record),
            failures=record.failures,
            successes=record.successes,
            select=step >= self.exempt_steps and self._select(record, evidence),
        )

    def note_critiqued(self, task_id: str, step: int) -> None:
        """The critic was asked about this prompt's group: one try is used."""
        self._known(task_id, step).tries += 1

    def note_rescued(self, task_id: str, step: int) -> None:
        """A critique led to a verified refinement: the tries so far were not in vain, and counting starts again.

        The prompt stays PLATEAUED until it succeeds under the bare prompt.
        """
        self._known(task_id, step).tries = 0

    # -- the whole run -----------------------------------------------------------------------------------------------

    @property
    def stalled(self) -> bool:
        """Whether any prompt is stalled now (plateaued, or resting between tries)."""
        return any(r.status in STALLED for r in self._state.prompts.values())

    @property
    def first_stall_step(self) -> int | None:
        """The first step at which a prompt was plateaued, or None."""
        return self._state.first_stall_step

    def counts(self) -> Mapping[str, float]:
        """Scalars of the latest step for the trackers: prompts by status, groups' share by cause."""
        statuses = Counter(record.status for record in self._state.prompts.values())
        shares = self._state.history[-1].shares() if self._state.history else {}
        return {f"plateau/{status.value}": float(statuses[status]) for status in PromptStatus} | {
            f"groups/{cause}": share for cause, share in shares.items()
        }

    def run_report(self, kind: str | None = None) -> TrendReport:
        """Trend of the mean reward per step over the last `horizon` steps, of one task kind or of all."""
        config = self.config
        values = mean_rewards(self._state.history, kind=kind, last=config.horizon)
        return run_trend(
            values,
            block=config.block,
            horizon=config.horizon,
            delta=config.delta,
            alpha=config.alpha,
            min_blocks=MIN_BLOCKS,
        )

    def message(self) -> str:
        """One sentence for a person: which prompts are stalled, how sure that is, and where the reward is going."""
        stalled = [r for r in self._state.prompts.values() if r.status in STALLED]
        kind = Counter(r.kind for r in stalled).most_common(1)[0][0] if stalled else None
        report = self.run_report(kind)
        which = f" on {kind} prompts" if kind else ""
        trend = f"reward trend{which} {report.verdict} ({_why(report)})"
        if kind is None:
            return f"no stall: 0 of {_prompts(len(self._state.prompts))} plateaued; {trend}"
        alike = [r for r in stalled if r.kind == kind]
        seen = sum(r.kind == kind for r in self._state.prompts.values())
        evidence = min(r.successes + r.failures for r in alike)
        bound = max(self._bound(r) for r in alike)
        verb = "hardly ever succeed" if any(r.successes for r in alike) else "all-fail"
        return (
            f"stall: {len(alike)} of {_prompts(seen, kind)} {verb} over >={evidence} rollouts each "
            f"({self.config.confidence:.0%} upper bound on success {bound:.2f} or less); {trend}"
        )

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, object]:
        """The whole state as plain JSON values."""
        return dump_state(self._state)

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue exactly from `state_dict()`'s value. Raises CheckpointError if it is something else."""
        self._state = load_state(state)

    # -- inside ------------------------------------------------------------------------------------------------------

    def _known(self, task_id: str, step: int) -> PromptRecord:
        record = self._state.prompts.get(task_id)
        assert record is not None, f"step {step}: prompt {task_id!r} was never observed"
        return record

    def _record_step(self, step: int) -> StepRecord:
        history = self._state.history
        if not history or history[-1].step != step:
            assert not history or step > history[-1].step, f"step {step} after step {history[-1].step}"
            history.append(StepRecord(step=step))
        return history[-1]

    def _bound(self, record: PromptRecord) -> float:
        successes, failures = record.successes, record.failures
        return success_upper_bound(successes, failures, self.config.confidence) if successes + failures else 1.0

    def _advance(self, record: PromptRecord, evidence: GroupEvidence, step: int) -> None:
        config = self.config
        if evidence.successes and record.status in STALLED:
            record.status, record.visits, record.tries = PromptStatus.RESCUED, [], 0
        record.remember(evidence.successes, evidence.failures, window=config.window_rollouts)
        if record.status is PromptStatus.DORMANT:
            record.rested += 1
            if record.rested > config.cooldown_visits:
                record.status, record.tries = PromptStatus.PLATEAUED, 0
        elif record.status is PromptStatus.PLATEAUED:
            if config.mode == "tracker" and record.tries >= config.max_tries:
                record.status, record.rested = PromptStatus.DORMANT, 1
        elif (
            step >= self.exempt_steps
            and not evidence.successes
            and record.failures >= config.min_failures
            and self._bound(record) <= config.max_success
        ):
            record.status, record.tries = PromptStatus.PLATEAUED, 0
            if self._state.first_stall_step is None:
                self._state.first_stall_step = step

    def _select(self, record: PromptRecord, evidence: GroupEvidence) -> bool:
        config = self.config
        if config.mode == "never" or evidence.cause is GroupCause.VERIFIER_ERROR:
            return False
        if config.mode == "always":
            return True
        wanted = {
            GroupCause.HOPELESS: True,
            GroupCause.UNPARSED: config.critique_unparsed,
            GroupCause.TRUNCATED: config.critique_truncated,
        }.get(evidence.cause, False)
        return wanted and (config.mode == "paper" or record.status is PromptStatus.PLATEAUED)


def _why(report: TrendReport) -> str:
    if report.verdict == "undecided":
        return report.reason
    return f"Sen slope {report.slope:.2g} per step, p {report.test.p:.2g}"


def _prompts(count: int, kind: str = "") -> str:
    noun = "prompt" if count == 1 else "prompts"
    return f"{count} {kind} {noun}" if kind else f"{count} {noun}"

"""Which prompts have stalled, with what confidence, and whether the critic should be asked about a group now.

    FRESH -> PLATEAUED          enough recent failures, success bounded from above, past the exemption
    PLATEAUED -> RESCUED        a success under the bare prompt, and nothing else; evidence starts anew
    PLATEAUED -> DORMANT        `max_tries` critiqued visits without a verified refinement
    DORMANT -> PLATEAUED        after `cooldown_visits` visits, one rung up;  DORMANT -> RESCUED, RESCUED -> as above

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
from critique_rl.schedule.run_causes import RunAlarm, RunCause, alarms_of, check_due, note_group
from critique_rl.schedule.state import (
    STALLED,
    PromptRecord,
    PromptStatus,
    StateMark,
    TrackerState,
    VerifierRecord,
    dump_state,
    load_state,
)
from critique_rl.schedule.wording import stall_message
from critique_rl.stats.intervals import success_upper_bound
from critique_rl.stats.trend import TrendReport, run_trend
from critique_rl.types import Score


class GroupState(NamedTuple):
    """What is known about a prompt after this group. `failures` and `successes` are the remembered ones; `select` says
    whether the critic should be asked about the group now, `rung` with which step of the guidance ladder."""

    status: PromptStatus
    cause: GroupCause
    upper_bound: float
    failures: int
    successes: int
    select: bool
    rung: int


class PlateauTracker:
    """Per-prompt state machine and run-level history (Critique-GRPO triggers on the current group alone,
    arXiv 2506.03106; the exemption follows Scaf-GRPO, arXiv 2510.19807).

    Args: `total_steps` is the run's length, needed only for `exempt_fraction`. Raises ConfigError without it then.
    `rungs` is the length of the guidance ladder.
    """

    def __init__(self, config: PlateauConfig, *, total_steps: int | None = None, rungs: int = 1) -> None:
        assert rungs >= 1, f"a ladder of {rungs} rungs"
        if config.exempt_fraction and total_steps is None:
            raise ConfigError(
                f"plateau.exempt_fraction = {config.exempt_fraction} needs the run's number of steps, and none is "
                "known; set plateau.exempt_steps instead"
            )
        self.config = config
        self.exempt_steps = max(config.exempt_steps, math.ceil(config.exempt_fraction * (total_steps or 0)))
        self.rungs = rungs
        self._state = TrackerState()
        self._mark: StateMark | None = None
        self._unread: list[RunAlarm] = []

    # -- one group ---------------------------------------------------------------------------------------------------

    def observe(
        self,
        step: int,
        task_id: str,
        scores: Sequence[Score],
        finished: Sequence[bool],
        *,
        kind: str = "",
        verifier: str = "",
    ) -> GroupState:
        """Take in one group of plain rollouts (steps count from 0) and say where its prompt stands."""
        self._touch(task_id)
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
        judge = self._state.verifiers.setdefault(verifier, VerifierRecord())
        if note_group(judge, task_id, evidence, enough=self.config.alarm_prompts):
            message = f"verifier {verifier!r} has accepted an answer to {task_id!r}: critics may be asked again"
            self._unread.append(RunAlarm(RunCause.VERIFIER_WORKS, message))
        return GroupState(
            status=record.status,
            cause=evidence.cause,
            upper_bound=self._bound(record),
            failures=record.failures,
            successes=record.successes,
            select=step >= self.exempt_steps and not judge.broken and self._select(record, evidence),
            rung=min(record.rung, self.rungs - 1),
        )

    def note_critiqued(self, task_id: str, step: int) -> None:
        """The critic was asked about this prompt's group: one try is used."""
        self._known(task_id, step).tries += 1

    def note_rescued(self, task_id: str, step: int) -> None:
        """A critique led to a verified refinement: the tries so far were not in vain, and counting starts again.

        The prompt stays PLATEAUED until it succeeds under the bare prompt, and on its rung: the least that works.
        """
        self._known(task_id, step).tries = 0

    # -- verifiers ---------------------------------------------------------------------------------------------------

    def wants_verifier_check(self, verifier: str, step: int) -> bool:
        """Whether this verifier should be tried on reference answers before the step's groups are observed."""
        record = self._state.verifiers.get(verifier)
        return check_due(record, step, enough=self.config.alarm_prompts, every=self.config.recheck_steps)

    def note_verifier(self, verifier: str, step: int, *, accepts: bool | None, found: str = "") -> None:
        """What a check came to, in words for a person; None: it told nothing, and what was known stands.

        No critic is asked about a verifier that accepts nothing.
        """
        record = self._state.verifiers.setdefault(verifier, VerifierRecord())
        record.checks, record.checked_step = record.checks + 1, step
        if accepts is None:
            return
        if record.broken == accepts:
            cause = RunCause.VERIFIER_WORKS if accepts else RunCause.VERIFIER_BROKEN
            self._unread.append(RunAlarm(cause, found))
        record.accepts = accepts

    # -- the whole run -----------------------------------------------------------------------------------------------

    @property
    def stalled(self) -> bool:
        """Whether any prompt is stalled now (plateaued, or resting between tries)."""
        return any(r.status in STALLED for r in self._state.prompts.values())

    @property
    def first_stall_step(self) -> int | None:
        """The first step at which a prompt was plateaued, or None."""
        return self._state.first_stall_step

    def alarms(self) -> list[RunAlarm]:
        """What is wrong with the whole run, since the last call; each cause of the latest steps is told once a run."""
        state, config = self._state, self.config
        found, self._unread = self._unread, []
        for alarm in alarms_of(
            state.history, last=config.block, enough=config.alarm_prompts, critiqued=config.critique_truncated
        ):
            if alarm.cause.value not in state.told:
                state.told.append(alarm.cause.value)
                found.append(alarm)
        return found

    def counts(self) -> Mapping[str, float]:
        """Scalars of the latest step for the trackers: prompts by status, groups' share by cause, broken verifiers."""
        statuses = Counter(record.status for record in self._state.prompts.values())
        shares = self._state.history[-1].shares() if self._state.history else {}
        return {
            **{f"plateau/{status.value}": float(statuses[status]) for status in PromptStatus},
            **{f"groups/{cause}": share for cause, share in shares.items()},
            "plateau/broken_verifiers": float(sum(record.broken for record in self._state.verifiers.values())),
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
        return stall_message(self._state.prompts.values(), self.run_report, self._bound, self.config.confidence)

    # -- checkpoints -------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, object]:
        """The whole state as plain JSON values."""
        return dump_state(self._state)

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Continue exactly from `state_dict()`'s value. Raises CheckpointError if it is something else."""
        self._state = load_state(state)
        self._mark, self._unread = None, []

    def mark(self) -> None:
        """Remember this moment for `rollback`; takes the place of an earlier mark. What it costs does not grow with the
        number of prompts."""
        self._mark = StateMark(self._state)

    def rollback(self) -> None:
        """Undo everything since `mark`, once."""
        assert self._mark is not None, "rollback without a mark"
        self._mark.restore()
        self._mark, self._unread = None, []

    # -- inside ------------------------------------------------------------------------------------------------------

    def _touch(self, task_id: str) -> None:
        if self._mark is not None:
            self._mark.keep(task_id)

    def _known(self, task_id: str, step: int) -> PromptRecord:
        self._touch(task_id)
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
                record.rung = min(record.rung + 1, self.rungs - 1)
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

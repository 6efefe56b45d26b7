"""What is wrong with a whole run, beside its prompts: a verifier that accepts nothing, errs, or judges cut-off text.

Owns: when a verifier should be checked on reference answers, and when a cause is told. Must not know: how a verifier is
checked, critics, single prompts' states.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from critique_rl.schedule.causes import GroupCause, GroupEvidence
from critique_rl.schedule.history import StepRecord
from critique_rl.schedule.state import VerifierRecord


class RunCause(StrEnum):
    """`verifier_broken`: not even reference answers are accepted. `verifier_works`: they are, or a rollout was, after
    all. `verifier_error`: the verifier fails on most rollouts. `truncated`: most groups without a success were cut off
    at the token limit."""

    VERIFIER_BROKEN = "verifier_broken"
    VERIFIER_WORKS = "verifier_works"
    VERIFIER_ERROR = "verifier_error"
    TRUNCATED = "truncated"


class RunAlarm(NamedTuple):
    """A cause, and a sentence on it for a person."""

    cause: RunCause
    message: str


def note_group(record: VerifierRecord, task_id: str, evidence: GroupEvidence, *, enough: int) -> bool:
    """Take in a group of this verifier; True if a success has just shown that it is not broken after all."""
    if evidence.successes:
        mistaken = record.broken
        record.succeeded, record.failed = True, []
        record.accepts = True if mistaken else record.accepts
        return mistaken
    if evidence.judged and not record.succeeded and len(record.failed) < enough and task_id not in record.failed:
        record.failed.append(task_id)
    return False


def check_due(record: VerifierRecord | None, step: int, *, enough: int, every: int) -> bool:
    """Whether a verifier should be tried on reference answers.

    At first sight, when `enough` prompts have failed without a success ever, and from then on, or while it is broken,
    every `every` steps. One success ends it.
    """
    if record is None or not record.checks:
        return True
    if record.succeeded:
        return False
    without_success = len(record.failed) >= enough
    if record.checks == 1 and without_success and not record.broken:
        return True
    return (record.broken or without_success) and step - record.checked_step >= every


def alarms_of(history: Sequence[StepRecord], *, last: int, enough: int, critiqued: bool) -> list[RunAlarm]:
    """What the last `last` steps say of the whole run, from `enough` groups on. "Most" is more than half.

    `critiqued`: whether critics are asked about truncated groups.
    """
    window = history[-last:]
    causes = {cause: sum(record.causes.get(cause.value, 0) for record in window) for cause in GroupCause}
    found: list[RunAlarm] = []
    errors = sum(record.errors for record in window)
    rollouts = errors + sum(sum(record.judged.values()) for record in window)
    if sum(causes.values()) >= enough and 2 * errors > rollouts:
        found.append(
            RunAlarm(
                RunCause.VERIFIER_ERROR,
                f"the verifier failed on {errors} of {rollouts} rollouts of the last {len(window)} steps; they teach "
                "nothing, and no critic is asked about them: the scores' details in samples.jsonl say why (a time "
                "limit, a reference that it cannot read)",
            )
        )
    cut = causes[GroupCause.TRUNCATED]
    failing = cut + causes[GroupCause.HOPELESS] + causes[GroupCause.UNPARSED]
    if failing >= enough and 2 * cut > failing:
        asked = "are asked about them all the same" if critiqued else "are not asked about them"
        found.append(
            RunAlarm(
                RunCause.TRUNCATED,
                f"{cut} of {failing} groups without a success in the last {len(window)} steps were mostly cut off: "
                f"rollout.max_tokens is the likely cause, raise it; critics {asked} (plateau.critique_truncated)",
            )
        )
    return found

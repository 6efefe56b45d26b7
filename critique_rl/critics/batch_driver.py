"""Takes planned requests through a batch service to their answers, and picks up where a killed process left off.

Owns: the order of intents and calls, shard limits, budgets, what becomes of unanswered lines. Must not know: which
service it is, what a reply means, where answers are kept. A submission that may have worked is looked up, not repeated.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from critique_rl.critics.batch_files import LineResult, ResultLines, encode_line
from critique_rl.critics.batch_journal import BatchJournal, Ending, LineCounts, SentLine, Shard, ShardState
from critique_rl.critics.batches import BatchBackend, BatchState, BatchStatus, BatchUnsureError
from critique_rl.critics.completion import ChatReply
from critique_rl.errors import (
    CriticBudgetError,
    CriticError,
    CriticMalformedError,
    CriticRateLimitError,
    CriticRefusedError,
    CriticSetupError,
    CriticTimeoutError,
)
from critique_rl.net import Budget
from critique_rl.types import CriticOutcome, Usage

RUN_FIELD, SHARD_FIELD = "critique_rl_run", "critique_rl_shard"
_ENDS = {
    BatchState.COMPLETED: ShardState.DONE,
    BatchState.EXPIRED: ShardState.EXPIRED,
    BatchState.FAILED: ShardState.FAILED,
    BatchState.CANCELLED: ShardState.CANCELLED,
}
ERROR_OF: dict[CriticOutcome, type[CriticError]] = {
    CriticOutcome.TIMED_OUT: CriticTimeoutError,
    CriticOutcome.RATE_LIMITED: CriticRateLimitError,
    CriticOutcome.REFUSED: CriticRefusedError,
    CriticOutcome.MALFORMED: CriticMalformedError,
    CriticOutcome.OVER_BUDGET: CriticBudgetError,
}
_QUEUE_FULL = ("token_limit_exceeded", "enqueued")
_FAILED_POLLS = 20
_LOOKUP_PAUSE_S = 5.0
_BACKOFF = 1.5


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchLimits:
    """What one file may hold, and how long to wait (seconds). `max_enqueued_tokens`: estimated tokens of all batches
    under way; `max_attempts`: batches that one line may be part of; `settle_s`: how long a submission whose answer was
    lost may take to appear in the service's list."""

    max_shard_lines: int = 50_000
    max_shard_bytes: int = 100_000_000
    max_enqueued_tokens: int | None = None
    max_attempts: int = 3
    poll_s: float = 15.0
    poll_cap_s: float = 300.0
    settle_s: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchEvent:
    """One step, for progress: the shard's new state ("" if none changed), all lines by state, one line for a person."""

    shard: int
    state: str
    counts: LineCounts
    message: str = ""


class BatchReport(NamedTuple):
    """Where the journal stands. `ignored` counts result lines that nobody asked for, `duplicates` those that came
    twice, `unreadable` those that are no result; `halted`: a batch was cancelled, so nothing more was submitted."""

    counts: LineCounts
    under_way: int
    ignored: int
    duplicates: int
    unreadable: int
    halted: bool

    @property
    def finished(self) -> bool:
        return self.counts.planned + self.counts.sent == 0


class _Choice(NamedTuple):
    keys: list[str]
    content_hash: str
    refused: list[Ending]


def outcome_of(error: CriticError) -> CriticOutcome:
    """How a critic call with this error ended."""
    return next((outcome for outcome, kind in ERROR_OF.items() if isinstance(error, kind)), CriticOutcome.FAILED)


class BatchDriver:
    """Works on one journal through one backend."""

    def __init__(
        self,
        journal: BatchJournal,
        backend: BatchBackend,
        *,
        read: Callable[[Sequence[str]], ResultLines],
        on_answer: Callable[[str, ChatReply], None],
        limits: BatchLimits | None = None,
        budget: Budget | None = None,
        on_event: Callable[[BatchEvent], None] | None = None,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`on_answer(key, reply)` must have kept the reply for good when it returns; it may be called again with it."""
        self._journal = journal
        self._backend = backend
        self._read = read
        self._on_answer = on_answer
        self._limits = limits or BatchLimits()
        self._budget = budget or Budget()
        self._on_event = on_event
        self._now = now
        self._sleep = sleep
        self._ignored = self._duplicates = self._unreadable = 0
        self._halted = False
        self._queue_full = False

    def run(self, *, wait: bool = True) -> BatchReport:
        """Submit what is planned and collect what has ended; with `wait` until nothing is left to do.

        Raises CriticError if the service fails for good; what is under way there stays in the journal.
        """
        pause_s, failed_polls = self._limits.poll_s, 0
        while True:
            try:
                moved = self._round()
                failed_polls = 0
            except CriticSetupError:
                raise
            except CriticError as error:
                failed_polls += 1
                if not wait or failed_polls >= _FAILED_POLLS:
                    raise
                moved = False
                self._tell(None, f"the batch service failed, trying again: {error}")
            counts = self._journal.counts()
            if not wait or not (counts.sent or (counts.planned and not self._halted)):
                return self._report()
            pause_s = self._limits.poll_s if moved else min(self._limits.poll_cap_s, pause_s * _BACKOFF)
            self._sleep(pause_s)

    def cancel(self) -> int:
        """Cancel all that is under way; the number of batches asked to end. Their finished lines are paid and kept."""
        self._halted, cancelled = True, 0
        for shard in self._journal.open_shards():
            settled = self._look_up(shard) if shard.state is ShardState.SUBMITTING else shard
            if settled.state is ShardState.SUBMITTED:
                self._backend.cancel(settled.batch_id)
                cancelled += 1
                self._collect(settled)
            else:
                waiting = [Ending(line.key, None, "") for line in self._journal.lines_of(settled)]
                self._journal.end(settled, ShardState.CANCELLED, answered=(), endings=waiting)
                self._tell(settled, "taken back before it was submitted")
        return cancelled

    def _round(self) -> bool:
        """Collect, then submit what there is room for; True if anything moved."""
        moved = False
        for shard in self._journal.open_shards():
            if shard.state is ShardState.SUBMITTED:
                moved = self._collect(shard) or moved
            else:
                self._advance(shard)
                moved = True
        while not self._halted and not self._queue_full:
            shard = self._next_shard()
            if shard is None:
                break
            self._advance(shard)
            moved = True
        # With nothing else under way there is nothing to wait for but time.
        self._queue_full = self._queue_full and bool(self._journal.open_shards())
        return moved

    def _next_shard(self) -> Shard | None:
        while True:
            choice = self._choose()
            if choice.refused:
                self._journal.fail(choice.refused)
                self._tell(None, f"{len(choice.refused)} requests are not sent: {choice.refused[0].reason}")
            if choice.keys:
                shard = self._journal.add_shard(choice.keys, content_hash=choice.content_hash)
                self._tell(shard)
                return shard
            if not choice.refused:
                return None

    def _choose(self) -> _Choice:
        """Waiting lines for one more shard, and lines that can never go into one."""
        limits, committed = self._limits, self._journal.committed()
        queued = self._journal.tokens_under_way()
        under_way = bool(self._journal.open_shards())
        choice, hashed = _Choice(keys=[], content_hash="", refused=[]), hashlib.sha256()
        size, tokens, cost_usd = 0, 0, 0.0
        for line in self._journal.waiting():
            encoded = encode_line(line.key, line.body).encode() + b"\n"
            if len(encoded) > limits.max_shard_bytes:
                reason = f"the request has {len(encoded)} bytes, a batch file at most {limits.max_shard_bytes}"
                choice.refused.append(Ending(line.key, CriticOutcome.FAILED, reason))
                continue
            room = limits.max_enqueued_tokens
            crowded = room is not None and queued + tokens + line.tokens > room and bool(choice.keys or under_way)
            if crowded or len(choice.keys) >= limits.max_shard_lines or size + len(encoded) > limits.max_shard_bytes:
                break
            spent = self._over_budget(
                committed.calls + len(choice.keys) + 1,
                committed.tokens + tokens + line.tokens,
                committed.cost_usd + cost_usd + (line.cost_usd or 0.0),
            )
            if spent and (choice.keys or under_way):
                break  # estimates are upper bounds: what is under way may leave room
            if spent:
                choice.refused.append(Ending(line.key, CriticOutcome.OVER_BUDGET, spent))
                continue
            choice.keys.append(line.key)
            hashed.update(encoded)
            size, tokens, cost_usd = size + len(encoded), tokens + line.tokens, cost_usd + (line.cost_usd or 0.0)
        return choice._replace(content_hash=hashed.hexdigest())

    def _over_budget(self, calls: int, tokens: int, cost_usd: float) -> str:
        caps = (
            ("max_calls", self._budget.max_calls, calls),
            ("max_total_tokens", self._budget.max_tokens, tokens),
            ("max_cost_usd", self._budget.max_cost_usd, cost_usd),
        )
        for name, cap, wanted in caps:
            if cap is not None and wanted > cap:
                return f"{name} = {cap:g}: with this request it could come to {wanted:g}"
        return ""

    def _advance(self, shard: Shard) -> Shard:
        """Bring an open shard to SUBMITTED. Raises CriticError."""
        for _ in range(max(1, self._limits.max_attempts)):
            if shard.state is ShardState.SUBMITTING:
                shard = self._look_up(shard)
            if shard.state in (ShardState.PLANNED, ShardState.UPLOADING):
                shard = self._upload(shard)
            if shard.state is ShardState.UPLOADED:
                shard = self._submit(shard)
            if shard.state is ShardState.SUBMITTED:
                return shard
        raise CriticError(
            f"batch {shard.number} could not be submitted: no answer, and it is not in the service's list"
        )

    def _upload(self, shard: Shard) -> Shard:
        shard = self._move(shard, ShardState.UPLOADING)
        lines = self._journal.lines_of(shard)
        content = "".join(encode_line(line.key, line.body) + "\n" for line in lines).encode()
        file_id = self._backend.upload(f"critique-rl-{self._journal.run_id}-{shard.number}.jsonl", content)
        return self._move(shard, ShardState.UPLOADED, file_id=file_id)

    def _submit(self, shard: Shard) -> Shard:
        shard = self._move(shard, ShardState.SUBMITTING, since_s=self._now())
        try:
            batch_id = self._backend.submit(shard.file_id, self._metadata(shard))
        except BatchUnsureError as error:
            self._tell(shard, f"the submission's answer was lost ({error}); looking it up")
            return shard
        except CriticError:
            # The service said no. Its file may be what it does not like, so the next run uploads again.
            self._move(shard, ShardState.PLANNED)
            raise
        return self._move(shard, ShardState.SUBMITTED, batch_id=batch_id)

    def _look_up(self, shard: Shard) -> Shard:
        """Find out what became of a submission: SUBMITTED if the service has it, else UPLOADED after `settle_s`."""
        limits, now = self._limits, self._now()
        # min: a clock that was set back must not make this longer.
        until = now + min(limits.settle_s, max(0.0, shard.since_s + limits.settle_s - now))
        while True:
            batch_id = self._backend.find(self._metadata(shard))
            if batch_id is not None:
                return self._move(shard, ShardState.SUBMITTED, batch_id=batch_id)
            left_s = until - self._now()
            if left_s <= 0:
                return self._move(shard, ShardState.UPLOADED)
            self._sleep(min(left_s, _LOOKUP_PAUSE_S))

    def _collect(self, shard: Shard) -> bool:
        """Take in a batch that has ended; False if it has not."""
        status = self._backend.poll(shard.batch_id)
        if status.state is BatchState.RUNNING:
            self._tell(shard, f"{status.done_lines} of {status.all_lines} lines done")
            return False
        files = [file_id for file_id in (status.output_file_id, status.error_file_id) if file_id]
        found = self._read([line for file_id in files for line in self._backend.fetch(file_id)])
        answered: list[tuple[str, Usage]] = []
        endings: list[Ending] = []
        lines = self._journal.lines_of(shard)
        for line in lines:
            result = found.results.get(line.key)
            if result is not None and result.reply is not None:
                self._on_answer(line.key, result.reply)
                answered.append((line.key, result.reply.usage))
            else:
                endings.append(self._ending(line, result, status))
        self._ignored += len(found.results.keys() - {line.key for line in lines})
        self._duplicates += found.duplicates
        self._unreadable += found.unreadable
        self._halted = self._halted or status.state is BatchState.CANCELLED
        self._queue_full = status.state is BatchState.FAILED and any(word in status.reason for word in _QUEUE_FULL)
        self._journal.end(shard, _ENDS[status.state], answered=answered, endings=endings, reason=status.reason)
        self._tell(self._journal.shard(shard.number), f"{len(answered)} answers, {len(endings)} lines without one")
        return True

    def _ending(self, line: SentLine, result: LineResult | None, status: BatchStatus) -> Ending:
        error = result.error if result is not None else None
        if error is None:
            reason = f": {status.reason}" if status.reason else ""
            missing = f"the batch ended as {status.state} without this line{reason}"
            error = CriticTimeoutError(missing) if status.state is BatchState.EXPIRED else CriticError(missing)
        retryable = result is None or result.retryable
        # A person cancelled: that is no fault of the line's.
        again = retryable and (line.attempt < self._limits.max_attempts or status.state is BatchState.CANCELLED)
        used = result.used if result is not None else Usage()
        return Ending(line.key, None if again else outcome_of(error), str(error), used)

    def _metadata(self, shard: Shard) -> dict[str, str]:
        return {RUN_FIELD: self._journal.run_id, SHARD_FIELD: shard.mark}

    def _move(
        self, shard: Shard, state: ShardState, *, file_id: str = "", batch_id: str = "", since_s: float = 0.0
    ) -> Shard:
        moved = self._journal.move(shard, state, file_id=file_id, batch_id=batch_id, since_s=since_s)
        self._tell(moved)
        return moved

    def _tell(self, shard: Shard | None, message: str = "") -> None:
        if self._on_event is not None:
            number, state = (shard.number, str(shard.state)) if shard is not None else (0, "")
            self._on_event(BatchEvent(shard=number, state=state, counts=self._journal.counts(), message=message))

    def _report(self) -> BatchReport:
        return BatchReport(
            counts=self._journal.counts(),
            under_way=len(self._journal.open_shards()),
            ignored=self._ignored,
            duplicates=self._duplicates,
            unreadable=self._unreadable,
            halted=self._halted,
        )

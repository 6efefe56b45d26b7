"""One batch run: a file of rollouts through a critic into a file of feedback, in any number of sittings.

Owns: what is asked again, the estimate, the window of open requests, the end of a run.
Must not know: how a critic answers, the form of the files. Beside FEEDBACK.jsonl lie FEEDBACK.run.json,
FEEDBACK.failed.jsonl and FEEDBACK.cache.sqlite; the last one keeps an answer that was paid for but not yet written.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from critique_rl.build_critic import build_critic
from critique_rl.config.critic import (
    CriticConfig,
    LiteLLMCriticConfig,
    OpenAICriticConfig,
    PolicyCriticConfig,
    PromptedCriticConfig,
    PythonCriticConfig,
    members_of,
    shows_reference,
    with_members,
)
from critique_rl.config.load import load_run
from critique_rl.critics.estimate import Estimate, Estimator
from critique_rl.critics.policy_critic import Ask
from critique_rl.errors import ConfigError, DataError
from critique_rl.feedback.batch_spec import BatchSpec
from critique_rl.feedback.journal import FeedbackJournal, only_writer
from critique_rl.feedback.row_sources import source_digest
from critique_rl.feedback.rows import FeedbackRow, RolloutRow, read_rollouts, request_of, rollout_to_json
from critique_rl.feedback.run_record import (
    RunRecord,
    SpentRecord,
    State,
    check_same_run,
    load_record,
    public_config,
    versions,
)
from critique_rl.feedback.spending import rest_of_budget, spent_by_critic, together, total
from critique_rl.feedback.stop_request import StopRequest
from critique_rl.prompting.catalogue import load_prompt
from critique_rl.protocols import Critic, StreamingCritic
from critique_rl.trackers.batch_progress import BatchProgress
from critique_rl.types import CriticOutcome, Critique

ASKED_AGAIN = frozenset(
    {CriticOutcome.TIMED_OUT, CriticOutcome.RATE_LIMITED, CriticOutcome.OVER_BUDGET, CriticOutcome.FAILED}
)
"""Outcomes that say nothing about a row: the next run asks about it again."""
ANSWERED = frozenset({CriticOutcome.OK, CriticOutcome.ABSTAINED})
WINDOWS = 2
"""Requests handed to a critic, as a multiple of what it has in flight: it never waits for the next row."""
_IN_FLIGHT = 16
_LOOK_UP_S = 0.25


class BatchEnd(NamedTuple):
    """How a run ended; `outcomes` and `spent` count everything in the output, `failed` the rows in the failed file."""

    rows: int
    pending: int
    outcomes: Mapping[str, int]
    failed: int
    spent: SpentRecord
    interrupted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What one sitting does: `order` is every id of the input, `pending` the ids to ask about."""

    record: RunRecord
    journal: FeedbackJournal
    order: tuple[str, ...]
    pending: frozenset[str]
    selected: int
    estimate: Estimate


def estimate_batch(spec: BatchSpec) -> Estimate:
    """What a run would ask now, with the whole input validated; writes nothing. Raises ConfigError, DataError."""
    return _plan(spec).estimate


def run_batch(
    spec: BatchSpec, *, console: Console | None = None, critic: Callable[[], Critic] | None = None
) -> BatchEnd:
    """Ask about every row that has no outcome yet. A row is in the output as soon as it is finished.

    `critic` makes the critic to ask in place of the spec's own: one that has its answers from a batch endpoint.
    Raises ConfigError, DataError, PromptError, CriticSetupError, MissingExtraError, OSError; what is written stays.
    """
    if Path(spec.rollouts).resolve() == spec.out_path.resolve():
        raise ConfigError(f"out = {spec.out!r} is also the input; choose another --out")
    with only_writer(spec.out_path), StopRequest() as stop:
        plan = _plan(spec)
        progress = BatchProgress(total=plan.selected, kept=plan.selected - len(plan.pending), console=console)
        for line in plan.estimate.lines():
            progress.say(line)
        record = _begin(spec, plan)
        state: State = "stopped"
        try:
            if plan.pending:
                _ask_all(spec, plan, record, progress, stop, critic or _own_critic(spec, plan, record))
            state = "interrupted" if stop.asked else "complete"
        except KeyboardInterrupt:
            state = "interrupted"
            raise
        finally:
            progress.close()
            end = _finish(spec, plan, record, state)
        return end


def _plan(spec: BatchSpec) -> _Plan:
    config = _with_cache(spec)
    if _is_policy(config) and not spec.run:
        raise ConfigError("critic: which policy? name its run file with --run, or serve it and give MODEL@URL")
    digest = source_digest(spec.rollouts)
    record_path = spec.beside("run.json")
    earlier = load_record(record_path)
    journal = FeedbackJournal(spec.out_path)
    if earlier is None and len(journal):
        raise DataError(
            f"{spec.out}: it exists, and {record_path} does not, so no run here wrote it: choose another --out"
        )
    again = ASKED_AGAIN | {CriticOutcome.MALFORMED, CriticOutcome.REFUSED} if spec.retry_failed else ASKED_AGAIN
    outcomes = journal.outcomes
    estimator = Estimator(config)
    rows_digest = None if digest else hashlib.sha256()
    order: list[str] = []
    pending: set[str] = set()
    selected = 0
    for row in read_rollouts(spec.rollouts):
        order.append(row.id)
        if rows_digest is not None:
            rows_digest.update(json.dumps(rollout_to_json(row), sort_keys=True).encode() + b"\n")
        if not spec.takes(row.id) or selected == spec.limit:
            continue
        selected += 1
        if row.id not in outcomes or outcomes[row.id] in again:
            pending.add(row.id)
            estimator.add(request_of(row, show_reference=shows_reference(config)))
    if not order:
        raise DataError(f"{spec.rollouts} has no rows; wanted at least one with id, question and attempt")
    now = RunRecord(
        critic=public_config(config),
        prompt_hashes=_prompt_hashes(config),
        source=spec.rollouts,
        sha256=digest or (rows_digest.hexdigest() if rows_digest else ""),
        input_rows=len(order),
        shard=spec.shard,
        limit=spec.limit,
        rows=selected,
        pending=len(pending),
        started=_now(),
        updated=_now(),
        versions=versions(),
    )
    if earlier is not None:
        check_same_run(earlier, now, out=spec.out_path)
        now = replace(now, started=earlier.started, set_aside=earlier.set_aside)
    foreign = next(iter(journal.outcomes.keys() - set(order)), None)
    if foreign is not None:
        raise DataError(f"{spec.out}: row {foreign!r} is not in {spec.rollouts}: remove it, or choose another --out")
    estimate = estimator.estimate(source=spec.rollouts, rows=selected, asked=len(pending))
    return _Plan(
        record=now,
        journal=journal,
        order=tuple(order),
        pending=frozenset(pending),
        selected=selected,
        estimate=estimate,
    )


def _begin(spec: BatchSpec, plan: _Plan) -> RunRecord:
    """Set aside the rows that are asked again. Their cost is on record before they go: a kill here forgets no money."""
    journal = plan.journal
    again = [row_id for row_id in journal.outcomes if row_id in plan.pending]
    record = plan.record
    if again:
        gone = spent_by_critic(row.critique for row in journal if row.rollout.id in plan.pending)
        record = replace(record, set_aside=together(record.set_aside, gone))
    record.save(spec.beside("run.json"))
    if again:
        journal.rewrite(row_id for row_id in plan.order if row_id not in plan.pending)
    return record


def _own_critic(spec: BatchSpec, plan: _Plan, record: RunRecord) -> Callable[[], Critic]:
    """The critic of the spec, with what is left of its budget."""

    def make() -> Critic:
        before = together(record.set_aside, spent_by_critic(row.critique for row in plan.journal))
        critic = build_critic(rest_of_budget(_with_cache(spec), before), ask=_policy_of(spec))
        assert critic is not None, "a batch spec always names a critic"
        return critic

    return make


def _policy_of(spec: BatchSpec) -> Ask | None:
    if not spec.run:
        return None
    from critique_rl.build import build_policy_asker  # torch comes with it

    return build_policy_asker(load_run(Path(spec.run)))


def _ask_all(
    spec: BatchSpec,
    plan: _Plan,
    record: RunRecord,
    progress: BatchProgress,
    stop: StopRequest,
    make: Callable[[], Critic],
) -> None:
    config = _with_cache(spec)
    critic = make()
    waiting = (row for row in read_rollouts(spec.rollouts) if row.id in plan.pending)

    def finish(row: RolloutRow, critique: Critique) -> None:
        plan.journal.append(FeedbackRow(rollout=row, critique=critique))
        used = total(spent_by_critic([critique]))
        progress.note(critique.outcome.value, cost_usd=used.cost_usd, unpriced=used.unpriced, cached=critique.cached)

    window = WINDOWS * _in_flight(config)
    progress.start()
    with_answer = shows_reference(config)
    try:
        if isinstance(critic, StreamingCritic):
            _stream(critic, waiting, finish, progress, stop, window=window, show_reference=with_answer)
        else:
            _in_chunks(critic, waiting, finish, stop, size=window, show_reference=with_answer)
    finally:
        critic.close()


def _stream(
    critic: StreamingCritic,
    waiting: Iterator[RolloutRow],
    finish: Callable[[RolloutRow, Critique], None],
    progress: BatchProgress,
    stop: StopRequest,
    *,
    window: int,
    show_reference: bool,
) -> None:
    """Keep `window` requests open until the rows or the patience of the user are at an end; then wait for the rest."""
    still_open: dict[Future[Critique], RolloutRow] = {}
    warned = False
    try:
        while True:
            while not stop.asked and len(still_open) < window and (row := next(waiting, None)) is not None:
                still_open[critic.submit(request_of(row, show_reference=show_reference))] = row
            if stop.asked and not warned:
                warned = True
                progress.say(f"stopping: waiting for {len(still_open)} open requests (Ctrl-C again: stop at once)")
            if not still_open:
                return
            done, _ = wait(still_open, timeout=_LOOK_UP_S, return_when=FIRST_COMPLETED)
            for future in done:
                critique = future.result()
                finish(still_open.pop(future), critique)
            progress.tick()
    finally:
        for future, row in still_open.items():
            if future.done() and not future.cancelled() and future.exception() is None:
                with suppress(OSError):  # the error on its way says why nothing more can be written
                    finish(row, future.result())
            future.cancel()


def _in_chunks(
    critic: Critic,
    waiting: Iterator[RolloutRow],
    finish: Callable[[RolloutRow, Critique], None],
    stop: StopRequest,
    *,
    size: int,
    show_reference: bool,
) -> None:
    while not stop.asked:
        rows = [row for _, row in zip(range(size), waiting, strict=False)]
        if not rows:
            return
        critiques = critic.review([request_of(row, show_reference=show_reference) for row in rows])
        for row, critique in zip(rows, critiques, strict=True):
            finish(row, critique)


def _finish(spec: BatchSpec, plan: _Plan, record: RunRecord, state: State) -> BatchEnd:
    """Bring the output into input order, copy failed rows out, write the record."""
    journal = plan.journal
    journal.rewrite(plan.order)
    failed = journal.export(spec.beside("failed.jsonl"), lambda outcome: outcome not in ANSWERED)
    spent = together(record.set_aside, spent_by_critic(row.critique for row in journal))
    outcomes = dict(sorted(Counter(outcome.value for outcome in journal.outcomes.values()).items()))
    left = sum(row_id not in journal for row_id in plan.pending)
    done = replace(record, state=state, pending=left, outcomes=outcomes, spent=spent, updated=_now())
    done.save(spec.beside("run.json"))
    return BatchEnd(
        rows=len(journal),
        pending=left,
        outcomes=outcomes,
        failed=failed,
        spent=total(spent),
        interrupted=state == "interrupted",
    )


def _with_cache(spec: BatchSpec) -> CriticConfig:
    """The critic section with a file of paid answers beside the output, unless it names one itself."""
    return _cached(spec.critic, str(spec.beside("cache.sqlite")))


def _cached(config: CriticConfig, path: str) -> CriticConfig:
    if members_of(config):
        return with_members(config, lambda member: _cached(member, path))
    if isinstance(config, OpenAICriticConfig | LiteLLMCriticConfig) and not config.cache:
        return config.model_copy(update={"cache": path})
    return config


def _is_policy(config: CriticConfig) -> bool:
    if members_of(config):
        return any(map(_is_policy, members_of(config)))
    return isinstance(config, PolicyCriticConfig)


def _prompt_hashes(config: CriticConfig) -> tuple[str, ...]:
    if members_of(config):
        return tuple(text for member in members_of(config) for text in _prompt_hashes(member))
    if isinstance(config, PythonCriticConfig):
        return (source_digest(config.path)[:16],)
    return (load_prompt(config.prompt).hash,) if isinstance(config, PromptedCriticConfig) else ()


def _in_flight(config: CriticConfig) -> int:
    if members_of(config):
        return max(map(_in_flight, members_of(config)))
    if isinstance(config, OpenAICriticConfig | LiteLLMCriticConfig | PythonCriticConfig):
        return config.max_in_flight
    return _IN_FLIGHT


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")

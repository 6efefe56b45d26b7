"""A run's requests through a provider's batch endpoint, or through a batch file, into its answer cache.

Owns: which rows still need an answer, where the journal lies (FEEDBACK.batches.sqlite), what a Ctrl-C leaves running.
Must not know: how feedback is written. A run ends by asking `Gathered.critic` about every row: it sends nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from critique_rl.config.critic import LiteLLMCriticConfig, OpenAICriticConfig, RemoteCriticConfig, shows_reference
from critique_rl.critics.batch_driver import BatchDriver, BatchEvent, BatchLimits, BatchReport, outcome_of
from critique_rl.critics.batch_files import (
    BatchLine,
    LineResult,
    ResultLines,
    read_result_file,
    read_results,
    write_requests,
)
from critique_rl.critics.batch_journal import BatchJournal, Committed
from critique_rl.critics.batched import BatchedCritic, Unanswered
from critique_rl.critics.batches import BatchBackend
from critique_rl.critics.completion import ChatReply
from critique_rl.critics.limits import budget_from
from critique_rl.critics.redaction import Redactor, keys_in_environment
from critique_rl.critics.remote import RemoteCritic
from critique_rl.errors import ConfigError
from critique_rl.feedback.batch_spec import BatchSpec
from critique_rl.feedback.cache import AnswerCache, CachedAnswer
from critique_rl.feedback.journal import FeedbackJournal, only_writer
from critique_rl.feedback.rows import RolloutRow, read_rollouts, request_of
from critique_rl.types import CriticOutcome

_SETTLED = frozenset({CriticOutcome.OK, CriticOutcome.ABSTAINED, CriticOutcome.MALFORMED})
Say = Callable[[str], None]


class Gathered(NamedTuple):
    """What one sitting came to. `critic()` makes the critic that answers from what is there; `spent` counts what was
    paid in batches, and what is under way at its estimate."""

    report: BatchReport
    spent: Committed
    critic: Callable[[], BatchedCritic]

    def message(self) -> str:
        """One or two sentences for a person."""
        counts = self.report.counts
        if self.report.finished:
            return f"batches: {counts.answered} requests answered, {counts.failed} given up"
        left = counts.planned + counts.sent
        if self.report.halted:
            return f"batches: cancelled; {left} requests have no answer: the same command again submits them"
        return (
            f"batches: {self.report.under_way} under way with {counts.sent} requests, {counts.planned} not yet sent: "
            "the same command again looks for answers"
        )


class TakenResults(NamedTuple):
    """What a results file held: answers kept, lines that failed, lines of other runs, repeated and unreadable lines,
    and requests without a line."""

    answered: int
    failed: int
    unknown: int
    duplicates: int
    unreadable: int
    missing: int
    critic: Callable[[], BatchedCritic]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchOptions:
    """`wait`: stay until every batch has ended; `cancel_on_exit`: a Ctrl-C cancels what is under way (what it has
    finished is paid for all the same); `limits`: sizes and clocks."""

    wait: bool = True
    cancel_on_exit: bool = False
    limits: BatchLimits = field(default_factory=BatchLimits)


_DEFAULT = BatchOptions()


def gather(
    spec: BatchSpec, *, options: BatchOptions = _DEFAULT, say: Say | None = None, backend: BatchBackend | None = None
) -> Gathered:
    """Send every request without an answer through the provider's batch endpoint; collect what has come back.

    Raises ConfigError, DataError, PromptError, CriticError; what is submitted stays in the journal.
    """
    config = _remote(spec)
    tell = say or _silent
    with only_writer(spec.out_path), closing(_planner(config)) as planner, closing(_journal(spec)) as journal:
        _check_budget(config, planner)
        with closing(_cache(spec)) as cache, closing(backend or _backend(config)) as service:
            # A line that was given up is tried again by a later campaign, not by the next poll of this one.
            over = journal.counts().planned + journal.counts().sent == 0
            refused = frozenset[CriticOutcome]() if spec.retry_failed else frozenset({CriticOutcome.REFUSED})
            journal.plan(_lines(spec, planner, cache), again=frozenset(CriticOutcome) - refused if over else ())
            driver = _driver(config, planner, journal, cache, service, options=options, say=tell)
            try:
                report = driver.run(wait=options.wait)
            except KeyboardInterrupt:
                if options.cancel_on_exit:
                    tell(f"{driver.cancel()} batches cancelled; what they had finished is paid for and kept")
                else:
                    tell("submitted batches go on: the same command again collects them, --cancel ends them")
                raise
            paid = journal.answered()
            unanswered = {key: Unanswered(line.outcome, line.reason) for key, line in journal.failures().items()}
            spent = journal.committed()
    return Gathered(report=report, spent=spent, critic=lambda: _critic(spec, paid, unanswered))


def cancel(spec: BatchSpec, *, say: Say | None = None, backend: BatchBackend | None = None) -> int:
    """Cancel all batches of this output that are under way; the number asked to end. Raises as `gather` does."""
    config = _remote(spec)
    with (
        only_writer(spec.out_path),
        closing(_planner(config)) as planner,
        closing(_journal(spec)) as journal,
        closing(_cache(spec)) as cache,
        closing(backend or _backend(config)) as service,
    ):
        return _driver(config, planner, journal, cache, service, options=_DEFAULT, say=say or _silent).cancel()


def write_request_file(spec: BatchSpec, path: Path) -> int:
    """Write every request without an answer as a batch file, for a server's own batch runner; the number of lines.

    Raises ConfigError, DataError, PromptError, CriticSetupError.
    """
    with closing(_planner(_remote(spec))) as planner, closing(_cache(spec)) as cache:
        return write_requests(path, _lines(spec, planner, cache))


def take_result_file(spec: BatchSpec, path: Path) -> TakenResults:
    """Keep the answers of a results file (the OpenAI form, or what vLLM's `run_batch` writes) for this run's rows.

    Raises as `write_request_file` does.
    """
    with only_writer(spec.out_path), closing(_planner(_remote(spec))) as planner, closing(_cache(spec)) as cache:
        wanted = {line.key for line in _lines(spec, planner, cache)}
        redact = _redactor(_remote(spec))
        found = read_result_file(path, price_usd=planner.batch_price_usd, redact=redact)
        paid: set[str] = set()
        unanswered: dict[str, Unanswered] = {}
        for key in wanted & found.results.keys():
            result = found.results[key]
            if result.reply is not None:
                cache.put(key, _kept(result.reply, redact))
                paid.add(key)
            else:
                unanswered[key] = _why(result)
    return TakenResults(
        answered=len(paid),
        failed=len(unanswered),
        unknown=len(found.results.keys() - wanted),
        duplicates=found.duplicates,
        unreadable=found.unreadable,
        missing=len(wanted) - len(paid) - len(unanswered),
        critic=lambda: _critic(spec, paid, unanswered),
    )


def _why(result: LineResult) -> Unanswered:
    assert result.error is not None, "a result is a reply or an error"
    return Unanswered(outcome_of(result.error), str(result.error))


def _driver(
    config: RemoteCriticConfig,
    planner: RemoteCritic,
    journal: BatchJournal,
    cache: AnswerCache,
    service: BatchBackend,
    *,
    options: BatchOptions,
    say: Say,
) -> BatchDriver:
    redact = _redactor(config)

    def read(lines: Sequence[str]) -> ResultLines:
        return read_results(lines, price_usd=planner.batch_price_usd, redact=redact)

    def tell(event: BatchEvent) -> None:
        counts = event.counts
        name = f"batch {event.shard} {event.state}".strip() if event.shard else "batches"
        about = f": {event.message}" if event.message else ""
        say(f"{name}{about} [{counts.answered} of {sum(counts)} answered]")

    return BatchDriver(
        journal,
        service,
        read=read,
        on_answer=lambda key, reply: cache.put(key, _kept(reply, redact)),
        limits=options.limits,
        budget=budget_from(config),
        on_event=tell,
    )


def _kept(reply: ChatReply, redact: Redactor) -> CachedAnswer:
    return CachedAnswer(
        text=redact.text(reply.text),
        finish_reason=reply.finish_reason,
        model=redact.text(reply.model),
        usage=reply.usage,
        latency_s=0.0,
    )


def _lines(spec: BatchSpec, planner: RemoteCritic, cache: AnswerCache) -> Iterator[BatchLine]:
    """One line for each row that has neither its outcome nor an answer; equal requests have equal keys."""
    for row in _rows(spec):
        planned = planner.plan(request_of(row, show_reference=shows_reference(spec.critic)))
        if cache.get(planned.key) is None:
            yield BatchLine(key=planned.key, body=planned.body, estimate=planned.estimate, row_ids=(row.id,))


def _rows(spec: BatchSpec) -> Iterator[RolloutRow]:
    outcomes: Mapping[str, CriticOutcome] = FeedbackJournal(spec.out_path).outcomes
    selected = 0
    for row in read_rollouts(spec.rollouts):
        if selected == spec.limit:
            return
        if not spec.takes(row.id):
            continue
        selected += 1
        if outcomes.get(row.id) not in _SETTLED:
            yield row


def _critic(spec: BatchSpec, paid: Collection[str], unanswered: Mapping[str, Unanswered]) -> BatchedCritic:
    config = _remote(spec)
    return BatchedCritic(config, _planner(config), _cache(spec), paid=paid, unanswered=unanswered)


def _remote(spec: BatchSpec) -> RemoteCriticConfig:
    if not isinstance(spec.critic, OpenAICriticConfig | LiteLLMCriticConfig):
        raise ConfigError(
            f"critic: kind = {spec.critic.kind!r} has no batch endpoint: name one model behind a server, or leave "
            "--mode out"
        )
    return spec.critic


def _check_budget(config: RemoteCriticConfig, planner: RemoteCritic) -> None:
    if config.max_cost_usd is not None and planner.batch_price_usd(1000, 1000) is None:
        raise ConfigError(
            "critic.max_cost_usd: no batch price is known: set both prices and batch_price_factor (OpenAI: 0.5), or "
            "bound the run by max_calls or max_total_tokens"
        )


def _planner(config: RemoteCriticConfig) -> RemoteCritic:
    """The online critic, only to render requests: it opens no cache and sends nothing."""
    bare = config.model_copy(update={"cache": ""})
    if isinstance(bare, OpenAICriticConfig):
        from critique_rl.critics.openai_compatible import openai_critic

        return openai_critic(bare)
    from critique_rl.critics.litellm_critic import litellm_critic

    return litellm_critic(bare.model_copy(update={"max_cost_usd": None}))


def _backend(config: RemoteCriticConfig) -> BatchBackend:
    if isinstance(config, OpenAICriticConfig):
        from critique_rl.critics.openai_batches import openai_batches

        return openai_batches(config)
    from critique_rl.critics.litellm_batches import litellm_batches

    return litellm_batches(config)


def _redactor(config: RemoteCriticConfig) -> Redactor:
    """Takes out the critic's own key, and with LiteLLM, which picks keys by itself, all that look like keys."""
    own = os.environ.get(config.api_key_env, "").strip() if config.api_key_env else ""
    return Redactor([own, *(keys_in_environment() if isinstance(config, LiteLLMCriticConfig) else ())])


def _journal(spec: BatchSpec) -> BatchJournal:
    return BatchJournal(spec.beside("batches.sqlite"))


def _cache(spec: BatchSpec) -> AnswerCache:
    """The run's cache of paid answers: the one that the critic names, else the one beside the output."""
    config = _remote(spec)
    return AnswerCache(Path(config.cache).expanduser() if config.cache else spec.beside("cache.sqlite"))


def _silent(_line: str) -> None:
    """Nobody listens."""

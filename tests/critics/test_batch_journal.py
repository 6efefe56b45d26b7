from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from critique_rl.critics.batch_files import BatchLine
from critique_rl.critics.batch_journal import BatchJournal, Ending, ShardState
from critique_rl.errors import DataError
from critique_rl.types import CriticOutcome, Usage


def line(key: str, *rows: str, tokens: int = 10, cost_usd: float | None = None) -> BatchLine:
    estimate = Usage(prompt_tokens=tokens, completion_tokens=0, cost_usd=cost_usd)
    return BatchLine(key=key, body={"model": "m", "n": key}, estimate=estimate, row_ids=rows)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "FEEDBACK.batches.sqlite"


@pytest.fixture
def journal(path: Path) -> Iterator[BatchJournal]:
    one = BatchJournal(path)
    yield one
    one.close()


def test_everything_is_there_again_after_it_was_closed(path: Path) -> None:
    first = BatchJournal(path)
    first.plan([line("a", "r1", "r2"), line("b", "r3")])
    shard = first.add_shard(["a"], content_hash="f" * 64)
    first.move(shard, ShardState.UPLOADED, file_id="file-1")
    first.close()
    second = BatchJournal(path)
    assert second.run_id == first.run_id
    [found] = second.open_shards()
    assert (found.state, found.file_id, found.mark) == (ShardState.UPLOADED, "file-1", "1-" + "f" * 32)
    assert [sent.key for sent in second.lines_of(found)] == ["a"]
    assert [waiting.key for waiting in second.waiting()] == ["b"]
    assert second.rows_of("a") == ("r1", "r2")
    assert path.stat().st_mode & 0o777 == 0o600
    second.close()


def test_a_second_process_is_kept_out(path: Path, journal: BatchJournal) -> None:
    with pytest.raises(DataError, match="another process"):
        BatchJournal(path)


def test_a_file_of_another_kind_is_left_as_it_is(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("not a database, and long enough to be looked at as one " * 20)
    before = text.read_bytes()
    with pytest.raises(DataError, match="not a batch journal"):
        BatchJournal(text)
    assert text.read_bytes() == before
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as database:
        database.execute("CREATE TABLE x (y)")
    database.close()
    with pytest.raises(DataError, match="not a batch journal"):
        BatchJournal(other)


def test_a_later_version_is_refused(path: Path) -> None:
    BatchJournal(path).close()
    with sqlite3.connect(path) as database:
        database.execute("PRAGMA user_version = 9")
    database.close()
    with pytest.raises(DataError, match="version 9"):
        BatchJournal(path)


def test_planning_again_changes_nothing_that_is_under_way(journal: BatchJournal) -> None:
    journal.plan([line("a", "r1"), line("b", "r2")])
    shard = journal.add_shard(["a", "b"], content_hash="0")
    journal.plan([line("a", "r1"), line("a", "r9")])
    assert journal.counts() == (0, 2, 0, 0)
    assert journal.rows_of("a") == ("r1", "r9")
    failed = Ending("b", CriticOutcome.REFUSED, "no")
    journal.end(shard, ShardState.DONE, answered=[("a", Usage(prompt_tokens=7, cost_usd=0.5))], endings=[failed])
    assert journal.counts() == (0, 0, 1, 1)
    journal.plan([line("b", "r2")])
    assert journal.counts() == (0, 0, 1, 1)
    journal.plan([line("b", "r2")], again=[CriticOutcome.TIMED_OUT])
    assert journal.counts() == (0, 0, 1, 1)
    journal.plan([line("b", "r2")], again=[CriticOutcome.REFUSED, CriticOutcome.FAILED])
    assert journal.counts() == (1, 0, 1, 0)


def test_an_answer_that_the_cache_has_lost_is_wanted_again(journal: BatchJournal) -> None:
    journal.plan([line("a")])
    shard = journal.add_shard(["a"], content_hash="0")
    journal.end(shard, ShardState.DONE, answered=[("a", Usage(prompt_tokens=7, cost_usd=0.5))], endings=[])
    journal.plan([line("a")])
    assert journal.counts().planned == 1
    assert journal.committed().cost_usd == 0.5


def test_shards_of_equal_content_have_marks_of_their_own(journal: BatchJournal) -> None:
    journal.plan([line("a")])
    first = journal.add_shard(["a"], content_hash="0")
    journal.end(first, ShardState.EXPIRED, answered=[], endings=[Ending("a", None, "expired")])
    second = journal.add_shard(["a"], content_hash="0")
    assert first.mark != second.mark
    assert journal.lines_of(second)[0].attempt == 2


def test_what_is_committed_is_what_was_used_and_what_may_be(journal: BatchJournal) -> None:
    journal.plan([line("a", cost_usd=1.0), line("b", cost_usd=1.0), line("c", cost_usd=1.0)])
    first = journal.add_shard(["a"], content_hash="0")
    journal.end(first, ShardState.DONE, answered=[("a", Usage(prompt_tokens=3, cost_usd=0.25))], endings=[])
    journal.add_shard(["b"], content_hash="0")
    # a: 3 tokens, 0.25 used; b: 10 tokens, 1.0 under way; c is not sent
    assert journal.committed() == (2, 13, 1.25)
    assert journal.tokens_under_way() == 10


def test_an_unknown_price_stays_unknown(journal: BatchJournal, path: Path) -> None:
    journal.plan([line("a")])
    journal.end(journal.add_shard(["a"], content_hash="0"), ShardState.DONE, answered=[("a", Usage())], endings=[])
    journal.close()
    with sqlite3.connect(path) as database:
        assert database.execute("SELECT used_usd FROM lines").fetchone() == (None,)
    database.close()


def test_failures_say_which_rows_and_why(journal: BatchJournal) -> None:
    journal.plan([line("a", "r1", "r2")])
    journal.fail([Ending("a", CriticOutcome.OVER_BUDGET, "max_calls = 0")])
    failure = journal.failures()["a"]
    assert (failure.outcome, failure.reason, failure.row_ids) == (
        CriticOutcome.OVER_BUDGET,
        "max_calls = 0",
        ("r1", "r2"),
    )


def test_a_step_that_fails_leaves_nothing_half_written(journal: BatchJournal) -> None:
    def lines() -> Iterator[BatchLine]:
        yield line("a")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        journal.plan(lines())
    assert journal.counts() == (0, 0, 0, 0)

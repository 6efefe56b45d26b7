"""What has been sent in batches and what has not: one sqlite file, written before and after every step.

Owns: the states of lines and of the shards that carry them, the lock that keeps a second process out. Must not know:
networks, answers' text (the answer cache has it), keys of any kind but request keys.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Collection, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import NamedTuple, cast

from critique_rl.critics.batch_files import BatchLine, JsonBody
from critique_rl.errors import DataError
from critique_rl.types import CriticOutcome, Usage

_APPLICATION_ID = 0x43524A42
_VERSION = 1
_NOTHING_USED = Usage()
_TABLES = """
CREATE TABLE run (id TEXT NOT NULL);
CREATE TABLE shards (
    number INTEGER PRIMARY KEY, state TEXT NOT NULL, mark TEXT NOT NULL DEFAULT '', file_id TEXT NOT NULL DEFAULT '',
    batch_id TEXT NOT NULL DEFAULT '', since_s REAL NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '');
CREATE TABLE lines (
    key TEXT PRIMARY KEY, body TEXT NOT NULL, state TEXT NOT NULL, shard INTEGER REFERENCES shards, attempt INTEGER NOT
    NULL DEFAULT 0, tokens INTEGER NOT NULL, cost_usd REAL, outcome TEXT NOT NULL DEFAULT '', reason TEXT NOT NULL
    DEFAULT '', used_tokens INTEGER NOT NULL DEFAULT 0, used_usd REAL);
CREATE INDEX lines_by_shard ON lines (shard);
CREATE INDEX lines_by_state ON lines (state);
CREATE TABLE rows (row_id TEXT NOT NULL, key TEXT NOT NULL, PRIMARY KEY (row_id, key));
"""


class ShardState(StrEnum):
    """In order of life. The -ing states are intents, written before the call that they name."""

    PLANNED = "planned"
    UPLOADING = "uploading"
    UPLOADED = "uploaded"
    SUBMITTING = "submitting"
    SUBMITTED = "submitted"
    DONE = "done"
    EXPIRED = "expired"
    FAILED = "failed"
    CANCELLED = "cancelled"


ENDED = (ShardState.DONE, ShardState.EXPIRED, ShardState.FAILED, ShardState.CANCELLED)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of lines. `mark` names it in the provider's metadata; `since_s` is when its submission began (Unix)."""

    number: int
    state: ShardState
    mark: str
    file_id: str
    batch_id: str
    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedLine:
    """A request that will not be answered by a batch any more, and why."""

    key: str
    outcome: CriticOutcome
    reason: str
    row_ids: tuple[str, ...]


class SentLine(NamedTuple):
    """A line that a shard carries."""

    key: str
    body: JsonBody
    attempt: int


class WaitingLine(NamedTuple):
    """A line that no shard carries yet."""

    key: str
    body: JsonBody
    tokens: int
    cost_usd: float | None


class LineCounts(NamedTuple):
    """Lines by state."""

    planned: int
    sent: int
    answered: int
    failed: int


class Committed(NamedTuple):
    """What answered lines used, and what lines under way may still use."""

    calls: int
    tokens: int
    cost_usd: float


class Ending(NamedTuple):
    """How one unanswered line leaves its shard; no outcome: it waits for the next one. A refusal may have been paid."""

    key: str
    outcome: CriticOutcome | None
    reason: str
    used: Usage = _NOTHING_USED


class BatchJournal:
    """The journal in one file, held by one process at a time; every method commits before it returns."""

    def __init__(self, path: Path) -> None:
        """Open or make the file (mode 0600). Raises DataError if it is something else or in use."""
        self.path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._db = sqlite3.connect(path, timeout=0.0, isolation_level=None)
        except (OSError, sqlite3.Error) as error:
            raise DataError(f"{path}: the batch journal cannot be opened: {error}") from error
        try:
            self.run_id = self._open()
        except sqlite3.Error as error:
            self._db.close()
            busy = "locked" in str(error)
            raise DataError(
                f"{path}: another process works on these batches: stop it first, or wait for it"
                if busy
                else f"{path}: not a batch journal: {error}: name another output file, or move this one away"
            ) from None
        except DataError:
            self._db.close()
            raise

    def _open(self) -> str:
        # Exclusive: the lock is held until the file is closed, or the process is gone.
        self._db.execute("PRAGMA locking_mode = EXCLUSIVE")
        self._db.execute("BEGIN EXCLUSIVE")
        kind = cast(int, self._db.execute("PRAGMA application_id").fetchone()[0])
        version = cast(int, self._db.execute("PRAGMA user_version").fetchone()[0])
        tables = cast(int, self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])
        if kind == 0 and tables == 0:
            for statement in _TABLES.split(";"):
                self._db.execute(statement)
            self._db.execute("INSERT INTO run VALUES (?)", (secrets.token_hex(12),))
            self._db.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
            self._db.execute(f"PRAGMA user_version = {_VERSION}")
        elif kind != _APPLICATION_ID:
            raise DataError(f"{self.path}: not a batch journal: name another output file, or move this one away")
        elif version != _VERSION:
            raise DataError(f"{self.path}: journal version {version}; this program reads {_VERSION}")
        self._db.execute("COMMIT")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        return cast(str, self._db.execute("SELECT id FROM run").fetchone()[0])

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def _transaction(self) -> Generator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            yield
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error):
                raise DataError(f"{self.path}: the batch journal cannot be written: {error}: free space") from error
            raise

    def plan(self, lines: Iterable[BatchLine], *, again: Collection[CriticOutcome] = ()) -> None:
        """Add requests whose answers are not in the cache. One that is under way stays so; one that failed waits again
        if its outcome is in `again`; one that was answered once has lost its answer, and waits again, too."""
        once_more = json.dumps(sorted(again))
        with self._transaction():
            for line in lines:
                self._db.execute(
                    "INSERT INTO lines (key, body, state, tokens, cost_usd) VALUES (?, ?, 'planned', ?, ?) "
                    "ON CONFLICT (key) DO UPDATE SET state = 'planned', attempt = 0, shard = NULL, outcome = '', "
                    "reason = '' WHERE state = 'answered' OR (state = 'failed' AND "
                    "outcome IN (SELECT value FROM json_each(?)))",
                    (
                        line.key,
                        json.dumps(dict(line.body), ensure_ascii=False, allow_nan=False),
                        line.estimate.prompt_tokens + line.estimate.completion_tokens,
                        line.estimate.cost_usd,
                        once_more,
                    ),
                )
                self._db.executemany(
                    "INSERT OR IGNORE INTO rows VALUES (?, ?)", [(row_id, line.key) for row_id in line.row_ids]
                )

    def waiting(self) -> Iterator[WaitingLine]:
        """Lines to send, oldest first."""
        query = "SELECT key, body, tokens, cost_usd FROM lines WHERE state = 'planned' ORDER BY rowid"
        for key, body, tokens, cost_usd in self._db.execute(query):
            yield WaitingLine(key=key, body=json.loads(body), tokens=tokens, cost_usd=cost_usd)

    def add_shard(self, keys: Sequence[str], *, content_hash: str) -> Shard:
        """Put waiting lines into a new shard; its mark differs from any earlier one's, also for equal content."""
        with self._transaction():
            number = cast(int, self._db.execute("SELECT coalesce(max(number), 0) + 1 FROM shards").fetchone()[0])
            mark = f"{number}-{content_hash[:32]}"
            self._db.execute("INSERT INTO shards (number, state, mark) VALUES (?, 'planned', ?)", (number, mark))
            self._db.executemany(
                "UPDATE lines SET state = 'sent', shard = ?, attempt = attempt + 1 WHERE key = ? AND state = 'planned'",
                [(number, key) for key in keys],
            )
        return self.shard(number)

    def shard(self, number: int) -> Shard:
        return next(shard for shard in self._shards("WHERE number = ?", (number,)))

    def open_shards(self) -> list[Shard]:
        """Shards that have not ended, oldest first."""
        return [shard for shard in self._shards() if shard.state not in ENDED]

    def _shards(self, where: str = "", values: tuple[int, ...] = ()) -> list[Shard]:
        found = self._db.execute(
            f"SELECT number, state, mark, file_id, batch_id, since_s FROM shards {where} ORDER BY number", values
        ).fetchall()
        return [
            Shard(number=number, state=ShardState(state), mark=mark, file_id=file_id, batch_id=batch_id, since_s=since)
            for number, state, mark, file_id, batch_id, since in found
        ]

    def move(
        self, shard: Shard, state: ShardState, *, file_id: str = "", batch_id: str = "", since_s: float = 0.0
    ) -> Shard:
        """Note one step of an open shard's life; an empty id keeps the one there is."""
        with self._transaction():
            self._db.execute(
                "UPDATE shards SET state = ?, file_id = ?, batch_id = ?, since_s = ? WHERE number = ?",
                (state, file_id or shard.file_id, batch_id or shard.batch_id, since_s or shard.since_s, shard.number),
            )
        return self.shard(shard.number)

    def lines_of(self, shard: Shard) -> list[SentLine]:
        """The lines that a shard carries and that have no answer yet, in the file's order."""
        query = "SELECT key, body, attempt FROM lines WHERE shard = ? AND state = 'sent' ORDER BY rowid"
        found = self._db.execute(query, (shard.number,)).fetchall()
        return [SentLine(key=key, body=json.loads(body), attempt=attempt) for key, body, attempt in found]

    def end(
        self,
        shard: Shard,
        state: ShardState,
        *,
        answered: Sequence[tuple[str, Usage]],
        endings: Sequence[Ending],
        reason: str = "",
    ) -> None:
        """End a shard and settle all its lines at once: answered, waiting again, or failed."""
        with self._transaction():
            self._db.execute("UPDATE shards SET state = ?, reason = ? WHERE number = ?", (state, reason, shard.number))
            self._charge((key, used) for key, used in answered)
            self._db.executemany("UPDATE lines SET state = 'answered' WHERE key = ?", [(key,) for key, _ in answered])
            self._settle(endings)

    def fail(self, endings: Sequence[Ending]) -> None:
        """Settle lines that no shard carries."""
        with self._transaction():
            self._settle(endings)

    def _charge(self, uses: Iterable[tuple[str, Usage]]) -> None:
        self._db.executemany(
            "UPDATE lines SET used_tokens = used_tokens + ?1, "
            "used_usd = CASE WHEN ?2 IS NULL THEN used_usd ELSE coalesce(used_usd, 0) + ?2 END WHERE key = ?3",
            [(used.prompt_tokens + used.completion_tokens, used.cost_usd, key) for key, used in uses],
        )

    def _settle(self, endings: Sequence[Ending]) -> None:
        self._charge((ending.key, ending.used) for ending in endings if ending.used != _NOTHING_USED)
        self._db.executemany(
            "UPDATE lines SET state = ?, shard = NULL, outcome = ?, reason = ? WHERE key = ?",
            [
                ("planned" if ending.outcome is None else "failed", ending.outcome or "", ending.reason, ending.key)
                for ending in endings
            ],
        )

    def tokens_under_way(self) -> int:
        """Estimated tokens of all lines in open shards."""
        return cast(
            int, self._db.execute("SELECT coalesce(sum(tokens), 0) FROM lines WHERE state = 'sent'").fetchone()[0]
        )

    def committed(self) -> Committed:
        """What has been used, with the estimates of what is under way."""
        calls, tokens, cost = self._db.execute(
            "SELECT coalesce(sum(attempt), 0), coalesce(sum(used_tokens + (state = 'sent') * tokens), 0), "
            "coalesce(sum(coalesce(used_usd, 0) + (state = 'sent') * coalesce(cost_usd, 0)), 0) FROM lines"
        ).fetchone()
        return Committed(calls=cast(int, calls), tokens=cast(int, tokens), cost_usd=cast(float, cost))

    def counts(self) -> LineCounts:
        found = cast(
            "list[tuple[str, int]]", self._db.execute("SELECT state, count(*) FROM lines GROUP BY state").fetchall()
        )
        by_state = dict(found)
        return LineCounts(*(by_state.get(name, 0) for name in LineCounts._fields))

    def answered(self) -> frozenset[str]:
        """Keys of the lines that a batch has answered."""
        found = self._db.execute("SELECT key FROM lines WHERE state = 'answered'").fetchall()
        return frozenset(cast(str, key) for (key,) in found)

    def failures(self) -> dict[str, FailedLine]:
        """Lines that are given up, by key."""
        failed = self._db.execute("SELECT key, outcome, reason FROM lines WHERE state = 'failed'").fetchall()
        return {
            key: FailedLine(key=key, outcome=CriticOutcome(outcome), reason=reason, row_ids=self.rows_of(key))
            for key, outcome, reason in failed
        }

    def rows_of(self, key: str) -> tuple[str, ...]:
        """The rows that wait for one request's answer."""
        found = self._db.execute("SELECT row_id FROM rows WHERE key = ? ORDER BY rowid", (key,)).fetchall()
        return tuple(cast(str, row_id) for (row_id,) in found)

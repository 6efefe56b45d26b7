"""Paid answers on disk, found by what was asked: one sqlite file that threads and processes share.

Owns: the file's form, its durability, the refusal of foreign files. Must not know: how a key is made, networks, parses.
An answer is committed when `put` returns. Values are JSON; failures are never kept.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from critique_rl.errors import DataError
from critique_rl.types import Usage

SCHEMA_VERSION = 1
_APPLICATION_ID = 0x43524C41
_BUSY_TIMEOUT_S = 30.0
_RETRY_S = 0.02
_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_CREATE = "CREATE TABLE answers (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID"
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedAnswer:
    """One answer as it came, its `usage` as it was paid; `latency_s` is what the call took then, in seconds."""

    text: str
    finish_reason: str
    model: str
    usage: Usage
    latency_s: float


_ANSWER = TypeAdapter(CachedAnswer)


class AnswerCache:
    """Answers by key. Errors: DataError for a file that is no such cache, is damaged, or cannot be written."""

    def __init__(self, path: Path) -> None:
        """Open `path`, made with mode 0600 if it is not there. Raises DataError, and then leaves the file as it is."""
        self.path = path
        self._lock = threading.Lock()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            # sqlite would make the file by the umask; its side files take over the mode of this one.
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
            self._connection = sqlite3.connect(
                path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise DataError(f"{path}: the answer cache cannot be opened: {error}") from error
        try:
            self._tried(self._prepare)
        except DataError:
            self._connection.close()
            raise

    def __len__(self) -> int:
        with self._lock:
            rows = self._tried(lambda: self._connection.execute("SELECT count(*) FROM answers").fetchone())
        return int(cast(tuple[int], rows)[0])

    def get(self, key: str) -> CachedAnswer | None:
        """The answer kept under `key`, or None."""
        question = "SELECT value FROM answers WHERE key = ?"
        with self._lock:
            row = cast(tuple[str] | None, self._tried(lambda: self._connection.execute(question, (key,)).fetchone()))
        if row is None:
            return None
        try:
            return _ANSWER.validate_json(row[0])
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the value"
            raise DataError(
                f"{self.path}, key {key[:12]}: {where}: {first['msg']}: not a kept answer; move the file away"
            ) from None

    def put(self, key: str, answer: CachedAnswer) -> None:
        """Keep `answer`; it is on disk when this returns. A key that is there already keeps its first answer."""
        value = json.dumps(asdict(answer), allow_nan=False)
        command = "INSERT OR IGNORE INTO answers (key, value) VALUES (?, ?)"
        with self._lock:
            self._tried(lambda: self._connection.execute(command, (key, value)))

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        with self._lock:
            self._connection.close()

    def _prepare(self) -> None:
        run = self._connection.execute
        self._until_free(self._create_or_check)
        self._until_free(lambda: run("PRAGMA journal_mode = WAL"))
        run("PRAGMA synchronous = FULL")

    def _create_or_check(self) -> None:
        run = self._connection.execute
        run("BEGIN")  # one view of the file: its marks and its tables are read one by one
        try:
            if self._is_ours():
                return
        finally:
            run("ROLLBACK")
        # Another process may make the tables between the look and the lock, so the look is repeated under it.
        run("BEGIN IMMEDIATE")
        try:
            if not self._is_ours():
                run(_CREATE)
                run(f"PRAGMA application_id = {_APPLICATION_ID}")
                run(f"PRAGMA user_version = {SCHEMA_VERSION}")
            run("COMMIT")
        finally:
            if self._connection.in_transaction:
                run("ROLLBACK")

    def _is_ours(self) -> bool:
        """True for a cache, False for an empty file. Raises DataError for anything else."""
        run = self._connection.execute
        magic = cast(int, run("PRAGMA application_id").fetchone()[0])
        version = cast(int, run("PRAGMA user_version").fetchone()[0])
        tables = cast(int, run("SELECT count(*) FROM sqlite_master").fetchone()[0])
        if (magic, version, tables) == (0, 0, 0):
            return False
        if magic != _APPLICATION_ID:
            raise DataError(f"{self.path}: this is another program's database: give the answer cache a path of its own")
        if version != SCHEMA_VERSION:
            raise DataError(
                f"{self.path}: answer cache version {version}; this program reads {SCHEMA_VERSION}: move the file away"
            )
        return True

    def _until_free(self, step: Callable[[], object]) -> None:
        """Repeat a step that another process's opening can lock out without sqlite waiting for it."""
        deadline = time.monotonic() + _BUSY_TIMEOUT_S
        while True:
            try:
                step()
            except sqlite3.OperationalError as error:
                # The low byte is the primary code; the rest tells the kinds of "busy" apart.
                if error.sqlite_errorcode & 0xFF not in _BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(_RETRY_S)
            else:
                return

    def _tried(self, step: Callable[[], T]) -> T:
        try:
            return step()
        except sqlite3.Error as error:
            raise DataError(
                f"{self.path}: the answer cache cannot be read or written: {error}: free space, or move the file away"
            ) from error

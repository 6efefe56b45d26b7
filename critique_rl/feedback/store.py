"""The record of every exchange with a critic: append-only JSON lines, and the look-up that replays them.

Owns: the line's fields, the request key, tolerance of a torn last line. Must not know: prompts, parsing, networks.
A record holds the raw reply, so that a better parser reads old replies; it never holds a key, and of an address only
host and path. What is written is not kept in memory.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError

from critique_rl.errors import DataError
from critique_rl.types import CriticOutcome, Message, Usage

RECORD_VERSION = 2
_NOTHING_USED = Usage()
SamplingValue = int | float | str | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One ask of a critic: what was asked, how it ended, the raw reply.

    `sampling` holds all that shapes the reply besides model and messages, the response form included. `answered`: text
    came back, usable or not; `cached`: from the disk cache, so that `attempts` and `usage` are 0.
    """

    key: str
    rollout_id: str
    critic: str
    endpoint: str = ""
    model: str
    messages: tuple[Message, ...]
    sampling: Mapping[str, SamplingValue] = field(default_factory=dict[str, SamplingValue])
    sample_index: int = 0
    prompt_hash: str = ""
    outcome: CriticOutcome
    answered: bool = True
    cached: bool = False
    reply: str = ""
    reason: str = ""
    finish_reason: str = ""
    model_reported: str = ""
    attempts: int = 0
    usage: Usage = _NOTHING_USED
    latency_s: float = 0.0
    version: int = RECORD_VERSION


_EXCHANGE = TypeAdapter(Exchange)
_FIELDS = tuple(one.name for one in fields(Exchange))


def request_key(
    *,
    endpoint: str,
    model: str,
    messages: Sequence[Message],
    sampling: Mapping[str, SamplingValue],
    sample_index: int = 0,
) -> str:
    """sha256 (hex) of the canonical JSON of everything that shapes a reply, and of nothing else.

    `endpoint` is host and path of the server, without scheme, user, password and query.
    """
    body = {
        "version": RECORD_VERSION,
        "endpoint": endpoint,
        "model": model,
        "messages": [[message.role, message.content] for message in messages],
        "sampling": dict(sampling),
        "sample_index": sample_index,
    }
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreTotals:
    """Sums over a store: sends, tokens, known prices, and answers without one."""

    attempts: int = 0
    tokens: int = 0
    cost_usd: float = 0.0
    unpriced: int = 0

    def plus(self, exchange: Exchange) -> StoreTotals:
        usage = exchange.usage
        return StoreTotals(
            attempts=self.attempts + exchange.attempts,
            tokens=self.tokens + usage.prompt_tokens + usage.completion_tokens,
            cost_usd=self.cost_usd + (usage.cost_usd or 0.0),
            unpriced=self.unpriced + (usage.cost_usd is None and usage.completion_tokens > 0),
        )


def _line(exchange: Exchange) -> bytes:
    """Field by field, since `dataclasses.asdict` would copy every value deeply, ten times slower."""
    values: dict[str, object] = {name: getattr(exchange, name) for name in _FIELDS}
    values["messages"] = [{"role": message.role, "content": message.content} for message in exchange.messages]
    values["sampling"] = dict(exchange.sampling)
    values["usage"] = asdict(exchange.usage)
    text = json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n"
    return text.encode(errors="replace")


class _Index:
    """Exchanges in memory, for replay."""

    def __init__(self) -> None:
        self.by_key: dict[str, Exchange] = {}
        self.by_rollout: dict[tuple[str, str], Exchange] = {}

    def add(self, exchange: Exchange) -> None:
        self.by_key.setdefault(exchange.key, exchange)
        self.by_rollout[exchange.key, exchange.rollout_id] = exchange


class ExchangeStore:
    """Exchanges in one file. Opening checks every line; only `find` loads them. `append` may come from any thread."""

    def __init__(self, path: Path) -> None:
        """Open `path`, which need not exist yet. Raises DataError for a bad line; a torn last one is left out."""
        self.path = path
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._index: _Index | None = None
        self._count = 0
        self._totals = StoreTotals()
        self._intact_bytes = 0
        for exchange, size in self._read_all():
            self._note(exchange, size)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Exchange]:
        """Every exchange, read from the file again. Raises DataError if it has been damaged since."""
        return (exchange for exchange, _ in self._read_all(self._intact_bytes))

    @property
    def totals(self) -> StoreTotals:
        """What all exchanges together used."""
        return self._totals

    def append(self, exchange: Exchange) -> None:
        """Write one line and flush it. Raises OSError if it cannot be written."""
        data = _line(exchange)
        with self._lock:
            if self._file is None:
                self._file = self._open()
            self._file.write(data)
            self._file.flush()
            self._note(exchange, len(data))
            if self._index is not None:
                self._index.add(exchange)

    def find(self, key: str, *, rollout_id: str = "", own: bool = False) -> Exchange | None:
        """The latest exchange of this request for this rollout, else the first one with this key, else None.

        Equal attempts have equal keys but were answered one by one; the rollout's id tells them apart. `own`: the
        rollout's or None. The first call loads the file. Raises DataError.
        """
        with self._lock:
            if self._index is None:
                self._index = _Index()
                for exchange in self:
                    self._index.add(exchange)
            found = self._index.by_rollout.get((key, rollout_id))
            return found if found is not None or own else self._index.by_key.get(key)

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _note(self, exchange: Exchange, size: int) -> None:
        self._count += 1
        self._totals = self._totals.plus(exchange)
        self._intact_bytes += size

    def _open(self) -> BinaryIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        file = os.fdopen(descriptor, "r+b")
        # A torn last line would swallow the next record.
        file.truncate(self._intact_bytes)
        file.seek(self._intact_bytes)
        return file

    def _read_all(self, limit_bytes: int | None = None) -> Iterator[tuple[Exchange, int]]:
        """Each exchange with its size in bytes; blank lines count towards the next one's."""
        read = blank = 0
        try:
            with self.path.open("rb") as file:
                for number, line in enumerate(file, start=1):
                    read += len(line)
                    torn = not line.endswith(b"\n")
                    if torn or (limit_bytes is not None and read > limit_bytes):
                        return
                    if line.strip():
                        yield self._read(line, number), blank + len(line)
                        blank = 0
                    else:
                        blank += len(line)
        except FileNotFoundError:
            return
        except OSError as error:
            raise DataError(f"{self.path}: the recorded exchanges cannot be read: {error}") from error

    def _read(self, line: bytes, number: int) -> Exchange:
        try:
            exchange = _EXCHANGE.validate_json(line)
        except ValidationError as error:
            first = error.errors(include_url=False, include_context=False)[0]
            where = ".".join(str(part) for part in first["loc"]) or "the line"
            raise DataError(
                f"{self.path}, line {number}: {where}: {first['msg']}: not a recorded exchange; remove the line"
            ) from None
        if exchange.version != RECORD_VERSION:
            raise DataError(
                f"{self.path}, line {number}: record version {exchange.version}; this program reads {RECORD_VERSION}: "
                "record anew, or move the file away"
            )
        return exchange

"""The record of every exchange with a critic: append-only JSON lines, and the look-up that replays them.

Owns: the line's fields, the request key, tolerance of a torn last line. Must not know: prompts, parsing, networks.
A record holds the raw reply, so that a better parser reads old replies; it never holds a key or an address.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import BinaryIO

from pydantic import TypeAdapter, ValidationError

from critique_rl.errors import DataError
from critique_rl.types import CriticOutcome, Message, Usage

RECORD_VERSION = 1
_NOTHING_USED = Usage()
SamplingValue = int | float | str | bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One critic call: what was asked, how it ended, the raw reply. `sampling` holds all that shapes the reply."""

    key: str
    rollout_id: str
    critic: str
    model: str
    messages: tuple[Message, ...]
    sampling: Mapping[str, SamplingValue] = field(default_factory=dict[str, SamplingValue])
    sample_index: int = 0
    prompt_hash: str = ""
    outcome: CriticOutcome
    reply: str = ""
    reason: str = ""
    finish_reason: str = ""
    model_reported: str = ""
    attempts: int = 0
    usage: Usage = _NOTHING_USED
    latency_s: float = 0.0
    version: int = RECORD_VERSION


_EXCHANGE = TypeAdapter(Exchange)


def request_key(
    *,
    critic: str,
    model: str,
    messages: Sequence[Message],
    sampling: Mapping[str, SamplingValue],
    sample_index: int = 0,
) -> str:
    """sha256 (hex) of the canonical JSON of everything that shapes a reply, and of nothing else."""
    body = {
        "version": RECORD_VERSION,
        "critic": critic,
        "model": model,
        "messages": [[message.role, message.content] for message in messages],
        "sampling": dict(sampling),
        "sample_index": sample_index,
    }
    text = json.dumps(body, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


class ExchangeStore:
    """Exchanges in one file. Opening reads it all; `append` may be called from any thread."""

    def __init__(self, path: Path) -> None:
        """Open `path`, which need not exist yet. Raises DataError for a bad line; a torn last one is left out."""
        self.path = path
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._exchanges: list[Exchange] = []
        self._by_key: dict[str, Exchange] = {}
        self._by_rollout: dict[tuple[str, str], Exchange] = {}
        self._intact_bytes = 0
        self._load()

    def __len__(self) -> int:
        return len(self._exchanges)

    def __iter__(self) -> Iterator[Exchange]:
        return iter(tuple(self._exchanges))

    def append(self, exchange: Exchange) -> None:
        """Write one line and flush it. Raises OSError if it cannot be written."""
        line = json.dumps(asdict(exchange), ensure_ascii=False, allow_nan=False) + "\n"
        with self._lock:
            if self._file is None:
                self._file = self._open()
            self._file.write(line.encode())
            self._file.flush()
            self._index(exchange)

    def find(self, key: str, *, rollout_id: str = "") -> Exchange | None:
        """The latest exchange of this request for this rollout, else the first one with this key, else None.

        Equal attempts have equal keys but were answered one by one; the rollout's id tells them apart.
        """
        return self._by_rollout.get((key, rollout_id)) or self._by_key.get(key)

    def close(self) -> None:
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _open(self) -> BinaryIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        file = os.fdopen(descriptor, "r+b")
        # A torn last line would swallow the next record.
        file.truncate(self._intact_bytes)
        file.seek(self._intact_bytes)
        return file

    def _load(self) -> None:
        try:
            lines = self.path.read_bytes().splitlines(keepends=True)
        except FileNotFoundError:
            return
        except OSError as error:
            raise DataError(f"{self.path}: the recorded exchanges cannot be read: {error}") from error
        for number, line in enumerate(lines, start=1):
            torn = number == len(lines) and not line.endswith(b"\n")
            if torn:
                return
            if line.strip():
                self._index(self._read(line, number))
            self._intact_bytes += len(line)

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
                f"{self.path}, line {number}: record version {exchange.version}; this program reads {RECORD_VERSION}"
            )
        return exchange

    def _index(self, exchange: Exchange) -> None:
        self._exchanges.append(exchange)
        self._by_key.setdefault(exchange.key, exchange)
        self._by_rollout[exchange.key, exchange.rollout_id] = exchange

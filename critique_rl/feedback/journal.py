"""The output of a batch run: each row is in the file as soon as it is finished, and at the end all are in input order.

Owns: appending, repair after a kill, the final rewrite, the lock that keeps a second process away.
Must not know: critics, what a row costs, which rows are asked again.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from critique_rl.errors import DataError
from critique_rl.feedback.row_sources import MAX_LINE_BYTES, json_object
from critique_rl.feedback.rows import FeedbackRow, feedback_from_json, feedback_to_json
from critique_rl.types import CriticOutcome

_COPY_BYTES = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Line:
    """Where a row stands in the file, in bytes, and how its critic call ended."""

    start: int
    length: int
    outcome: CriticOutcome


class FeedbackJournal:
    """One feedback file being written. Holds an index of its rows in memory, never the rows."""

    def __init__(self, path: Path) -> None:
        """Read what is there; a torn last line is cut off at the first append. Raises DataError for a bad row."""
        self.path = path
        self._file: BinaryIO | None = None
        self._lines: dict[str, _Line] = {}
        self._intact_bytes = 0
        for row, start, length in self._scan():
            self._lines[row.rollout.id] = _Line(start=start, length=length, outcome=row.critique.outcome)
            self._intact_bytes = start + length

    def __len__(self) -> int:
        return len(self._lines)

    def __contains__(self, row_id: str) -> bool:
        return row_id in self._lines

    def __iter__(self) -> Iterator[FeedbackRow]:
        """The rows in the file's order, read anew."""
        return (row for row, _, _ in self._scan())

    @property
    def outcomes(self) -> Mapping[str, CriticOutcome]:
        """How each row's call ended, by row id."""
        return {row_id: line.outcome for row_id, line in self._lines.items()}

    def append(self, row: FeedbackRow) -> None:
        """Write one row so that a killed process leaves it behind. Raises DataError if its id is there, OSError."""
        if row.rollout.id in self._lines:
            raise DataError(f"{self.path}: row {row.rollout.id!r} is there already")
        if self._file is None:
            self._file = self._open()
        line = (json.dumps(feedback_to_json(row), ensure_ascii=False, allow_nan=False) + "\n").encode()
        self._file.write(line)
        self._file.flush()
        place = _Line(start=self._intact_bytes, length=len(line), outcome=row.critique.outcome)
        self._lines[row.rollout.id] = place
        self._intact_bytes += len(line)

    def rewrite(self, order: Iterable[str]) -> None:
        """Keep exactly the rows named in `order`, in that order; the file is replaced at once or not at all."""
        kept = [row_id for row_id in order if row_id in self._lines]
        lines = {row_id: self._lines[row_id] for row_id in kept}
        self.close()
        if kept or self.path.exists():
            _copy(self.path, self.path, [lines[row_id] for row_id in kept])
        self._lines, self._intact_bytes = {}, 0
        for row_id, line in lines.items():
            moved = _Line(start=self._intact_bytes, length=line.length, outcome=line.outcome)
            self._lines[row_id] = moved
            self._intact_bytes += line.length

    def export(self, path: Path, wanted: Callable[[CriticOutcome], bool]) -> int:
        """Copy the rows whose outcome is wanted to `path`, which is removed if there are none. Returns their number."""
        lines = [line for line in self._lines.values() if wanted(line.outcome)]
        if lines:
            _copy(self.path, path, lines)
        else:
            path.unlink(missing_ok=True)
        return len(lines)

    def close(self) -> None:
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            self._file = None

    def _open(self) -> BinaryIO:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.fdopen(os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600), "r+b")
        # A torn last line would swallow the next row.
        file.truncate(self._intact_bytes)
        file.seek(self._intact_bytes)
        return file

    def _scan(self) -> Iterator[tuple[FeedbackRow, int, int]]:
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        except OSError as error:
            raise DataError(f"{self.path}: the feedback cannot be read: {error}") from None
        seen: set[str] = set()
        with file:
            number = start = 0
            # A row holds an attempt and a reply, each of which may have come from a line of the greatest length.
            while (line := file.readline(4 * MAX_LINE_BYTES)).endswith(b"\n"):
                number += 1
                start += len(line)
                if not line.strip():
                    continue
                where = f"{self.path}, line {number}"
                row = feedback_from_json(json_object(line, where), where=where)
                if row.rollout.id in seen:
                    raise DataError(f"{where}: id {row.rollout.id!r} is there twice; remove one of the two lines")
                seen.add(row.rollout.id)
                yield row, start - len(line), len(line)
            if len(line) == 4 * MAX_LINE_BYTES:
                raise DataError(f"{self.path}, line {number + 1}: longer than {len(line):,} bytes; remove the line")


@contextmanager
def only_writer(path: Path) -> Generator[None]:
    """Holds the lock of an output file. Raises DataError at once if another process has it."""
    import fcntl

    lock = path.with_name(path.name + ".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(descriptor)
            raise DataError(
                f"{path}: another process is writing this output; wait for it to end, or choose another --out"
            ) from None
        if _is_still(lock, descriptor):
            break
        os.close(descriptor)  # its last holder removed the file between our open and our lock
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def replace_text(path: Path, text: str) -> None:
    """Write a small file at once or not at all."""
    _replace(path, lambda file: file.write(text.encode()))


def _is_still(path: Path, descriptor: int) -> bool:
    try:
        return os.stat(path).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def _copy(source: Path, target: Path, lines: Iterable[_Line]) -> None:
    def fill(out: BinaryIO) -> None:
        with source.open("rb") as file:
            for line in lines:
                file.seek(line.start)
                left = line.length
                while left > 0 and (part := file.read(min(left, _COPY_BYTES))):
                    out.write(part)
                    left -= len(part)
                if left:
                    raise DataError(f"{source}: the file was cut short by someone else while it was copied")

    _replace(target, fill)


def _replace(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)

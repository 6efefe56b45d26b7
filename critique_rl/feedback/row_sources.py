"""Where rows are read from: JSON lines, Parquet, a data set on the Hub; one at a time, never all in memory.

Owns: the files' forms and the limits on what is read. Must not know: what the keys of a row mean.
A row that cannot be read comes as an error in its place, so that a reader can list them all.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import NamedTuple, Protocol, cast

from critique_rl.errors import DataError, MissingExtraError
from critique_rl.feedback.fields import shown

MAX_LINE_BYTES = 8_000_000
HUB = "hub:"
_ROWS_AT_ONCE = 256


class SourceRow(NamedTuple):
    """One row, or the reason why it cannot be read. `torn`: the last line of a file, cut off while it was written."""

    where: str
    value: Mapping[str, object]
    error: DataError | None = None
    torn: bool = False


class _Schema(Protocol):
    names: list[str]


class _Batch(Protocol):
    def to_pylist(self) -> list[dict[str, object]]: ...


class _ParquetFile(Protocol):
    schema_arrow: _Schema

    def iter_batches(self, *, batch_size: int, columns: Sequence[str]) -> Iterator[_Batch]: ...

    def close(self) -> None: ...


def source_rows(source: str, columns: Sequence[str]) -> Iterator[SourceRow]:
    """Every row of `source`: a .jsonl or .parquet file, or "hub:owner/name[:split]". Of a table, only `columns`.

    Raises DataError if the source cannot be opened, MissingExtraError if its reader is not installed.
    """
    if source.startswith(HUB):
        return _hub_rows(source, columns)
    path = Path(source)
    if path.suffix == ".parquet":
        return _parquet_rows(path, columns)
    if path.suffix not in (".jsonl", ".json", ".ndjson"):
        raise DataError(f"{source!r} is of no known form: wanted a .jsonl or .parquet file, or hub:owner/name:split")
    return _json_rows(path)


def source_digest(source: str) -> str:
    """sha256 (hex) of a file; "" for a data set on the Hub, whose rows the reader has to hash. Raises DataError."""
    if source.startswith(HUB):
        return ""
    try:
        with Path(source).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unreadable(Path(source), error) from None


def json_object(line: bytes, where: str) -> Mapping[str, object]:
    """One line as a JSON object, NaN and infinity refused. Raises DataError."""
    try:
        value: object = json.loads(line, parse_constant=_refuse_constant, parse_float=_finite)
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: byte {error.start + 1} is not UTF-8; save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise DataError(f"{where}: not JSON ({error.msg} at column {error.colno}); wanted one object a line") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: {error or 'nested too deeply'}; wanted one JSON object a line") from None
    if not isinstance(value, dict):
        raise DataError(f"{where}: got {shown(value)}; wanted a JSON object")
    return cast("dict[str, object]", value)


def _json_rows(path: Path) -> Iterator[SourceRow]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unreadable(path, error) from None
    with file:
        number = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            where = f"{path}, line {number}"
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            complete = line.endswith(b"\n")
            if not complete and len(line) > MAX_LINE_BYTES:
                while (more := file.readline(MAX_LINE_BYTES)) and not more.endswith(b"\n"):
                    pass
                yield SourceRow(where, {}, DataError(f"{where}: longer than {MAX_LINE_BYTES:,} bytes; shorten the row"))
            elif line.strip():
                try:
                    yield SourceRow(where, json_object(line, where))
                except DataError as error:
                    yield SourceRow(where, {}, error, torn=not complete)


def _parquet_rows(path: Path, columns: Sequence[str]) -> Iterator[SourceRow]:
    parquet = _extra("pyarrow.parquet", f"reading {path}")
    try:
        file = cast(_ParquetFile, parquet.ParquetFile(path))
    except (OSError, ValueError) as error:  # pyarrow's own errors derive from ValueError
        raise _unreadable(path, error) from None
    try:
        number = 0
        wanted = [name for name in columns if name in file.schema_arrow.names]
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield SourceRow(f"{path}, row {number}", row)
    finally:
        file.close()


def _hub_rows(source: str, columns: Sequence[str]) -> Iterator[SourceRow]:
    name, _, split = source.removeprefix(HUB).partition(":")
    if name.count("/") != 1 or not all(name.split("/")):
        raise DataError(f"{source!r} names no data set: wanted hub:owner/name or hub:owner/name:split")
    datasets = _extra("datasets", f"reading {source}")
    try:
        rows = cast(
            "Iterator[Mapping[str, object]]", datasets.load_dataset(name, split=split or "train", streaming=True)
        )
        for number, row in enumerate(rows, start=1):
            yield SourceRow(f"{source}, row {number}", {key: row[key] for key in columns if key in row})
    except (OSError, ValueError) as error:
        raise DataError(f"{source}: the data set cannot be read: {error}: check its name, split and access") from None


def _extra(module: str, needed_for: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError(module.partition(".")[0], "data", needed_for) from None


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{str(path)!r} does not exist; give the path of a .jsonl or .parquet file")
    return DataError(f"{str(path)!r} cannot be read: {error}")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"holds {name}, which is no JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"holds the number {text}, which is too large")
    return value

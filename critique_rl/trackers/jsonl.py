"""The run on disk: metrics.jsonl, events.jsonl and samples.jsonl, one JSON object a line, each with its step.

Owns: the line format, that a line is on disk before the call returns, and that a resumed run continues the files
exactly (lines after the resumed step, and a half-written last line, are cut off). Must not know: what the values mean.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO, cast

from critique_rl.errors import CheckpointError, ConfigError

METRICS, EVENTS, SAMPLES = "metrics.jsonl", "events.jsonl", "samples.jsonl"


class JsonlTracker:
    """Appends to the three files of `run_dir`.

    Args: `resume_step` is the last step to keep (None: a new run). Raises ConfigError if a new run finds lines of an
    earlier one, CheckpointError if a file cannot be read, cut or written.
    """

    def __init__(self, run_dir: Path, *, resume_step: int | None = None) -> None:
        self._dir = run_dir
        self._files: dict[str, IO[bytes]] = {}
        try:
            run_dir.mkdir(parents=True, exist_ok=True)
            for name in (METRICS, EVENTS, SAMPLES):
                path = run_dir / name
                if resume_step is None:
                    _refuse_used(path)
                else:
                    truncate_after(path, resume_step)
                # Unbuffered: a write that failed leaves nothing behind that close() would try to write again.
                self._files[name] = path.open("ab", buffering=0)
        except CheckpointError:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise CheckpointError(
                f"{run_dir}: the run directory cannot be opened for writing: {error.strerror}"
            ) from error

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._append(METRICS, step, values)

    def event(self, step: int, kind: str, message: str) -> None:
        self._append(EVENTS, step, {"kind": kind, "message": message})

    def sample(self, step: int, record: Mapping[str, object]) -> None:
        self._append(SAMPLES, step, record)

    def close(self) -> None:
        for file in self._files.values():
            file.close()

    def _append(self, name: str, step: int, values: Mapping[str, object]) -> None:
        record = finite({"step": step} | {k: v for k, v in values.items() if k != "step"})
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        data = memoryview(line.encode("utf-8", errors="backslashreplace"))
        try:
            while data:
                data = data[self._files[name].write(data) :]
        except OSError as error:
            raise CheckpointError(
                f"{self._dir / name}: step {step} cannot be written: {error.strerror}; all steps before it are on "
                "disk. Free some space and resume the run"
            ) from error


def finite(value: object) -> object:
    """The same value with every NaN and infinity replaced by None, which is what JSON can say."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in cast("Mapping[object, object]", value).items()}
    if isinstance(value, list | tuple):
        return [finite(v) for v in cast("list[object]", value)]
    return value


def truncate_after(path: Path, step: int) -> int:
    """Cut every line of a later step, and a half-written last line, from a JSONL file; returns the lines removed.

    The file is replaced in one rename. Raises CheckpointError for a line in the middle that is not a JSON object with a
    whole "step".
    """
    if not path.exists():
        return 0
    lines = path.read_bytes().splitlines(keepends=True)
    kept: list[bytes] = []
    for number, line in enumerate(lines, start=1):
        if number == len(lines) and not line.endswith(b"\n"):
            break
        if _step_of(line, path, number) <= step:
            kept.append(line)
    if len(kept) < len(lines):
        scratch = path.with_suffix(".jsonl.new")
        with scratch.open("wb") as file:
            file.writelines(kept)
            file.flush()
            os.fsync(file.fileno())
        scratch.replace(path)
    return len(lines) - len(kept)


def _step_of(line: bytes, path: Path, number: int) -> int:
    try:
        parsed = cast("object", json.loads(line))
    except ValueError:
        parsed = None
    step = cast("Mapping[str, object]", parsed).get("step") if isinstance(parsed, dict) else None
    if not isinstance(step, int) or isinstance(step, bool):
        raise CheckpointError(
            f'{path}:{number}: not a JSON object with a whole "step": {line[:80]!r}; '
            "repair or delete this line, then resume"
        )
    return step


def _refuse_used(path: Path) -> None:
    if path.exists() and path.stat().st_size:
        raise ConfigError(f"{path} already holds an earlier run; resume that run, or choose another output directory")

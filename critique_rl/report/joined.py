"""The files of a run's stages as those of one run: steps and counters go on where the stage before left them.

Owns: which figures count over a whole run, and the marks between stages. Must not know: what a stage trains.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, cast

from critique_rl.errors import CheckpointError

Row = dict[str, object]
METRICS, EVENTS, SAMPLES = "metrics.jsonl", "events.jsonl", "samples.jsonl"
_COUNTED = ("tokens/generated", "critic/calls", "critic/ok", "critic/failed", "critic/directives", "critic/dropped")
_COUNTED_TOO = ("critic/prompt_tokens", "critic/completion_tokens", "critic/cost_usd", "critic/outcome/")
_TOTAL = "steps/total"


class StageFiles(NamedTuple):
    """A stage that has ended: where its files are, how many steps it took, what it is and why it ended, in words."""

    directory: Path
    steps: int
    title: str
    ended: str


def join_stages(directory: Path, stages: Sequence[StageFiles]) -> None:
    """Write the three files of the whole anew. Errors: CheckpointError; a file is whole or as it was."""
    rows: dict[str, list[Row]] = {METRICS: [], EVENTS: [], SAMPLES: []}
    offset, counted = 0, dict[str, float]()
    for stage in stages:
        rows[EVENTS].append(_event(offset, f"{stage.title} begins"))
        latest: dict[str, float] = {}
        for row in _rows(stage.directory / METRICS):
            latest |= {key: value for key, value in _numbers(row) if _counts(key)}
            moved = {key: counted.get(key, 0.0) + value for key, value in _numbers(row) if _counts(key)}
            total = {_TOTAL: offset + cast(float, row[_TOTAL])} if _TOTAL in row else {}
            rows[METRICS].append({**_later(row, offset), **moved, **total})
        for name in (EVENTS, SAMPLES):
            rows[name] += [_later(row, offset) for row in _rows(stage.directory / name)]
        offset += stage.steps
        rows[EVENTS].append(_event(offset, f"{stage.title} ends: {stage.ended}"))
        for key, value in latest.items():
            counted[key] = counted.get(key, 0.0) + value
    for name, found in rows.items():
        _write(directory / name, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found))


def _later(row: Mapping[str, object], offset: int) -> Row:
    return {**row, "step": cast(int, row["step"]) + offset}


def _event(step: int, message: str) -> Row:
    return {"step": step, "kind": "stage", "message": message}


def _counts(key: str) -> bool:
    return key in _COUNTED or key.startswith(_COUNTED_TOO)


def _numbers(row: Mapping[str, object]) -> Iterator[tuple[str, float]]:
    return ((key, float(value)) for key, value in row.items() if isinstance(value, int | float))


def _rows(path: Path) -> Iterator[Row]:
    with suppress(FileNotFoundError), path.open(encoding="utf-8") as file:
        for line in file:
            yield cast(Row, json.loads(line))


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.new")
    try:
        scratch.write_text(text, encoding="utf-8", errors="replace")
        scratch.replace(path)
    except OSError as error:
        raise CheckpointError(
            f"{path} could not be written: {error.strerror}; the stages' own files are whole"
        ) from error

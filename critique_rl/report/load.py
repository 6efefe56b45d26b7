"""Reads a run directory: one run, or several arms with several seeds.

Owns: which files there are, and the list of what is missing or unreadable (a report is made all the same).
Must not know: what the page looks like, how the files came about.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from pydantic import ValidationError

from critique_rl.errors import DataError
from critique_rl.report.records import Event, Row, Sample, Summary

ARM_COLOURS = 6
CONFIGS = ("config.toml", "config.json", "stages.json")
_LABELS = {
    "grpo": "scalar GRPO",
    "scalar_grpo": "scalar GRPO",
    "dr_grpo": "Dr.GRPO",
    "dapo": "DAPO",
    "gspo": "GSPO",
    "cispo": "CISPO",
    "rloo": "RLOO",
    "critique_grpo": "Critique-GRPO",
    "directive_distillation": "directive distillation",
    "two_channel": "both channels",
    "self_imitation": "shaping on own successes",
    "sft": "fine-tuning on demonstrations",
}
R = TypeVar("R", bound=Row)


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricRow:
    """One line of metrics.jsonl; only finite numbers are kept."""

    step: int
    values: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One arm with one seed."""

    arm: str
    seed: str
    config: str
    metrics: tuple[MetricRow, ...]
    events: tuple[Event, ...]
    samples: tuple[Sample, ...]

    def last(self, key: str) -> float | None:
        """The latest value of one metric, or None."""
        return next((row.values[key] for row in reversed(self.metrics) if key in row.values), None)

    def first_step(self, key: str) -> int | None:
        """The first step at which a metric was above zero, or None."""
        return next((row.step for row in self.metrics if row.values.get(key, 0.0) > 0.0), None)

    @property
    def stall_step(self) -> int | None:
        """When the stall was reported, or else first counted."""
        told = next((event.step for event in self.events if event.kind == "stall"), None)
        return told if told is not None else self.first_step("plateau/plateaued")

    @property
    def first_critic_step(self) -> int | None:
        return self.first_step("critic/calls")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunSet:
    """Everything that a report is made of. `missing` says in whole sentences what could not be read."""

    directory: Path
    summary: Summary
    arms: tuple[str, ...]
    runs: tuple[Run, ...]
    missing: tuple[str, ...]

    def of_arm(self, arm: str) -> tuple[Run, ...]:
        return tuple(run for run in self.runs if run.arm == arm)

    def colour(self, arm: str) -> int:
        """Number of an arm's colour: the last of few arms is the strongest (2), a baseline before it is grey (0)."""
        index, count = self.arms.index(arm), len(self.arms)
        return 2 if count < 3 and index == count - 1 else index % ARM_COLOURS

    def label(self, arm: str) -> str:
        """An arm's name as a person would write it."""
        return self.summary.labels.get(arm) or _LABELS.get(arm) or arm.replace("_", " ") or "this run"


def load_run_set(directory: Path) -> RunSet:
    """Read a run directory. Raises DataError if there is no such directory; everything else becomes a note."""
    if not directory.is_dir():
        raise DataError(f"{directory}: no such run directory; give the folder that holds metrics.jsonl or summary.json")
    missing: list[str] = []
    summary = _summary(directory, missing)
    folders = _folders(directory, summary, missing)
    runs = tuple(_run(directory, folder, arm, seed, missing) for arm, seed, folder in folders)
    named = [*summary.arms, *(run.arm for run in runs), *(row.arm for row in summary.table)]
    arms = tuple(dict.fromkeys(named))
    return RunSet(directory=directory, summary=summary, arms=arms, runs=runs, missing=tuple(missing))


def _summary(directory: Path, missing: list[str]) -> Summary:
    path = directory / "summary.json"
    if not path.is_file():
        missing.append("summary.json is missing: no table of results (the run may not have ended).")
        return Summary()
    try:
        raw = cast("object", json.loads(path.read_text(encoding="utf-8", errors="replace")))
    except ValueError as error:
        missing.append(f"summary.json is not JSON ({error}): no table of results.")
        return Summary()
    fields = dict(cast("Mapping[str, object]", raw)) if isinstance(raw, dict) else {}
    while True:
        try:
            return Summary.model_validate(fields)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            missing.append(f"summary.json, field {where}: {first['msg']}; the field is left out.")
            del fields[str(first["loc"][0])]


def _folders(directory: Path, summary: Summary, missing: list[str]) -> list[tuple[str, str, Path]]:
    """(arm, seed, folder) of each run, in the order of the summary, or of the folders' names."""
    if summary.runs:
        found: list[tuple[str, str, Path]] = []
        for key, name in summary.runs.items():
            arm, _, seed = key.rpartition("/")
            folder = directory / name
            if not folder.resolve().is_relative_to(directory.resolve()):
                missing.append(f"summary.json, runs: {name!r} lies outside of the run directory; it is left out.")
            elif folder.is_dir():
                found.append((arm, seed, folder))
            else:
                missing.append(f"{name} is missing: no curves and stories of {key}.")
        return found
    nested = sorted(path for path in directory.glob("*/seed-*") if path.is_dir())
    if nested:
        return [(path.parent.name, path.name.removeprefix("seed-"), path) for path in nested]
    arm = summary.arms[0] if summary.arms else next((row.arm for row in summary.table), "")
    seed = summary.seeds[0] if summary.seeds else ""
    return [(arm, seed, directory)]


def _run(root: Path, folder: Path, arm: str, seed: str, missing: list[str]) -> Run:
    config = next((path for name in CONFIGS if (path := folder / name).is_file()), None)
    return Run(
        arm=arm,
        seed=seed,
        config=config.read_text(encoding="utf-8", errors="replace") if config else "",
        metrics=_metrics(root, folder / "metrics.jsonl", missing),
        events=_rows(root, folder / "events.jsonl", Event, "no events", missing),
        samples=_rows(root, folder / "samples.jsonl", Sample, "no stories", missing),
    )


def _metrics(root: Path, path: Path, missing: list[str]) -> tuple[MetricRow, ...]:
    rows: list[MetricRow] = []
    for _, record in _lines(root, path, "no curves", missing):
        step = record.get("step")
        if isinstance(step, int):
            values = {k: float(v) for k, v in record.items() if isinstance(v, int | float) and math.isfinite(v)}
            rows.append(MetricRow(step=step, values=values))
    return tuple(rows)


def _rows(root: Path, path: Path, model: type[R], without: str, missing: list[str]) -> tuple[R, ...]:
    rows: list[R] = []
    for number, record in _lines(root, path, without, missing):
        try:
            rows.append(model.model_validate(record))
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            missing.append(f"{path.relative_to(root)}:{number}, field {where}: {first['msg']}; the line is left out.")
    return tuple(rows)


def _lines(root: Path, path: Path, without: str, missing: list[str]) -> Iterator[tuple[int, Mapping[str, object]]]:
    """(line number, object) of each line that is a JSON object."""
    name = path.relative_to(root)
    if not path.is_file():
        missing.append(f"{name} is missing: {without}.")
        return
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = cast("object", json.loads(line))
            except ValueError:
                record = None
            if isinstance(record, dict):
                yield number, cast("Mapping[str, object]", record)
            elif line.strip():
                missing.append(f"{name}:{number} is not a JSON object; the line is left out.")

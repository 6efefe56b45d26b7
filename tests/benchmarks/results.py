"""The two forms of a benchmark's result: a line of JSON per figure, and one file of a run for docs/results."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from critique_rl.provenance import commit, device_name

PACKAGES = ("critique-rl", "openai", "httpx", "pydantic", "tenacity")


class Row(NamedTuple):
    """One measured figure; `holds` is None where nothing was promised."""

    name: str
    value: float
    unit: str
    target: str | None = None
    holds: bool | None = None


def save(path: Path, rows: Sequence[Row], *, name: str, title: str, seed: int, wall_time_s: float) -> None:
    """Write the run of `python -m tests.benchmarks.NAME` in the form of docs/results."""
    run = {
        "title": title,
        "command": shlex.join(["python", "-m", f"tests.benchmarks.{name}", *sys.argv[1:]]),
        "commit": commit(),
        "device": device_name(cpu=True),
        "versions": {package: version(package) for package in PACKAGES},
        "seeds": [seed],
        "wall_time_s": round(wall_time_s, 1),
        "rows": [row._asdict() for row in rows],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(run, indent=2) + "\n", encoding="utf-8")

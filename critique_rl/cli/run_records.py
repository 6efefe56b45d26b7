"""Records for `calibrate` and `decide` from a finished run: what its policy answers to its held-out tasks.

Owns: when a policy is asked anew, and what is told of it. Must not know: how it is asked, what is done with records.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import cast

from critique_rl.cli.quiet import quiet_libraries
from critique_rl.errors import ConfigError


def from_run(known: argparse.Namespace) -> bool:
    """Where RECORDS is a run directory, put the file of its answers in its place; whether it was one.

    The answers belong together by task, unless --group says otherwise; the policy is asked once for each checkpoint.
    Errors: ConfigError for a directory without a run, and those of `held_out_answers`.
    """
    directory = Path(str(known.records))
    if not directory.is_dir():
        return False
    written = directory / "config.json"
    if not written.is_file():
        raise ConfigError(f"{directory} is a directory without a run's config.json; wanted a file of records or a run")
    quiet_libraries()
    from critique_rl.config.load import load_resolved
    from critique_rl.decisions.held_out import FILE, held_out_answers

    answers, checkpoints = directory / FILE, directory / "checkpoints"
    if not answers.is_file() or answers.stat().st_mtime <= _newest(checkpoints):
        found = held_out_answers(load_resolved(written), directory)
        without = sum(answer.confidence is None for answer in found)
        left_out = f"; {without} state no confidence and are left out" if without else ""
        print(f"{len(found)} held-out answers in {answers}{left_out}", file=sys.stderr)
    known.records = str(answers)
    known.group = known.group or "task"
    return True


def fitted_on(records: str, calibrator: Path) -> list[str]:
    """A warning where a calibrator's own records are to be decided; nothing is said of a file that cannot be read."""
    try:
        tree = cast("object", json.loads(calibrator.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return []
    report = cast("dict[str, object]", tree).get("report") if isinstance(tree, dict) else None
    if not isinstance(report, dict) or cast("dict[str, object]", report).get("source") != records:
        return []
    return [f"{calibrator} was fitted on a part of {records}, which flatters what is found there: take other records"]


def _newest(folder: Path) -> float:
    return max((path.stat().st_mtime for path in folder.rglob("*")), default=float("inf"))

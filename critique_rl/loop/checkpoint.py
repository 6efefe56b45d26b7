"""Checkpoints of a whole run: the policy's own files beside `state.json`, each directory complete or absent.

Trap: a directory is written under a temporary name and renamed, so a kill or a full disk never leaves a half one that
a resume would pick up.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from critique_rl.errors import CheckpointError
from critique_rl.protocols import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedRun:
    """A complete checkpoint: where it lies and the loop's own state."""

    directory: Path
    state: Mapping[str, object]


def save_checkpoint(root: Path, step: int, *, policy: Policy, state: Mapping[str, object], keep: int) -> Path:
    """Write `root/step-NNNNNN` and drop all but the newest `keep`. Errors: CheckpointError; older ones stay."""
    final = root / f"step-{step:06d}"
    partial = root / f".writing-step-{step:06d}"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        policy.save(partial)
        (partial / "state.json").write_text(json.dumps(state) + "\n", encoding="utf-8")
        shutil.rmtree(final, ignore_errors=True)
        partial.rename(final)
    except (OSError, RuntimeError) as error:  # torch reports a failed write as RuntimeError
        shutil.rmtree(partial, ignore_errors=True)
        raise CheckpointError(
            f"checkpoint {str(final)!r} could not be written: {error}; everything up to step {step} is in the metrics, "
            "and older checkpoints are whole: free some space and run again with --resume"
        ) from error
    for old in _complete(root)[:-keep]:
        shutil.rmtree(old)
    return final


def latest_checkpoint(root: Path) -> SavedRun | None:
    """The newest complete checkpoint, or None. Errors: CheckpointError if its state cannot be read."""
    complete = _complete(root)
    if not complete:
        return None
    try:
        state = json.loads((complete[-1] / "state.json").read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise CheckpointError(
            f"checkpoint {str(complete[-1])!r} cannot be read: {error}; delete it to go back"
        ) from error
    return SavedRun(directory=complete[-1], state=cast("dict[str, object]", state))


def _complete(root: Path) -> list[Path]:
    return sorted(path for path in root.glob("step-*") if (path / "state.json").exists())

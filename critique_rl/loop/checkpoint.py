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


def checkpoint_directory(root: Path, step: int) -> Path:
    """Where the checkpoint of that step lies."""
    return root / f"step-{step:06d}"


def save_checkpoint(
    root: Path, step: int, *, policy: Policy, state: Mapping[str, object], keep: int, pinned: int | None = None
) -> Path:
    """Write `root/step-NNNNNN` and drop all but the newest `keep`, and but that of step `pinned`. Errors:
    CheckpointError; older ones stay."""
    final = checkpoint_directory(root, step)
    partial = root / f".writing-step-{step:06d}"
    replaced = root / f".replaced-step-{step:06d}"
    try:
        for left_by_a_kill in (*root.glob(".writing-*"), *root.glob(".replaced-*")):
            shutil.rmtree(left_by_a_kill)
        partial.mkdir(parents=True)
        policy.save(partial)
        (partial / "state.json").write_text(json.dumps(state) + "\n", encoding="utf-8")
        if final.exists():
            final.rename(replaced)
        partial.rename(final)
    except Exception as error:  # torch and safetensors report a failed write by kinds of their own
        shutil.rmtree(partial, ignore_errors=True)
        if replaced.exists() and not final.exists():
            replaced.rename(final)
        raise CheckpointError(
            f"checkpoint {str(final)!r} could not be written: {error}; everything up to step {step} is in the metrics, "
            "and older checkpoints are whole: free some space and run again with --resume"
        ) from error
    kept = None if pinned is None else checkpoint_directory(root, pinned)
    for old in (replaced, *(path for path in _complete(root)[:-keep] if path != kept)):
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest_checkpoint(root: Path) -> SavedRun | None:
    """The newest complete checkpoint, or None. Errors: CheckpointError if its state cannot be read."""
    complete = _complete(root)
    if not complete:
        return None
    try:
        state = json.loads((complete[-1] / "state.json").read_text(encoding="utf-8"))
        if not isinstance(state, dict) or not {"progress", "plateau"} <= state.keys():
            raise ValueError("state.json is not an object with progress and plateau")
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint {str(complete[-1])!r} cannot be read: {error}; delete it to go back"
        ) from error
    return SavedRun(directory=complete[-1], state=cast("dict[str, object]", state))


def _complete(root: Path) -> list[Path]:
    whole = (path for path in root.glob("step-*") if (path / "state.json").exists())
    return sorted(whole, key=lambda path: (len(path.name), path.name))

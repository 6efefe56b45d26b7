"""Tasks from a JSONL file; any data set becomes one with a few lines of script.

Owns: which rows are trained on and which are held out. Must not know: what judges an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from critique_rl.tasks.order import epoch_batch, held_apart, split_by_prompt
from critique_rl.tasks.rows import read_tasks
from critique_rl.types import Task


class JsonlTasks:
    """A `TaskSource` over the rows of `path`.

    Evaluation uses the rows of `held_out_path`, or `held_out_fraction` of the prompts in `path`, or nothing. No
    held-out prompt is ever trained on: a prompt that is in both files is an error. Errors: DataError.
    """

    def __init__(
        self,
        path: Path,
        *,
        verifier: str,
        held_out_path: Path | None = None,
        held_out_fraction: float = 0.0,
        system: str = "",
    ) -> None:
        if held_out_path is not None and held_out_fraction:
            raise ValueError("give held_out_path or held_out_fraction, not both")
        rows = read_tasks(path, verifier=verifier, system=system)
        if held_out_path is None:
            self._train, self._held_out = split_by_prompt(rows, held_out_fraction)
            return
        self._train, self._held_out = held_apart(
            rows,
            read_tasks(held_out_path, verifier=verifier, system=system),
            told=lambda task, row: (
                f"held-out row {task.id!r} of {held_out_path} has the same prompt as row {row.id!r} of {path}"
            ),
        )

    def batch(self, step: int, size: int, *, seed: int) -> Sequence[Task]:
        """`size` different training tasks; a pure function of (seed, step, size)."""
        return epoch_batch(self._train, step, size, seed=seed)

    def training(self) -> Sequence[Task]:
        """Every task that is trained on."""
        return self._train

    def held_out(self) -> Sequence[Task]:
        """The rows kept for evaluation, in file order."""
        return self._held_out

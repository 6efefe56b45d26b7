"""An objective that nobody can learn from: a fair coin, thrown once for each task and text."""

from __future__ import annotations

import hashlib

from critique_rl.types import Task


def coin(task: Task, text: str) -> float:
    """1 or 0 with equal chances, the same each time for the same task and text: as spread out as a value in [0, 1] can
    be, and no more likely to be 1 for a right answer than for a wrong one."""
    return float(hashlib.sha256(f"{task.id}\n{text}".encode()).digest()[0] & 1)

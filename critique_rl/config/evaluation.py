"""The `[evaluation]` section: how held-out success is measured.

Owns: its defaults. Must not know: how completions are sampled or judged.
"""

from __future__ import annotations

from pydantic import Field

from critique_rl.config.base import Strict


class EvaluationConfig(Strict):
    """Held-out success without any hint."""

    every: int = Field(default=50, ge=0, description="steps between evaluations; 0: only at the start and the end")
    samples_per_task: int = Field(default=1, ge=1)
    max_tasks: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0.0, description="0 is greedy")

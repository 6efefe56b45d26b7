"""What a resumed run must know besides weights, plateau memory and trust: its counters.

Owns: their names in a checkpoint. Must not know: when they are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, cast

from critique_rl.errors import CheckpointError
from critique_rl.loop.criticize import CriticTally


@dataclass(slots=True, kw_only=True)
class Progress:
    """Counters of one run, plain JSON in a checkpoint."""

    step: int = 0
    generated_tokens: int = 0
    critic: CriticTally = field(default_factory=CriticTally)
    first_critic_step: int | None = None
    injected: int = 0
    skipped_steps: int = 0
    wall_s: float = 0.0
    evaluations: list[dict[str, object]] = field(default_factory=list[dict[str, object]])

    def to_json(self) -> dict[str, object]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, object]) -> Progress:
        try:
            tally = CriticTally(**cast("dict[str, Any]", data["critic"]))
            return cls(**cast("dict[str, Any]", {**data, "critic": tally}))
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"progress in the checkpoint: {error}; it was written by another version: resume with that version"
            ) from error

"""The `[forgetting]` section: what becomes of a run that eats what an earlier one has learned.

Owns: its defaults. Must not know: how success is measured or what a task is.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from critique_rl.config.base import Strict
from critique_rl.config.tasks import MixtureTasksConfig, TasksConfig

REPLAY_SHARE = 0.2


class ForgettingConfig(Strict):
    """Watches the held-out success of sources of a mixture that were trained on before and are not now (or little)."""

    action: Literal["replay", "stop", "warn"] = Field(
        default="replay",
        description="replay: mix the forgotten source into every batch from then on, in later stages too",
    )
    replay_share: float | None = Field(
        default=None, gt=0.0, lt=1.0, description="with replay: share of a batch for all forgotten sources (None: 0.2)"
    )
    standard_errors: float = Field(
        default=2.0, gt=0.0, description="by how many of them a loss must exceed what was predicted"
    )
    transfer: str = Field(
        default="",
        description="a transfer.json of `critique-rl curriculum measure`, for the prediction; empty: no loss",
    )
    finished: tuple[str, ...] = Field(
        default=(),
        description="sources that the starting policy was trained on; those of earlier stages are known by themselves",
    )

    @model_validator(mode="after")
    def _every_key_is_read(self) -> ForgettingConfig:
        if self.replay_share is not None and self.action != "replay":
            raise ValueError(f"replay_share has no effect with action = {self.action!r}; remove it")
        return self


def check_forgetting(config: ForgettingConfig | None, tasks: TasksConfig) -> None:
    """Raises ValueError for a section that could never watch anything."""
    if config is None:
        return
    if not isinstance(tasks, MixtureTasksConfig):
        raise ValueError(
            f'[forgetting] has no effect with tasks.kind = {tasks.kind!r}: it watches the sources of a "mixture"; '
            "remove it, or make the tasks a mixture"
        )
    unknown = sorted(set(config.finished) - set(tasks.of))
    if unknown:
        raise ValueError(f"forgetting.finished names {unknown[0]!r}; the sources are {', '.join(tasks.of)}")
    busy = sorted(set(config.finished) & set(main_sources(tasks.trained)))
    if busy:
        raise ValueError(f"forgetting.finished names {busy[0]!r}, which this run trains on; remove it there")


def main_sources(shares: dict[str, float]) -> tuple[str, ...]:
    """The sources that a run is for: those with the largest share. The others in the mix are there to be kept."""
    largest = max(shares.values())
    return tuple(name for name, share in shares.items() if share == largest)

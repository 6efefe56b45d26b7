"""When a critic has earned its place, and what happens if it has not.

Owns: the options of the trust guard. Must not know: how rates are compared, critics, the loop.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from critique_rl.config.base import Strict


class TrustConfig(Strict):
    """The critic against its control arm: a second attempt that is told nothing but that the first one was wrong."""

    trials: int = Field(
        default=32,
        ge=0,
        description="attempts per arm (with a critique, with a bare verdict) before judging; equal ones once; 0: never",
    )
    confidence: float = Field(
        default=0.9, gt=0.5, lt=1.0, description="of the interval of the difference; it must lie above 0"
    )
    on_failure: Literal["stop", "warn"] = Field(
        default="stop", description="stop: the critic is asked no more and the run goes on as scalar GRPO"
    )
    min_auroc: float = Field(
        default=0.55, ge=0.5, le=1.0, description="below it the critic's scores are no longer used as rewards"
    )
    calibration: str = Field(
        default="",
        description="a result of `critique-rl rescue` for this critic: its scores are used as that run calibrated them",
    )
    min_scored: int = Field(
        default=64, ge=8, description="scored attempts, right and wrong ones among them, before scores are judged"
    )

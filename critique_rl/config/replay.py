"""What is remembered of rescued prompts, and how it comes back.

Owns: every default of the replay, and the name that a replayed refinement goes by. Must not know: when a prompt counts
as rescued, training.
"""

from __future__ import annotations

from pydantic import Field

from critique_rl.config.base import Strict

REPLAY = "replay"
"""The rung and the critic of a refinement that was sampled at an earlier visit."""


class ReplayConfig(Strict):
    """Verified refinements are kept and injected again while their prompt still fails by itself."""

    capacity: int = Field(
        default=512, ge=1, description="refinements kept; the oldest one leaves where there is no room"
    )
    max_age_steps: int = Field(default=200, ge=1, description="steps after which a refinement is replayed no more")
    instead_of_critic: bool = Field(
        default=True,
        description="a failed prompt that has one is given it and no critic is asked, so there are no new ones and no "
        "directive targets; false: it competes with the new ones",
    )
    revisit_share: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="up to this share of a step's prompts, the last ones, gives way to remembered prompts, those "
        "longest not visited first; mean rewards are then of harder prompts",
    )

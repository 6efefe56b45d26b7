"""`[[checks]]` of a run file: what an arm's held-out success must come to.

Owns: the entry's keys. Must not know: how success is measured or reported.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from critique_rl.config.base import Strict


class CheckConfig(Strict):
    """A bound on the success of one arm on one class of held-out tasks; it must hold for every seed."""

    name: str = Field(min_length=1)
    arm: str
    kind: str = Field(alias="class", description='a task\'s kind ("all" for tasks without one)')
    at_most: float | None = Field(default=None, ge=0.0, le=1.0)
    at_least: float | None = Field(default=None, ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _has_one_bound(self) -> Self:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError("give exactly one of at_most and at_least")
        return self

"""`[ablation]` of a run file: what the arms are compared with, and what is claimed of them.

Owns: the entry's keys. Must not know: how arms are run or how success is measured.
"""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from critique_rl.config.base import Strict


class ClaimConfig(Strict):
    """A statement about one arm that the ablation confirms or refutes, by intervals over all seeds or by every seed."""

    name: str = Field(min_length=1)
    arm: str
    kind: str = Field(alias="class", description='a task\'s kind ("all" for tasks without one)')
    above: tuple[str, ...] = Field(
        default=(), description="arms that it must beat: its interval lies above each of theirs, without overlap"
    )
    not_below: tuple[str, ...] = Field(
        default=(), description="arms that it must not be worse than: its interval does not lie below any of theirs"
    )
    floor_above: float | None = Field(
        default=None,
        ge=0.0,
        lt=1.0,
        description="what its success must stay above in every seed, at every evaluation after the one at which it "
        "first reached half of its best; a seed that never succeeds refutes it. It needs evaluation.every",
    )

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        if bool(self.above) + bool(self.not_below) + (self.floor_above is not None) != 1:
            raise ValueError("give exactly one of above and not_below, each a list of arms, and floor_above, a number")
        return self


class AblationConfig(Strict):
    """How arms are compared; every arm must have the same token budget, the critic's own tokens included."""

    reference: str = Field(description="the arm that every other one is compared with")
    jobs: int = Field(default=2, ge=1, description="runs at a time, each in a process of its own")
    claims: tuple[ClaimConfig, ...] = ()

    def arms(self) -> tuple[str, ...]:
        """Every arm that the section names."""
        named = [self.reference]
        for claim in self.claims:
            named += [claim.arm, *claim.above, *claim.not_below]
        return tuple(dict.fromkeys(named))

"""The `[tasks]` section of the school world, with its five kinds of task.

Owns: every default of that source. Must not know: what the kinds ask.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from critique_rl.config.base import Strict

SchoolKind = Literal["chain", "sum", "sort", "recall", "write"]
ALL_KINDS: tuple[SchoolKind, ...] = ("chain", "sum", "sort", "recall", "write")


class SchoolTasksConfig(Strict):
    """The embedded five families: hard chains of steps, sums in three formats, sorting, recalling, lines of words."""

    kind: Literal["lab_school"]
    kinds: tuple[SchoolKind, ...] = Field(default=ALL_KINDS, min_length=1, description="what training asks")
    held_out_kinds: tuple[SchoolKind, ...] = Field(default=ALL_KINDS, description="what evaluations ask")
    shares: dict[SchoolKind, Annotated[float, Field(gt=0.0)]] = Field(
        default_factory=dict[SchoolKind, float],
        description="of each batch, relative to one another, 1 for a kind that is not named",
    )
    chain_length: int = Field(default=5, ge=3, le=5, description="operations of a chain")
    train: int = Field(default=120, ge=1, description="training problems of each kind, fewer where a kind has fewer")
    held_out: int = Field(
        default=40, ge=0, description="problems of each kind kept for evaluation, fewer where a kind has fewer"
    )
    fixed_accuracy: bool = Field(
        default=False,
        description="judge the format of a sum and not its digits: a draw for each problem and format, right with "
        "probability .35 for '=35', .20 for '<35>' and .10 for 'sum 35'",
    )
    verifier: str = Field(
        default="school",
        min_length=1,
        description="reward of the tasks; school needs no section of its own (docs/lab_school.md)",
    )

    @model_validator(mode="after")
    def _every_key_is_read(self) -> SchoolTasksConfig:
        for key, kinds in (("kinds", self.kinds), ("held_out_kinds", self.held_out_kinds)):
            if len(set(kinds)) < len(kinds):
                raise ValueError(f"{key} = {list(kinds)} names one twice; remove it")
        unknown = sorted(set(self.shares) - set(self.kinds))
        if unknown:
            raise ValueError(f"shares names {unknown[0]!r}, which is not asked: kinds are {', '.join(self.kinds)}")
        asked = {*self.kinds, *self.held_out_kinds}
        if self.fixed_accuracy and ("sum" not in asked or self.verifier != "school"):
            raise ValueError(
                "fixed_accuracy = true has no effect without sums that the verifier school judges; remove it"
            )
        if "chain_length" in self.model_fields_set and "chain" not in asked:
            raise ValueError(f"chain_length = {self.chain_length} has no effect without chains; remove it")
        return self

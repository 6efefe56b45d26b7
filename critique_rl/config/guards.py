"""What stops refinements and directive targets before a collapse: the trip wires' limits.

Owns: every default of `schedule/trip_wires.py`, with its source. Must not know: how wires are watched, the loop.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from critique_rl.config.algorithm import AlgorithmConfig, CritiqueGrpoConfig, TwoChannelConfig
from critique_rl.config.base import Strict
from critique_rl.config.distillation import DistillationConfig


class GuardsConfig(Strict):
    """Trip wires on the policy's own rollouts, each against a reference of its own from before injection began."""

    mode: Literal["stop", "warn", "off"] = Field(
        default="stop",
        description="stop: while a wire is tripped no critic is asked, no refinement injected and no directive target "
        "made, and the run goes on as scalar GRPO; warn: only say so; off: watch nothing",
    )
    reference_steps: int = Field(
        default=20,
        ge=1,
        description="steps averaged (exponentially) into the reference before the first injection (ours, no published "
        "evidence)",
    )
    recent_steps: int = Field(
        default=10,
        ge=1,
        description="steps averaged (exponentially) into the present value (ours, no published evidence)",
    )
    min_steps: int = Field(
        default=5,
        ge=1,
        description="steps that the reference must hold, and that injection must have gone on, before a wire can trip; "
        "where injection begins earlier, the reference takes in the first steps after it (ours, no published evidence)",
    )
    sustain_steps: int = Field(
        default=3, ge=1, description="steps beyond a limit in a row that trip a wire (ours, no published evidence)"
    )
    cooldown_steps: int = Field(
        default=20,
        ge=1,
        description="steps in a row, less than half way to the limit, after which a tripped wire lets injection go on "
        "(ours, no published evidence)",
    )
    min_entropy: float = Field(
        default=0.5,
        gt=0.0,
        lt=1.0,
        description="lowest entropy, as a share of its reference (half of the warm-up's is a usual kill switch of "
        "self-distillation); trips only if success falls too, or length leaves its band without a gain of success",
    )
    max_entropy: float = Field(
        default=2.0,
        gt=1.0,
        description="highest entropy, as a multiple of its reference; as min_entropy. Lying critics make it explode "
        "(arXiv 2506.03106, appendix C); the number is ours, no published evidence",
    )
    min_length: float = Field(
        default=0.7,
        gt=0.0,
        lt=1.0,
        description="lowest median completion length, as a share of its reference (a shrink of 30 % without a gain of "
        "reward is a usual stop-loss of self-distillation); trips only if success has not risen",
    )
    max_length: float = Field(
        default=2.0,
        gt=1.0,
        description="highest 95th percentile of completion length, as a multiple of its reference; trips only if "
        "success has not risen (ours, no published evidence)",
    )
    max_truncated: float = Field(
        default=0.25,
        gt=0.0,
        le=1.0,
        description="largest rise of the truncated share over its reference; trips only if success has not risen "
        "(ours, no published evidence)",
    )
    max_success_drop: float = Field(
        default=0.5,
        gt=0.0,
        le=1.0,
        description="largest fall of the success rate from its best, as a share of it, and by 0.1 at least; where "
        "tasks have several kinds, of each kind, too, beyond what chance does, but that is only told (ours, no "
        "published evidence)",
    )
    flat_success: float = Field(
        default=0.02,
        ge=0.0,
        description="a success rate that lies less than this above its reference has not risen (as plateau.delta; "
        "ours, no published evidence)",
    )
    conflict_every: int = Field(
        default=30,
        ge=0,
        description="training steps from one measurement of the gradients' conflict to the next, each at the first "
        "step from then on that has both kinds of feedback; 0: never. It takes one more pass over the rows of each "
        "kind and room for one more gradient, and changes no weight. Measured with the lab's two_channel on one "
        "core, each costs half to three quarters of a mean step: 2 % of the steps' time at 30 (ours, no published "
        "evidence)",
    )
    max_conflict: float = Field(
        default=0.5,
        gt=0.0,
        lt=1.0,
        description="largest conflict of the evaluative and the directive gradient: a cosine below minus this, at "
        "sustain_steps measurements in a row, trips if success has not risen (ours, no published evidence: a usual "
        "kill switch halves the directive weight below -0.3, this one stops)",
    )

    @model_validator(mode="after")
    def _every_key_is_read(self) -> GuardsConfig:
        if self.conflict_every == 0 and self.max_conflict != type(self).model_fields["max_conflict"].default:
            raise ValueError(
                f"max_conflict = {self.max_conflict} has no effect with conflict_every = 0; remove it, or set "
                "conflict_every to 1 or more"
            )
        return self


def check_conflict(guards: GuardsConfig, algorithm: AlgorithmConfig, distillation: DistillationConfig) -> None:
    """Raises ValueError for keys of the gradients' conflict where no step can have one."""
    if meets_conflict(algorithm, distillation):
        return
    for key in ("conflict_every", "max_conflict"):
        value = getattr(guards, key)
        if value not in (0, GuardsConfig.model_fields[key].default):
            raise ValueError(
                f"guards.{key} = {value} has no effect here: no step of algorithm.name = {algorithm.name!r} as it is "
                "set has evaluative and directive losses both, whose gradients could conflict; remove it"
            )


def meets_conflict(algorithm: AlgorithmConfig, distillation: DistillationConfig) -> bool:
    """Whether a step can hold a policy gradient beside a loss that a directive feeds."""
    if isinstance(algorithm, TwoChannelConfig):
        distils = "targets" in algorithm.use and distillation.join in ("losses", "routed")
        return distils or "refinements" in algorithm.use
    return isinstance(algorithm, CritiqueGrpoConfig)

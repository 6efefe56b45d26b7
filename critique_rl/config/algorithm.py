"""Which method stamps the weights, and the options of its two feedback channels.

Owns: every default of the algorithms, the refinement stage and the directive distillation. A section that a method
never reads is an error when it is set (see `config.run`). Must not know: torch.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from critique_rl.config.base import Strict

Scale = Literal["none", "std"]
Baseline = Literal["union", "first_turn"]


class GrpoConfig(Strict):
    """Group-relative policy gradient on the verifier's reward alone (Dr.GRPO form by default, arXiv 2503.20783)."""

    name: Literal["grpo"] = "grpo"
    scale: Scale = Field(
        default="none", description="divide centred rewards by the group's sample std, or not (Dr.GRPO)"
    )


class CritiqueGrpoConfig(Strict):
    """GRPO plus verified refinements of plateaued groups, scored under the bare prompt (arXiv 2506.03106)."""

    name: Literal["critique_grpo"] = "critique_grpo"
    scale: Scale = Field(default="none", description="as in grpo")
    baseline: Baseline = Field(default="union", description="mean over rollouts and refinements, or over rollouts only")


class DirectiveDistillationConfig(Strict):
    """The directive channel alone: the policy, shown the directive, re-scores its failed attempt (arXiv 2601.20802)."""

    name: Literal["directive_distillation"] = "directive_distillation"


class TwoChannelConfig(Strict):
    """Both channels in one step: evaluative scalars move advantages, directives make targets and refinements."""

    name: Literal["two_channel"] = "two_channel"
    scale: Scale = Field(default="none", description="as in grpo")
    baseline: Baseline = Field(default="union", description="as in critique_grpo")
    critic_score_weight: float = Field(
        default=0.1,
        ge=0.0,
        lt=1.0,
        description="weight of the critic's mean score inside a group that the verifier cannot rank (all rewards "
        "equal); below 1, so that no critic outranks a verified success; 0 turns it off",
    )


AlgorithmConfig = Annotated[
    GrpoConfig | CritiqueGrpoConfig | DirectiveDistillationConfig | TwoChannelConfig, Field(discriminator="name")
]


class RefinementConfig(Strict):
    """Second attempts sampled with the critique in view, and the imitation loss on the verified ones."""

    prompt: str = Field(default="refine", description="template of the refine context: a catalogue name or a path")
    per_attempt: int = Field(default=1, ge=1, description="refinements sampled per critiqued attempt")
    max_attempts: int = Field(default=8, ge=1, description="critiqued attempts refined per group")
    max_injected: int = Field(default=1, ge=1, description="verified refinements trained on per group")
    min_bare_logprob: float = Field(
        default=-20.0,
        le=0.0,
        description="refinements whose mean log-prob (nats/token) under the bare prompt is lower are dropped",
    )
    max_copied: float = Field(
        default=0.3,
        gt=0.0,
        le=1.0,
        description="largest share of a refinement's 8-grams that may be copied from the critique",
    )
    ratio_mode: Literal["shaped", "awr", "oc_is"] = Field(default="shaped", description="weight of off-context tokens")
    gamma: float = Field(default=0.1, gt=0.0, lt=1.0, description="shaping constant of pi / (pi + gamma)")
    weight: float = Field(default=1.0, gt=0.0, description="coefficient of the imitation channel")
    normalizer: Literal["own", "shared"] = Field(
        default="own", description="divide by the refinements' own token count, or by the policy-gradient constant"
    )


class DistillationConfig(Strict):
    """Directive text as token-level targets: who the teacher is, on which support, with which divergence."""

    prompt: str = Field(default="teacher", description="template of the teacher's context: a catalogue name or a path")
    teacher: Literal["live", "frozen"] = Field(
        default="frozen", description="the policy as it is now, or as it started"
    )
    k: int = Field(default=20, ge=1, description="support size; the rest of the vocabulary is one tail bin")
    support: Literal["teacher", "student"] = Field(default="teacher", description="whose top-K ids are compared")
    divergence: Literal["forward", "reverse", "jsd"] = Field(
        default="forward",
        description="forward = KL(teacher||student): keeps its gradient where the student is sure and wrong",
    )
    jsd_alpha: float = Field(default=0.5, gt=0.0, lt=1.0, description="weight of the teacher in the JSD mixture")
    tail: bool = Field(default=True, description="compare the mass outside the support too")
    weight: float = Field(default=1.0, gt=0.0, description="coefficient of the distillation channel")
    max_tokens: int | None = Field(
        default=None, ge=1, description="distil only the first N completion tokens (None: all)"
    )

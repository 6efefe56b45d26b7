"""Which method stamps the weights, with its own options; those of its two feedback channels are named here, too.

Owns: every default of the algorithms. A section that a method never reads is an error when it is set (see
`config.reads`). Must not know: torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, cast

from pydantic import Field, model_validator

from critique_rl.config.base import Strict
from critique_rl.config.distillation import DISTILLED_K as DISTILLED_K
from critique_rl.config.distillation import EMA_EVERY as EMA_EVERY
from critique_rl.config.distillation import EMA_RATE as EMA_RATE
from critique_rl.config.distillation import GAP_CLIP as GAP_CLIP
from critique_rl.config.distillation import GATED_EVERY as GATED_EVERY
from critique_rl.config.distillation import TARGET_MIX as TARGET_MIX
from critique_rl.config.distillation import DistillationConfig as DistillationConfig
from critique_rl.config.distillation import TeacherServerConfig as TeacherServerConfig
from critique_rl.config.refinement import RefinementConfig as RefinementConfig

Scale = Literal["none", "std", "loo"]
Baseline = Literal["union", "first_turn"]
Part = Literal["scores", "targets", "refinements"]
PARTS: tuple[Part, ...] = ("scores", "targets", "refinements")
"""What may be learned from a critique."""

Preset = Literal["psr", "nsr", "w_reinforce", "reinforce"]
SIGN_WEIGHTS: Mapping[Preset, tuple[float, float]] = {
    "psr": (1.0, 0.0),
    "nsr": (0.0, 1.0),
    "w_reinforce": (0.1, 1.0),
    "reinforce": (1.0, 1.0),
}
"""(positive_weight, negative_weight) of each method that arXiv 2506.01347 names."""


class GrpoConfig(Strict):
    """Group-relative policy gradient on the verifier's reward alone (Dr.GRPO form by default, arXiv 2503.20783)."""

    name: Literal["grpo"] = "grpo"
    scale: Scale = Field(
        default="none",
        description="divide centred rewards by nothing (Dr.GRPO), by the group's sample std (GRPO), or by (G - 1) / G, "
        "which makes the baseline of each reward the mean of the others (loo: RLOO)",
    )


class DrGrpoConfig(Strict):
    """GRPO without the two divisions that bias it: no std, a constant instead of the length (arXiv 2503.20783)."""

    name: Literal["dr_grpo"] = "dr_grpo"


class DapoConfig(Strict):
    """GRPO with a wider upper clip and one mean over all tokens (arXiv 2503.14476)."""

    name: Literal["dapo"] = "dapo"
    scale: Scale = Field(default="std", description="as in grpo")


class GspoConfig(Strict):
    """GRPO with one ratio and one narrow clip per sequence (arXiv 2507.18071)."""

    name: Literal["gspo"] = "gspo"
    scale: Scale = Field(default="std", description="as in grpo")


class CispoConfig(Strict):
    """REINFORCE with a capped importance weight, so that no token loses its gradient (arXiv 2506.13585)."""

    name: Literal["cispo"] = "cispo"
    scale: Scale = Field(default="std", description="as in grpo")


class RlooConfig(Strict):
    """REINFORCE against the mean reward of the group's other rollouts (arXiv 2402.14740)."""

    name: Literal["rloo"] = "rloo"


class WeightedReinforceConfig(Strict):
    """Right answers up, wrong ones down, by fixed weights and without a baseline: PSR, NSR (arXiv 2506.01347)."""

    name: Literal["weighted_reinforce"] = "weighted_reinforce"
    preset: Preset | None = Field(
        default=None,
        description="the weights by name; psr: (1, 0), right answers only; nsr: (0, 1), wrong ones only; w_reinforce: "
        "(0.1, 1); reinforce: (1, 1)",
    )
    positive_weight: float = Field(default=0.1, ge=0.0, description="advantage of a right answer; default: w_reinforce")
    negative_weight: float = Field(default=1.0, ge=0.0, description="a wrong answer's advantage is minus this")
    denominator: Literal["kept", "all"] = Field(
        default="kept",
        description="what the loss is a mean over; kept: answers with a weight above 0 (the authors' code), so that "
        "rare errors move as much as frequent ones; all: every answer that could be judged",
    )
    threshold: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        description="the least reward that counts as right, for verifiers that give partial credit; None: 1, and a "
        "reward between 0 and 1 is an error",
    )

    @model_validator(mode="before")
    @classmethod
    def _weights_of_the_preset(cls, tree: object) -> object:
        if not isinstance(tree, Mapping):
            return tree
        own = cast("Mapping[str, object]", tree)
        named = {str(name): weights for name, weights in SIGN_WEIGHTS.items()}.get(str(own.get("preset")))
        return own if named is None else {"positive_weight": named[0], "negative_weight": named[1], **own}

    @model_validator(mode="after")
    def _every_key_is_read(self) -> WeightedReinforceConfig:
        weights = (self.positive_weight, self.negative_weight)
        if self.preset is not None and SIGN_WEIGHTS[self.preset] != weights:
            raise ValueError(
                f"positive_weight = {weights[0]:g} and negative_weight = {weights[1]:g} contradict preset = "
                f"{self.preset!r}, which means {SIGN_WEIGHTS[self.preset]}; remove the preset, or the weights"
            )
        if weights == (0.0, 0.0):
            raise ValueError(
                "positive_weight and negative_weight are both 0, which learns nothing; give one of them a number above "
                "0, or name a preset"
            )
        if self.denominator == "all" and min(weights) > 0:
            raise ValueError(
                "denominator = 'all' has no effect where both weights are above 0, since no answer is left out; remove "
                "it, or set one of them to 0"
            )
        return self


class PassAtKConfig(Strict):
    """A group of k rollouts is rewarded for its best one, over all ways to draw it (arXiv 2508.10751)."""

    name: Literal["pass_at_k"] = "pass_at_k"
    k: int = Field(default=4, ge=1, description="rollouts of which one has to be right; 1: GRPO divided by the std")
    threshold: float | None = Field(
        default=None, gt=0.0, le=1.0, description="the least reward that counts as right, as in weighted_reinforce"
    )


class SftConfig(Strict):
    """The tasks' worked solutions, token by token: no rollout is sampled, nothing but the demonstrations is learned."""

    name: Literal["sft"] = "sft"


class CritiqueGrpoConfig(Strict):
    """GRPO plus verified refinements of plateaued groups, scored under the bare prompt (arXiv 2506.03106)."""

    name: Literal["critique_grpo"] = "critique_grpo"
    scale: Scale = Field(default="none", description="as in grpo")
    baseline: Baseline = Field(default="union", description="mean over rollouts and refinements, or over rollouts only")


class DirectiveDistillationConfig(Strict):
    """The directive channel alone: the policy, shown the directive, re-scores its failed attempt (arXiv 2601.20802)."""

    name: Literal["directive_distillation"] = "directive_distillation"


class SelfImitationConfig(Strict):
    """GRPO plus the shaped objective on the group's own right rollouts: what shaping is worth without any critic."""

    name: Literal["self_imitation"] = "self_imitation"
    scale: Scale = Field(default="none", description="as in grpo")
    gamma: float = Field(default=0.1, gt=0.0, lt=1.0, description="shaping constant of pi / (pi + gamma)")
    weight: float = Field(default=1.0, gt=0.0, description="coefficient of the imitation channel")


class TwoChannelConfig(Strict):
    """Both channels in one step: evaluative scalars move advantages, directives make targets and refinements."""

    name: Literal["two_channel"] = "two_channel"
    use: tuple[Part, ...] = Field(
        default=PARTS,
        description="what is learned from a critique; scores: the critic's numbers move advantages where the verifier "
        "cannot rank; targets: the teacher, shown the directive, re-scores the attempt; refinements: verified second "
        "attempts. Verified rewards are learned from in any case",
    )
    scale: Scale = Field(default="none", description="as in grpo")
    baseline: Baseline = Field(default="union", description="as in critique_grpo")
    critic_score_weight: float = Field(
        default=0.1,
        ge=0.0,
        lt=1.0,
        description="weight of the critic's mean score inside a group that the verifier cannot rank (all rewards "
        "equal); below 1, so that no critic outranks a verified success; 0 turns it off, as use without scores does",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_scores_no_weight(cls, tree: object) -> object:
        if not isinstance(tree, Mapping):
            return tree
        own = cast("Mapping[str, object]", tree)
        use = own.get("use", PARTS)
        off = isinstance(use, (list, tuple)) and "scores" not in use
        return {"critic_score_weight": 0.0, **own} if off else own

    @model_validator(mode="after")
    def _every_key_is_read(self) -> TwoChannelConfig:
        scored = "scores" in self.use
        if not self.use or (self.use == ("scores",) and self.critic_score_weight == 0):
            raise ValueError(
                f"use = {list(self.use)} with critic_score_weight = {self.critic_score_weight} learns nothing from a "
                f'critique: that is GRPO; name some of {", ".join(PARTS)}, or set algorithm.name = "grpo"'
            )
        if len(set(self.use)) < len(self.use):
            raise ValueError(
                f"use = {list(self.use)} names a part twice; wanted each of {', '.join(PARTS)} at most once"
            )
        if not scored and self.critic_score_weight > 0:
            raise ValueError(
                f"critic_score_weight = {self.critic_score_weight} has no effect with use = {list(self.use)}; remove "
                'it, or add "scores" to use'
            )
        if "refinements" not in self.use and self.baseline != "union":
            raise ValueError(
                f"baseline = {self.baseline!r} has no effect with use = {list(self.use)}, since no refinement joins a "
                'group; remove it, or add "refinements" to use'
            )
        return self


AlgorithmConfig = Annotated[
    GrpoConfig
    | DrGrpoConfig
    | DapoConfig
    | GspoConfig
    | CispoConfig
    | RlooConfig
    | WeightedReinforceConfig
    | PassAtKConfig
    | SftConfig
    | CritiqueGrpoConfig
    | SelfImitationConfig
    | DirectiveDistillationConfig
    | TwoChannelConfig,
    Field(discriminator="name"),
]


def imitation_options(algorithm: AlgorithmConfig, refinement: RefinementConfig) -> RefinementConfig:
    """What the imitation channel of a step reads: [refinement], or the keys of a method that has its own."""
    if isinstance(algorithm, SelfImitationConfig):
        return RefinementConfig(gamma=algorithm.gamma, weight=algorithm.weight)
    return refinement


LOSS_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "dr_grpo": {"objective": "clip", "normalizer": "constant"},
    "dapo": {"objective": "clip", "clip_high": 0.28, "normalizer": "tokens"},
    "gspo": {"objective": "gspo", "clip_low": 3e-4, "clip_high": 4e-4, "normalizer": "sequences"},
    "cispo": {"objective": "cispo", "clip_high": 4.0, "normalizer": "tokens"},
    "rloo": {"objective": "reinforce", "normalizer": "constant"},
    "weighted_reinforce": {"objective": "clip", "normalizer": "tokens"},
    "sft": {"objective": "reinforce", "normalizer": "tokens"},
}
"""What each named method sets in [loss]; a key that the run file sets wins over it."""

"""The `[objectives]` section: how several rewards become one advantage, and which methods that is for.

Owns: its defaults, and which of its keys have an effect where. Must not know: torch, what an objective is measured by.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Literal

from pydantic import Field, model_validator

from critique_rl.config.algorithm import AlgorithmConfig, CritiqueGrpoConfig, TwoChannelConfig
from critique_rl.config.base import Strict
from critique_rl.config.distillation import DistillationConfig
from critique_rl.config.objective_sources import ObjectiveConfig
from critique_rl.config.refinement import RefinementConfig

Combine = Literal[
    "sum",
    "sum_unscaled",
    "advantage_sum",
    "mo_grpo",
    "gdpo",
    "dvao",
    "sa_mrpo",
    "pcgrad",
    "mgda",
    "mgda_normalized",
]
GradientMethod = Literal["pcgrad", "mgda", "mgda_normalized"]
"""These join the gradients of the objectives, one backward pass each, and not their advantages."""

DDOF, EPS, BATCH_NORM, GAMMA, POWER = 1, 1e-6, "rollouts", 1.0, 1.0
"""Where nothing else is said."""

_BATCH: tuple[Combine, ...] = ("gdpo", "sa_mrpo")
_READERS: Mapping[str, tuple[Combine, ...]] = {"batch_norm": _BATCH, "gamma": ("sa_mrpo",), "power": ("dvao",)}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,40}")


class ObjectivesConfig(Strict):
    """Several objectives as one advantage a rollout; what refinements and targets weigh is left as it is."""

    combine: Combine = Field(
        description="sum: GRPO on the weighted sum of rewards, the largest spread leads; sum_unscaled: that without "
        "dividing by the group's std, what RLCR uses; advantage_sum: weighted sum of advantages, each with std 1; "
        "mo_grpo: that without weights; gdpo: advantage_sum normalised over the batch, for rewards of different "
        "scales; dvao: sum times how far the objectives agree in the group, for rewards in [0, 1]; sa_mrpo: gdpo with "
        "less weight for what is nearly reached; pcgrad, mgda, mgda_normalized: the objectives' gradients are joined, "
        "at one backward pass and one gradient in memory for each",
    )
    missing: Literal["exclude", "zero"] = Field(
        default="exclude", description="a rollout without a value: left out of that objective, or given the value 0"
    )
    ddof: Literal[0, 1] | None = Field(
        default=None, description=f"standard deviation of a sample (1) or a population (0) (None: {DDOF})"
    )
    eps: float | None = Field(
        default=None, ge=0.0, description=f"added to every standard deviation that is divided by (None: {EPS:g})"
    )
    batch_norm: Literal["rollouts", "tokens", "none"] | None = Field(
        default=None,
        description="gdpo and sa_mrpo: what the batch's mean and std count; tokens is what verl does, where long "
        f"rollouts count more and advantages no longer have mean 0 (None: {BATCH_NORM})",
    )
    gamma: float | None = Field(
        default=None, ge=0.0, description=f"sa_mrpo: weights times (1 - mean reward)^gamma (None: {GAMMA:g})"
    )
    power: float | None = Field(
        default=None,
        ge=0.0,
        description=f"dvao: weights times std^power; 1 is the paper's, 0 is advantage_sum (None: {POWER:g})",
    )
    without_verifier: bool = Field(default=False, description="none of the objectives has to be the verifier's reward")
    of: dict[str, ObjectiveConfig] = Field(description="the objectives by name, at least two")

    @property
    def gradient_method(self) -> GradientMethod | None:
        """How the policy joins gradients; None where advantages are combined."""
        return self.combine if self.combine in ("pcgrad", "mgda", "mgda_normalized") else None

    @property
    def reads_critic(self) -> bool:
        """Whether the critic's scores are an objective."""
        return any(objective.source == "critic" for objective in self.of.values())

    @model_validator(mode="after")
    def _every_key_is_read(self) -> ObjectivesConfig:
        for key, readers in _READERS.items():
            if getattr(self, key) is not None and self.combine not in readers:
                raise ValueError(
                    f"{key} = {getattr(self, key)!r} has no effect with combine = {self.combine!r}; remove it, or set "
                    f"combine to {' or '.join(map(repr, readers))}"
                )
        for key in ("ddof", "eps"):
            if self.combine == "sum_unscaled" and getattr(self, key) is not None:
                raise ValueError(
                    f"{key} = {getattr(self, key)!r} has no effect with combine = 'sum_unscaled', which divides by no "
                    "standard deviation; remove it, or set another combine"
                )
        return self

    @model_validator(mode="after")
    def _has_objectives(self) -> ObjectivesConfig:
        if len(self.of) < 2:
            raise ValueError(f"of has {len(self.of)} objectives; wanted at least two, or no [objectives] at all")
        for name in self.of:
            if not _NAME.fullmatch(name):
                raise ValueError(f"of: {name!r} cannot name a figure and a key; use letters, digits, '_' and '-'")
        judged = any(o.source == "verifier" and o.weight > 0 for o in self.of.values())
        if not judged and not self.without_verifier:
            raise ValueError(
                'no objective of weight above 0 has source = "verifier", so nothing would say what is right; add one, '
                "or set without_verifier = true"
            )
        if judged and self.without_verifier:
            raise ValueError('without_verifier = true has no effect beside source = "verifier"; remove it')
        self._check_weights()
        for name, objective in self.of.items():
            self._check_condition(name, objective)
        return self

    def _check_weights(self) -> None:
        weights = {name: objective.weight for name, objective in self.of.items()}
        if not any(weights.values()):
            raise ValueError("every objective has weight 0, so nothing would be learned; give one of them more")
        odd = [name for name, weight in weights.items() if weight != 1.0]
        if odd and self.combine in ("mo_grpo", "mgda", "mgda_normalized"):
            raise ValueError(
                f"of.{odd[0]}.weight = {weights[odd[0]]:g} cannot be with combine = {self.combine!r}, which weighs by "
                "itself; remove it, or set another combine"
            )

    def _check_condition(self, name: str, objective: ObjectiveConfig) -> None:
        other = objective.only_if
        if other is None:
            if objective.threshold is not None:
                raise ValueError(f"of.{name}.threshold has no effect without only_if; remove it, or name an objective")
            return
        if other == name or other not in self.of:
            known = ", ".join(sorted(self.of.keys() - {name}))
            raise ValueError(f"of.{name}.only_if = {other!r} names no other objective; known are {known}")
        if self.of[other].only_if is not None:
            raise ValueError(
                f"of.{name}.only_if = {other!r} has a condition of its own; name that one, {self.of[other].only_if!r}"
            )
        if objective.source == "confidence":
            raise ValueError(
                f"of.{name}.only_if: a confidence that is scored for some answers alone is best stated as if all were "
                "of these; remove only_if"
            )

    @model_validator(mode="after")
    def _methods_get_what_they_rest_on(self) -> ObjectivesConfig:
        for name, objective in self.of.items():
            if objective.tokens != "all" and self.batch_norm == "tokens":
                raise ValueError(
                    f'of.{name}.tokens = {objective.tokens!r} cannot be with batch_norm = "tokens", whose shift '
                    "belongs to no objective; set another batch_norm"
                )
            if self.combine == "sa_mrpo" and objective.source == "python" and objective.low is None:
                raise ValueError(f"of.{name}: combine = 'sa_mrpo' needs to know its low and high; set both")
        self._check_incentive()
        return self

    def _check_incentive(self) -> None:
        """Where the ratio of weights is that of the pushes, an unsafe one is refused; elsewhere it is watched."""
        if self.combine not in ("sum", "sum_unscaled", "dvao") or self.power not in (None, 1.0):
            return
        judge = "reward" if self.without_verifier else "verifier"
        right = sum(o.weight for o in self.of.values() if o.source == judge and o.tokens != "confidence")
        scored = sum(o.weight for o in self.of.values() if o.source == "confidence" and o.tokens != "confidence")
        if scored > right:
            raise ValueError(
                f'the objectives with source = "confidence" weigh {scored:g}, those with "{judge}" {right:g}: then a '
                "deliberately wrong answer with confidence 0 pays more than an honest attempt at a hard task; give the "
                f'{judge} at least as much, or set tokens = "confidence"'
            )


READERS: frozenset[str] = frozenset(
    {"grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "critique_grpo", "two_channel"}
)
"""The methods whose advantages [objectives] may replace: those that make them from a group's rewards, and use them for
nothing else."""


def check_method(
    objectives: ObjectivesConfig,
    algorithm: AlgorithmConfig,
    refinement: RefinementConfig,
    distillation: DistillationConfig,
) -> None:
    """Raises ValueError for a method that combined advantages are not for, or that would have a key without effect."""
    if algorithm.name not in READERS:
        raise ValueError(
            f"[objectives] has no place under algorithm.name = {algorithm.name!r}, which makes no advantages from "
            f"groups, or uses them otherwise; remove it, or choose one of {', '.join(sorted(READERS))}"
        )
    refines = isinstance(algorithm, CritiqueGrpoConfig) or (
        isinstance(algorithm, TwoChannelConfig) and "refinements" in algorithm.use
    )
    scale = type(algorithm).model_fields.get("scale")
    if scale is not None and not refines and getattr(algorithm, "scale", None) != scale.default:
        raise ValueError(
            f"algorithm.scale = {getattr(algorithm, 'scale', None)!r} has no effect with [objectives], whose combine "
            "says what is divided by; remove it"
        )
    if isinstance(algorithm, TwoChannelConfig) and "scores" in algorithm.use:
        if not objectives.reads_critic:
            raise ValueError(
                f"algorithm.use = {list(algorithm.use)} names scores, but with [objectives] the critic's scores are "
                'an objective or nothing; add one with source = "critic", or remove "scores" from use'
            )
        weight = TwoChannelConfig.model_fields["critic_score_weight"].default
        if not refines and algorithm.critic_score_weight != weight:
            raise ValueError(
                f"algorithm.critic_score_weight = {algorithm.critic_score_weight:g} has no effect with [objectives], "
                "where the weight of the objective counts; remove it"
            )
    if objectives.gradient_method is None:
        return
    asked = f"objectives.combine = {objectives.combine!r} cannot be with"
    if distillation.join in ("advantages", "signed", "routed"):
        raise ValueError(
            f"{asked} distillation.join = {distillation.join!r}, which changes advantages that are no longer read; "
            'choose join = "losses", or another combine'
        )
    if refines and refinement.train_refiner > 0:
        raise ValueError(
            f"{asked} refinement.train_refiner = {refinement.train_refiner:g}, whose rows have no objectives; remove "
            "one of the two"
        )

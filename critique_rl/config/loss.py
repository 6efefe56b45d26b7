"""The `[loss]` section: what the policy-gradient channel's term is, and what a named method sets in it.

Owns: its defaults, and the rule that a key without effect is an error. Must not know: torch, how a term is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

from pydantic import Field, model_validator

from critique_rl.config.algorithm import LOSS_DEFAULTS
from critique_rl.config.base import Strict

CLIPS = {"clip_low": ("clip", "gspo"), "clip_high": ("clip", "gspo", "cispo"), "dual_clip": ("clip",)}
"""Which objectives read which clip."""


class LossConfig(Strict):
    """The policy-gradient channel: objective, clips, normaliser, and what is added to it token by token."""

    objective: Literal["clip", "cispo", "gspo", "reinforce"] = Field(
        default="clip",
        description="clip: PPO's ratio per token; gspo: one ratio per sequence; cispo: capped ratio as a constant "
        "weight; reinforce: no ratio, or one capped at tis_cap",
    )
    clip_low: float = Field(default=0.2, gt=0.0, lt=1.0, description="ratios below 1 - clip_low are clipped")
    clip_high: float = Field(
        default=0.2, gt=0.0, description="ratios above 1 + clip_high are clipped; 0.28 is DAPO's clip-higher"
    )
    dual_clip: float | None = Field(default=None, gt=1.0, description="lower bound multiple for negative advantages")
    tis_cap: float | None = Field(
        default=None,
        gt=0.0,
        description="with reinforce: weigh each token by its ratio to the sampler's probability, at most this (2 is "
        "usual); None: no weight",
    )
    normalizer: Literal["constant", "tokens", "sequences"] = Field(
        default="constant",
        description="constant: rollouts x max_tokens (Dr.GRPO); tokens: active tokens (DAPO); sequences: mean over a "
        "rollout's tokens, then over rollouts (GRPO)",
    )
    kl_weight: float = Field(default=0.0, ge=0.0, description="weight of the KL penalty to the starting policy")
    kl_kind: Literal["k1", "k2", "k3"] = Field(
        default="k1",
        description="estimator of the penalty: k1 and k2 pull by the gradient of KL(policy||start), k3 (GRPO's) by "
        "that of KL(start||policy)",
    )
    entropy_weight: float = Field(
        default=0.0, ge=0.0, description="weight of the entropy bonus (nats per token); with a target, its start value"
    )
    entropy_target: float | None = Field(
        default=None,
        gt=0.0,
        description="raise the weight by 0.005 a step while the rollouts' entropy is below this, lower it while above, "
        "and add the bonus only below (None: the weight is fixed)",
    )

    @model_validator(mode="after")
    def _every_key_is_read(self) -> LossConfig:
        for key, readers in CLIPS.items():
            value = getattr(self, key)
            if self.objective not in readers and value != type(self).model_fields[key].default:
                raise ValueError(
                    f"{key} = {value} has no effect with objective = {self.objective!r}; remove it, or set objective "
                    f"to {' or '.join(repr(reader) for reader in readers)}"
                )
        if self.tis_cap is not None and self.objective != "reinforce":
            raise ValueError(
                f"tis_cap = {self.tis_cap} would correct twice for the sampler: the ratio of objective = "
                f"{self.objective!r} is already taken against its log-probs; remove it, or set objective = 'reinforce'"
            )
        if self.kl_weight == 0 and self.kl_kind != "k1":
            raise ValueError(f"kl_kind = {self.kl_kind!r} has no effect with kl_weight = 0; remove it, or set a weight")
        return self


def with_loss_defaults(tree: Mapping[str, object]) -> dict[str, object]:
    """A run's tree with the [loss] of its method filled in where the tree itself says nothing.

    A method's clips belong to its objective: under another one that the tree sets, they are left out.
    """
    algorithm, loss = tree.get("algorithm"), tree.get("loss", {})
    name = cast("Mapping[str, object]", algorithm).get("name") if isinstance(algorithm, Mapping) else algorithm
    defaults = LOSS_DEFAULTS.get(str(getattr(name, "name", name)), {})
    if isinstance(loss, LossConfig):
        loss = loss.model_dump(include=loss.model_fields_set)
    if not defaults or not isinstance(loss, Mapping):
        return dict(tree)
    own = cast("Mapping[str, object]", loss)
    if own.get("objective", defaults["objective"]) != defaults["objective"]:
        defaults = {key: value for key, value in defaults.items() if key not in CLIPS}
    return {**tree, "loss": {**defaults, **own}}

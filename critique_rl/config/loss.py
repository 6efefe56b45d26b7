"""The `[loss]` section: what the policy-gradient channel's term is, and what a named method sets in it.

Owns: its defaults, and the rule that a key without effect is an error. Must not know: torch, how a term is computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

from pydantic import Field, model_validator

from critique_rl.config.algorithm import LOSS_DEFAULTS
from critique_rl.config.base import Strict
from critique_rl.config.policy import OptimizerConfig

CLIPS = {"clip_low": ("clip", "gspo"), "clip_high": ("clip", "gspo", "cispo"), "dual_clip": ("clip",)}
"""Which objectives read which clip."""

CLIP_COV_BAND = (1.0, 5.0)


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
        "and add the bonus only below; a step's own rollouts move the weight that it uses (None: the weight is fixed)",
    )
    top_entropy_share: float = Field(
        default=1.0,
        gt=0.0,
        le=1.0,
        description="learn only from this share of a batch's tokens, those with the highest entropy, and take the mean "
        "over them; 0.2 is the 80/20 rule (arXiv 2506.01939), 1: all tokens. Costs one more forward pass",
    )
    clip_cov_share: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="Clip-Cov (arXiv 2505.22617): drop the loss of this share of a batch's tokens, drawn among those "
        "whose product of log-prob and advantage lies in clip_cov_band; a fraction, 2e-4 in the paper; 0: off. Costs "
        "one more forward pass",
    )
    clip_cov_band: tuple[float, float] = Field(
        default=CLIP_COV_BAND, description="lower and upper end of the products that clip_cov_share draws from"
    )
    kl_cov_share: float = Field(
        default=0.0,
        ge=0.0,
        le=1.0,
        description="KL-Cov (arXiv 2505.22617): no clip, but the share of a batch's tokens with the largest product of "
        "log-prob and advantage is held to the policy that sampled it; a FRACTION, 2e-3 (7B) and 2e-4 (32B) in the "
        "paper, whose own k_percent is a percentage; 0: off. Costs one more forward pass, and needs several updates on "
        "a batch",
    )
    kl_cov_weight: float = Field(default=1.0, gt=0.0, description="what KL-Cov weighs |log pi - log pi_sampler| by")

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
        _check_token_options(self)
        return self

    @property
    def surveys(self) -> bool:
        """Whether tokens are chosen over the whole batch before it is learned from."""
        return self.clip_cov_share > 0 or self.kl_cov_share > 0 or self.top_entropy_share < 1


def _check_token_options(loss: LossConfig) -> None:
    for share, needs in (("clip_cov_share", "drops the loss of what"), ("kl_cov_share", "holds what is left of")):
        value = getattr(loss, share)
        if value > 0 and loss.objective != "clip":
            raise ValueError(
                f"{share} = {value} came with objective = {loss.objective!r}, but it {needs} PPO's ratio per token; "
                f"set objective = 'clip', or remove {share}"
            )
    if loss.clip_cov_share == 0 and loss.clip_cov_band != CLIP_COV_BAND:
        raise ValueError(
            f"clip_cov_band = {loss.clip_cov_band} has no effect with clip_cov_share = 0; remove it, or set a share"
        )
    if not loss.clip_cov_band[0] < loss.clip_cov_band[1]:
        raise ValueError(f"clip_cov_band = {loss.clip_cov_band} is empty; wanted its lower end first, such as [1, 5]")
    if loss.kl_cov_share == 0 and loss.kl_cov_weight != 1.0:
        raise ValueError(
            f"kl_cov_weight = {loss.kl_cov_weight} has no effect with kl_cov_share = 0; remove it, or set a share"
        )
    if loss.kl_cov_share > 0:
        clipped = [key for key in CLIPS if getattr(loss, key) != LossConfig.model_fields[key].default]
        if clipped or loss.clip_cov_share > 0:
            named = ", ".join([*clipped, *(["clip_cov_share"] if loss.clip_cov_share > 0 else [])])
            raise ValueError(
                f"{named} came with kl_cov_share = {loss.kl_cov_share}, which takes the place of every clip; remove "
                "one of them"
            )
    if loss.top_entropy_share < 1 and loss.normalizer == "constant":
        raise ValueError(
            f"top_entropy_share = {loss.top_entropy_share} came with normalizer = 'constant', which would shrink the "
            "loss to that share instead of taking the mean over the tokens that are left; set normalizer = 'tokens' or "
            "'sequences'"
        )


def check_batch_options(loss: LossConfig, optimizer: OptimizerConfig, *, recalled: bool, joins_gradients: bool) -> None:
    """Raises ValueError for token options that the rest of the run leaves without effect.

    `recalled`: the samples come from an older policy; `joins_gradients`: each objective has a gradient of its own.
    """
    if loss.kl_cov_share > 0 and not (optimizer.several or recalled):
        raise ValueError(
            f"loss.kl_cov_share = {loss.kl_cov_share} has no effect with one update per batch, since the policy is "
            "then still the one that sampled; set optimizer.updates_per_step to 2 or more (the paper takes 8), or "
            "optimizer.epochs"
        )
    for share in ("clip_cov_share", "kl_cov_share"):
        if getattr(loss, share) > 0 and joins_gradients:
            raise ValueError(
                f"loss.{share} = {getattr(loss, share)} needs one advantage per token, but objectives.combine joins "
                "one gradient for each objective; remove it, or combine advantages"
            )


def with_loss_defaults(tree: Mapping[str, object]) -> dict[str, object]:
    """A run's tree with the [loss] of its method filled in where the tree itself says nothing.

    A method's clips belong to its objective: under another one that the tree sets, or KL-Cov, they are left out.
    """
    algorithm, loss = tree.get("algorithm"), tree.get("loss", {})
    name = cast("Mapping[str, object]", algorithm).get("name") if isinstance(algorithm, Mapping) else algorithm
    defaults = LOSS_DEFAULTS.get(str(getattr(name, "name", name)), {})
    if isinstance(loss, LossConfig):
        loss = loss.model_dump(include=loss.model_fields_set)
    if not defaults or not isinstance(loss, Mapping):
        return dict(tree)
    own = cast("Mapping[str, object]", loss)
    if own.get("objective", defaults["objective"]) != defaults["objective"] or own.get("kl_cov_share"):
        defaults = {key: value for key, value in defaults.items() if key not in CLIPS}
    return {**tree, "loss": {**defaults, **own}}

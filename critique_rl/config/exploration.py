"""The `[exploration]` section: when a policy has stopped exploring, and what is then turned, in which order.

Owns: every default of `schedule/exploration.py`, and which action could do nothing in a run. Must not know: how signs
are read, the loop. Thresholds without a source are ours, no published evidence.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from pydantic import Field, model_validator

from critique_rl.config.base import Strict

if TYPE_CHECKING:
    from critique_rl.config.run import RunConfig

Action = Literal[
    "raise_clip_high", "kl_cov", "entropy_bonus", "lower_learning_rate", "raise_temperature", "rollback", "stop"
]
BY_DEFAULT: tuple[Action, ...] = ("raise_clip_high", "entropy_bonus", "lower_learning_rate", "raise_temperature")
"""What is done where no order is given, of these what can have an effect in the run."""

KEYS: dict[Action, tuple[str, ...]] = {
    "raise_clip_high": ("clip_high_rise", "max_clip_high"),
    "kl_cov": ("kl_cov_share",),
    "entropy_bonus": ("entropy_target", "entropy_delta", "max_entropy_weight"),
    "lower_learning_rate": ("learning_rate_factor", "min_learning_rate"),
    "raise_temperature": ("temperature_rise", "max_temperature_rise"),
    "rollback": ("max_rollbacks",),
}
"""Which keys say how far an action goes."""


class ExplorationConfig(Strict):
    """A guard with memory: healthy, collapsing, exploding or flat. It never acts on token entropy alone."""

    mode: Literal["act", "warn"] = Field(default="act", description="warn: only say what state the run is in, and why")
    actions: tuple[Action, ...] | None = Field(
        default=None,
        description="what is done, one at a time and in this order, and round again with those that can go further; "
        "None: raise_clip_high, entropy_bonus, lower_learning_rate and raise_temperature, of these what can have an "
        "effect in the run",
    )
    reference_steps: int = Field(default=10, ge=4, description="first steps, whose means are what is healthy")
    min_entropy: float = Field(
        default=0.2,
        gt=0.0,
        lt=1.0,
        description="collapsing: token entropy below this share of its reference and still falling; acted on only if "
        "success or strategy entropy falls too",
    )
    max_entropy: float = Field(
        default=2.0,
        gt=1.0,
        description="exploding: token entropy above this multiple of its reference; acted on only if success falls, "
        "gradients grow or more answers are cut off",
    )
    max_entropy_nats: float = Field(
        default=1.5, gt=0.0, description="exploding, too: above this many nats a token and rising for 20 steps"
    )
    min_strategy_entropy: float = Field(
        default=0.5,
        gt=0.0,
        lt=1.0,
        description="collapsing: the entropy of strategies ([monitors]) below this share of its reference",
    )
    flat_zero_variance: float = Field(
        default=0.8,
        gt=0.0,
        le=1.0,
        description="flat: at least this share of groups with equal rewards, while success stands still below 0.95",
    )
    sustain_steps: int = Field(default=3, ge=1, description="steps in a row that make a state")
    wait_steps: int = Field(
        default=20,
        ge=20,
        description="steps from one action to the next, and without a sign before the run counts as healthy again",
    )
    undo_steps: int = Field(
        default=100, ge=20, description="healthy steps after which the latest action is taken back, then the next one"
    )
    clip_high_rise: float = Field(default=0.02, gt=0.0, description="raise_clip_high: what loss.clip_high rises by")
    max_clip_high: float = Field(default=0.32, gt=0.0, description="raise_clip_high: how far in all")
    kl_cov_share: float = Field(
        default=0.002, gt=0.0, le=1.0, description="kl_cov: loss.kl_cov_share while it is on, which replaces the clip"
    )
    entropy_target: float | None = Field(
        default=None,
        gt=0.0,
        description="entropy_bonus: the weight rises a step while token entropy is below this many nats, falls above "
        "it, and counts only below (None: half the reference)",
    )
    entropy_delta: float = Field(default=0.005, gt=0.0, description="entropy_bonus: by how much")
    max_entropy_weight: float = Field(
        default=0.05,
        gt=0.0,
        description="entropy_bonus: its largest weight; a fixed 0.01 made entropy explode in arXiv 2505.22617",
    )
    learning_rate_factor: float = Field(default=0.5, gt=0.0, lt=1.0, description="lower_learning_rate: by this factor")
    min_learning_rate: float = Field(
        default=0.125, gt=0.0, lt=1.0, description="lower_learning_rate: to no less than this share of the run's"
    )
    temperature_rise: float = Field(default=0.05, gt=0.0, description="raise_temperature: what rollouts' rises by")
    max_temperature_rise: float = Field(default=0.2, gt=0.0, description="raise_temperature: how far in all")
    max_rollbacks: int = Field(
        default=2, ge=1, description="rollback: times that weights and optimizer go back to the last healthy checkpoint"
    )

    @model_validator(mode="after")
    def _every_key_is_read(self) -> ExplorationConfig:
        if self.mode == "warn" and self.actions is not None:
            raise ValueError("actions has no effect with mode = 'warn'; remove it, or set mode = 'act'")
        if self.actions is not None and (not self.actions or len(set(self.actions)) < len(self.actions)):
            raise ValueError(
                f"actions = {list(self.actions)}; wanted each of {', '.join(get_args(Action))} at most once and at "
                "least one of them, or mode = 'warn'"
            )
        listed = () if self.mode == "warn" else BY_DEFAULT if self.actions is None else self.actions
        for action, keys in KEYS.items():
            for key in keys:
                value = getattr(self, key)
                if action not in listed and value != type(self).model_fields[key].default:
                    raise ValueError(
                        f"{key} = {value} has no effect without the action {action!r}; remove it, or add {action!r} to "
                        "actions"
                    )
        return self


def usable_actions(run: RunConfig) -> tuple[Action, ...]:
    """The actions of a run with [exploration], in their order; none where it only warns."""
    assert run.exploration is not None
    if run.exploration.mode == "warn":
        return ()
    if run.exploration.actions is not None:
        return run.exploration.actions
    return tuple(action for action in BY_DEFAULT if not idle_because(action, run))


def idle_because(action: Action, run: RunConfig) -> str:
    """Why an action could do nothing in this run, and the way out; "" where it could."""
    loss, options = run.loss, run.exploration
    assert options is not None
    several = run.optimizer.several
    updates = "with one update per batch the policy is still the one that sampled; set optimizer.updates_per_step"
    joins = run.objectives is not None and run.objectives.gradient_method is not None
    clips = loss.objective == "clip" and loss.kl_cov_share == 0
    reasons: dict[Action, str] = {
        "raise_clip_high": "no clip per token is in use; set loss.objective = 'clip' without kl_cov_share"
        if not clips
        else updates
        if not several
        else f"loss.clip_high = {loss.clip_high:g} is not below max_clip_high = {options.max_clip_high:g}; raise that"
        if loss.clip_high >= options.max_clip_high
        else "",
        "kl_cov": updates
        if not several
        else "it holds PPO's ratio per token; set loss.objective = 'clip'"
        if loss.objective != "clip"
        else "it is on already, or Clip-Cov is; remove loss.kl_cov_share or clip_cov_share"
        if loss.kl_cov_share > 0 or loss.clip_cov_share > 0
        else "objectives.combine joins a gradient for each objective; combine advantages"
        if joins
        else "",
        "entropy_bonus": "loss has a bonus of its own; remove loss.entropy_weight and entropy_target"
        if loss.entropy_target is not None or loss.entropy_weight > 0
        else "",
        "raise_temperature": "a server scores at a temperature that cannot be moved; set engine.kind = 'hf' and a "
        "teacher that is not served"
        if run.engine.kind == "vllm" or run.distillation.teacher == "served"
        else "",
        "rollback": "" if run.checkpoint.every else "no checkpoints are kept on the way; set checkpoint.every",
    }
    return reasons.get(action, "")


def check_exploration(run: RunConfig) -> None:
    """Raises ValueError for an [exploration] that nothing could follow from."""
    options = run.exploration
    if options is None:
        return
    if run.feedback is not None:
        raise ValueError(
            "[exploration] has no effect with [feedback]: recalled rollouts say nothing of the policy as it is now; "
            "remove one of the two sections"
        )
    for action in options.actions or ():
        why = idle_because(action, run)
        if why:
            raise ValueError(f"exploration.actions: {action!r} could do nothing here: {why}, or remove the action")
    usable = usable_actions(run)
    for action in BY_DEFAULT if options.actions is None and options.mode == "act" else ():
        changed = [key for key in KEYS[action] if getattr(options, key) != type(options).model_fields[key].default]
        if changed and action not in usable:
            raise ValueError(
                f"exploration.{changed[0]} has no effect, since {action!r} could do nothing here: "
                f"{idle_because(action, run)}, or remove the key"
            )
    if options.mode == "act" and not usable:
        raise ValueError("[exploration]: no action could have an effect in this run; set mode = 'warn'")

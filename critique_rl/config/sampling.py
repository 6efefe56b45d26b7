"""Which of the sampled prompts are trained on, and how their rewards are turned before anybody learns from them.

Owns: every default of [sampling], and where one of its keys could do nothing. Must not know: how prompts are drawn,
what an advantage is.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from critique_rl.config.algorithm import AlgorithmConfig, PassAtKConfig, TwoChannelConfig
from critique_rl.config.base import Strict

ADVANTAGES_FROM_REWARDS = ("grpo", "dr_grpo", "dapo", "gspo", "cispo", "rloo", "critique_grpo", "two_channel")
"""Methods whose advantages are a group's rewards less a baseline: what may be told other rewards."""

CONTRAST = (*ADVANTAGES_FROM_REWARDS, "pass_at_k", "self_imitation")
"""Methods that learn nothing from the rewards of a group in which all are equal."""


class SamplingConfig(Strict):
    """Prompts that nothing can be learned from are replaced or asked again later; rewards are shaped (DAPO,
    arXiv 2503.14476, and others). Each part is off until its own key turns it on."""

    dynamic: bool = Field(
        default=False,
        description="drop groups whose rewards do not differ and that no critic is asked about, and sample further "
        "prompts in their place, until prompts_per_step groups are kept",
    )
    min_std: float = Field(
        default=0.0,
        ge=0.0,
        description="a group's rewards differ if their population standard deviation is above this",
    )
    std_over: Literal["all", "valid"] = Field(
        default="all",
        description="all: every rollout that could be judged; valid: only those from which an answer could be read, so "
        "that one format error among equal rewards is no contrast",
    )
    max_rounds: int = Field(
        default=10, ge=1, description="most rounds of sampling in one step; 1 drops groups and puts none in their place"
    )
    when_short: Literal["train", "error"] = Field(
        default="train",
        description="after the last round with too few groups; train: on what there is; error: stop, as DAPO's code "
        "does",
    )
    recycle: bool = Field(
        default=False,
        description="prompts whose rewards did not differ wait in a pool, and return to later batches (arXiv "
        "2606.10709)",
    )
    recycle_from: Literal["all", "unsolved"] = Field(
        default="all", description="all: such prompts of either sign; unsolved: only those without a right rollout"
    )
    recycle_capacity: int = Field(default=512, ge=1, description="prompts that wait; the oldest leaves")
    recycle_share: float = Field(
        default=0.25, gt=0.0, le=1.0, description="up to this share of a step's first prompts comes from the pool"
    )
    recycle_wait_steps: int = Field(default=1, ge=1, description="steps before a prompt is asked again")
    recycle_max_age_steps: int = Field(
        default=200, ge=1, description="steps after which a prompt leaves the pool without ever having differed"
    )
    unlikeliness: float = Field(
        default=0.0,
        ge=0.0,
        lt=1.0,
        description="the likeliest right rollout of a group loses this share of its reward, the least likely one of G "
        "a G-th of it (arXiv 2506.02355, which has 0.25); 0: off",
    )
    overlong_buffer: int = Field(
        default=0,
        ge=0,
        description="tokens before rollout.max_tokens in which the reward falls by up to 1 (DAPO's soft penalty); 0: "
        "off",
    )
    overlong_filter: bool = Field(
        default=False, description="truncated rollouts stay in the baseline, and are not learned from"
    )
    drop_void_turns: bool = Field(
        default=False,
        description="episodes with a turn that neither calls a tool nor answers stay in the baseline, and are not "
        "learned from (SimpleTIR, arXiv 2509.02479)",
    )

    @property
    def shapes_rewards(self) -> bool:
        return self.unlikeliness > 0 or self.overlong_buffer > 0

    @property
    def sorts_groups(self) -> bool:
        return self.dynamic or self.recycle

    @model_validator(mode="after")
    def _every_key_is_read(self) -> SamplingConfig:
        if not (self.sorts_groups or self.shapes_rewards or self.overlong_filter or self.drop_void_turns):
            raise ValueError(
                "[sampling] turns nothing on; remove it, or set one of dynamic, recycle, unlikeliness, "
                "overlong_buffer, overlong_filter, drop_void_turns"
            )
        readers = {
            "dynamic": ("max_rounds", "when_short"),
            "recycle": tuple(name for name in type(self).model_fields if name.startswith("recycle_")),
            "sorts_groups": ("min_std", "std_over"),
        }
        for switch, names in readers.items():
            for name in names if not getattr(self, switch) else ():
                if getattr(self, name) != type(self).model_fields[name].default:
                    wanted = "dynamic or recycle" if switch == "sorts_groups" else switch
                    raise ValueError(
                        f"{name} = {getattr(self, name)!r} has no effect without {wanted} = true; remove it, or set "
                        "that"
                    )
        return self


def check_pass_at_k(algorithm: AlgorithmConfig, *, group_size: int) -> None:
    """Raises ValueError for a k that no group of the run can have."""
    if isinstance(algorithm, PassAtKConfig) and algorithm.k > group_size:
        raise ValueError(
            f"algorithm.k = {algorithm.k} came with rollout.group_size = {group_size}; a group has to hold at least k "
            "rollouts: raise group_size, or lower k"
        )


def check_sampling(
    options: SamplingConfig,
    algorithm: AlgorithmConfig,
    *,
    group_size: int,
    max_tokens: int,
    recalls: bool,
    has_objectives: bool,
    multi_turn: bool,
    unsolved_schedule: bool,
    revisit_share: float,
) -> None:
    """Raises ValueError for a key of [sampling] that does not fit the rest of a run, or would do nothing in it."""
    if algorithm.name == "sft":
        raise ValueError(
            '[sampling] has no effect under algorithm.name = "sft", which samples nothing; remove the section'
        )
    _check_groups(options, algorithm, group_size=group_size, recalls=recalls, has_objectives=has_objectives)
    _check_rewards(options, algorithm, max_tokens=max_tokens, recalls=recalls, has_objectives=has_objectives)
    if options.dynamic and unsolved_schedule:
        raise ValueError(
            'sampling.dynamic cannot be with schedule = "unsolved", which watches the share of prompts that fail: '
            "prompts that succeed are dropped before it sees them; choose another schedule"
        )
    if options.recycle and options.recycle_share + revisit_share > 1:
        raise ValueError(
            f"sampling.recycle_share = {options.recycle_share:g} and replay.revisit_share = {revisit_share:g} are more "
            "than a whole step; lower one of them"
        )
    if options.drop_void_turns and (recalls or not multi_turn):
        raise ValueError(
            "sampling.drop_void_turns has no effect where rollouts have no turns (single-turn tasks, and recalled "
            "rollouts); remove it, or choose a multi-turn tasks.kind"
        )


def _check_groups(
    options: SamplingConfig, algorithm: AlgorithmConfig, *, group_size: int, recalls: bool, has_objectives: bool
) -> None:
    if not options.sorts_groups:
        return
    key = "sampling.dynamic" if options.dynamic else "sampling.recycle"
    if algorithm.name not in CONTRAST:
        raise ValueError(
            f"{key} has no place under algorithm.name = {algorithm.name!r}, which also learns from groups whose "
            f"rewards are all equal, or from no rewards; remove it, or choose one of {', '.join(CONTRAST)}"
        )
    if group_size == 1:
        raise ValueError(f"{key} came with rollout.group_size = 1, where no rewards differ; raise group_size")
    if recalls:
        raise ValueError(f"{key} has no effect with [feedback], which samples no rollouts; remove one of the two")
    if has_objectives:
        raise ValueError(
            f"{key} looks at verified rewards alone, and with [objectives] a group without contrast in them may have "
            "some in another objective; remove one of the two"
        )


def _check_rewards(
    options: SamplingConfig, algorithm: AlgorithmConfig, *, max_tokens: int, recalls: bool, has_objectives: bool
) -> None:
    if not options.shapes_rewards:
        return
    key = "sampling.unlikeliness" if options.unlikeliness else "sampling.overlong_buffer"
    if algorithm.name not in ADVANTAGES_FROM_REWARDS or has_objectives:
        asked = "[objectives]" if has_objectives else f"algorithm.name = {algorithm.name!r}"
        raise ValueError(
            f"{key} cannot be with {asked}, which reads rewards as they were verified; remove it, or take one of "
            f"{', '.join(ADVANTAGES_FROM_REWARDS)} without [objectives]"
        )
    if options.unlikeliness and recalls:
        raise ValueError(
            "sampling.unlikeliness ranks rollouts by the log-probs that they were sampled with, and recalled ones "
            "([feedback]) may have none; remove one of the two"
        )
    if options.overlong_buffer >= max_tokens:
        raise ValueError(
            f"sampling.overlong_buffer = {options.overlong_buffer} came with rollout.max_tokens = {max_tokens}; wanted "
            "a part of them"
        )
    if options.overlong_buffer and isinstance(algorithm, TwoChannelConfig) and algorithm.critic_score_weight > 0:
        raise ValueError(
            "sampling.overlong_buffer makes rewards differ in groups that the verifier cannot rank, so that the "
            'critic\'s scores would no longer be read there; take "scores" out of algorithm.use, or set '
            "algorithm.critic_score_weight = 0"
        )

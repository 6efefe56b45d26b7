"""Which method stamps the weights, and the options of its two feedback channels.

Owns: every default of the algorithms, the refinement stage and the directive distillation. A section that a method
never reads is an error when it is set (see `config.run`). Must not know: torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from critique_rl.config.base import Strict

Scale = Literal["none", "std", "loo"]
Baseline = Literal["union", "first_turn"]


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
    GrpoConfig
    | DrGrpoConfig
    | DapoConfig
    | GspoConfig
    | CispoConfig
    | RlooConfig
    | CritiqueGrpoConfig
    | DirectiveDistillationConfig
    | TwoChannelConfig,
    Field(discriminator="name"),
]

LOSS_DEFAULTS: Mapping[str, Mapping[str, object]] = {
    "dr_grpo": {"objective": "clip", "normalizer": "constant"},
    "dapo": {"objective": "clip", "clip_high": 0.28, "normalizer": "tokens"},
    "gspo": {"objective": "gspo", "clip_low": 3e-4, "clip_high": 4e-4, "normalizer": "sequences"},
    "cispo": {"objective": "cispo", "clip_high": 4.0, "normalizer": "tokens"},
    "rloo": {"objective": "reinforce", "normalizer": "constant"},
}
"""What each named method sets in [loss]; a key that the run file sets wins over it."""


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


EMA_RATE = 0.01
"""What a refresh of the ema teacher mixes in where nothing else is said."""

EMA_EVERY = 1
"""Applied steps between its refreshes where nothing else is said."""

DISTILLED_K = 20
"""Support size where nothing else is said."""


class TeacherServerConfig(Strict):
    """A vLLM server whose model scores the attempts; it must have the policy's tokenizer."""

    model: str = Field(description="what the server calls its model (--served-model-name)")
    base_url: str = Field(default="http://127.0.0.1:8000", pattern=r"^https?://", description="without /v1")
    api_key_env: str = Field(
        default="VLLM_API_KEY", description="variable that holds the server's key, if it wants one"
    )
    max_in_flight: int = Field(default=64, ge=1, description="attempts sent and not yet scored")
    timeout_s: float = Field(default=600.0, gt=0.0, description="longest wait for one attempt's log-probs")


class DistillationConfig(Strict):
    """Directive text as token-level targets: who the teacher is, on which support, with which divergence."""

    prompt: str = Field(default="teacher", description="template of the teacher's context: a catalogue name or a path")
    teacher: Literal["live", "frozen", "ema", "served"] = Field(
        default="frozen",
        description="the policy as it is now, as it started, the slow average of its weights, or a model behind a "
        "vLLM server ([distillation.server])",
    )
    server: TeacherServerConfig | None = None
    ema_rate: float | None = Field(
        default=None,
        gt=0.0,
        le=1.0,
        description=f"share of the policy's weights that a refresh of the ema teacher mixes in (None: {EMA_RATE})",
    )
    ema_every: int | None = Field(
        default=None,
        ge=1,
        description=f"applied steps from one refresh of the ema teacher to the next (None: {EMA_EVERY})",
    )
    k: int = Field(default=DISTILLED_K, ge=1, description="support size; the rest of the vocabulary is one tail bin")
    support: Literal["teacher", "student", "sampled"] = Field(
        default="teacher",
        description="whose top-K ids are compared, or the sampled token alone: noisier, and without any pull where the "
        "policy is sure of that token",
    )
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
    max_context_tokens: int | None = Field(
        default=None,
        ge=1,
        description="longest context of the teacher, in tokens (None: what the model's positions leave beside the "
        "completion); of a longer one the attempt is cut in the middle, else its row gets no targets",
    )

    @model_validator(mode="after")
    def _every_key_is_read(self) -> DistillationConfig:
        for key in ("ema_rate", "ema_every"):
            if self.teacher != "ema" and getattr(self, key) is not None:
                raise ValueError(
                    f"{key} = {getattr(self, key)} has no effect with teacher = {self.teacher!r}; "
                    'remove it, or set teacher = "ema"'
                )
        if self.support == "sampled" and self.k != DISTILLED_K:
            raise ValueError(
                f'k = {self.k} has no effect with support = "sampled", which compares one id; remove it, '
                'or set support to "teacher" or "student"'
            )
        if not self.tail and (self.support == "sampled" or self.k == 1):
            raise ValueError(
                "tail = false leaves a single id, whose renormalised probability is always 1, so that nothing would be "
                'learned; remove it, or compare more ids (support = "teacher" or "student", k of 2 or more)'
            )
        return self

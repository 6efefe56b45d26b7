"""One run, whole: the schema of a run file, section by section in loop order.

Owns: the defaults of every section that is not a feedback channel, and the rule that an ineffective section is an
error. Must not know: torch, transformers, or how anything is built.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from critique_rl.config.algorithm import (
    AlgorithmConfig,
    DistillationConfig,
    GrpoConfig,
    RefinementConfig,
)
from critique_rl.config.base import Strict
from critique_rl.config.critic import CriticConfig
from critique_rl.config.feedback import FeedbackConfig
from critique_rl.config.plateau import PlateauConfig
from critique_rl.config.rewards import RewardConfig
from critique_rl.config.shorthand import critic_tree
from critique_rl.config.tasks import LabTasksConfig, TasksConfig
from critique_rl.config.trust import TrustConfig

NAME = r"^[A-Za-z0-9._-]{1,80}$"
"""What runs and arms may be called: their names are directories."""

NEEDS: dict[str, frozenset[str]] = {
    "grpo": frozenset(),
    "critique_grpo": frozenset({"critic", "feedback", "plateau", "refinement", "trust"}),
    "directive_distillation": frozenset({"critic", "feedback", "plateau", "distillation"}),
    "two_channel": frozenset({"critic", "feedback", "plateau", "refinement", "distillation", "trust"}),
}
"""Which optional sections each algorithm reads (the plateau tracker always watches; only these act on it)."""

OPTIONAL = frozenset({"critic", "feedback", "refinement", "distillation", "trust"})
"""Sections that must not be set where the algorithm reads nothing of them."""


class PolicyConfig(Strict):
    """The model to train."""

    model: str = Field(default="lab", description='"lab", a Hub name, or a local directory')
    gguf_file: str | None = Field(default=None, description="file name inside `model` when the weights are GGUF")
    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="auto: CUDA if there is one")
    dtype: Literal["auto", "float32", "float64", "bfloat16"] = Field(
        default="auto", description="compute type; auto: bfloat16 (float32 master weights) on CUDA, float32 on CPU"
    )
    threads: int | None = Field(default=None, ge=1, description="torch threads on the CPU (None: torch's own choice)")


class RolloutConfig(Strict):
    """How attempts are sampled."""

    prompts_per_step: int = Field(default=8, ge=1)
    group_size: int = Field(default=8, ge=1, description="rollouts per prompt")
    max_tokens: int = Field(default=256, ge=1, description="longest completion, in tokens")
    temperature: float = Field(default=1.0, gt=0.0)
    batch_size: int = Field(default=64, ge=1, description="sequences per generate call (bounds memory)")


class LossConfig(Strict):
    """The policy-gradient channel's clip and normaliser."""

    clip_low: float = Field(default=0.2, gt=0.0, lt=1.0)
    clip_high: float = Field(default=0.2, gt=0.0, description="0.28 is DAPO's clip-higher")
    dual_clip: float | None = Field(default=None, gt=1.0, description="lower bound multiple for negative advantages")
    normalizer: Literal["constant", "tokens"] = Field(
        default="constant", description="constant: rollouts x max_tokens (Dr.GRPO); tokens: active tokens (DAPO)"
    )


class OptimizerConfig(Strict):
    """AdamW, one step per batch of rollouts."""

    learning_rate: float = Field(default=1e-6, gt=0.0)
    beta1: float = Field(default=0.9, ge=0.0, lt=1.0)
    beta2: float = Field(default=0.999, ge=0.0, lt=1.0)
    weight_decay: float = Field(default=0.0, ge=0.0)
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    warmup_steps: int = Field(default=0, ge=0)
    micro_batch_tokens: int = Field(
        default=16384, ge=1, description="padded tokens per forward pass; never changes the result"
    )


class BudgetConfig(Strict):
    """When to stop: whichever comes first."""

    max_steps: int = Field(default=100, ge=1)
    max_generated_tokens: int | None = Field(
        default=None, ge=1, description="rollout plus refinement tokens: what arms are compared at"
    )


class EvaluationConfig(Strict):
    """Held-out success without any hint."""

    every: int = Field(default=50, ge=0, description="steps between evaluations; 0: only at the start and the end")
    samples_per_task: int = Field(default=1, ge=1)
    max_tasks: int | None = Field(default=None, ge=1)
    temperature: float = Field(default=1.0, ge=0.0, description="0 is greedy")


class CheckpointConfig(Strict):
    """What is kept on disk."""

    every: int = Field(default=0, ge=0, description="steps between checkpoints; 0: only at the end")
    keep: int = Field(default=1, ge=1, description="newest checkpoints kept")


class ReportConfig(Strict):
    """What samples.jsonl and report.html show."""

    samples_per_step: int = Field(default=1, ge=0, description="whole stories recorded per step")
    every: int = Field(default=5, ge=1, description="steps between recorded stories (critiqued prompts first)")


class RunConfig(Strict):
    """A whole run. Sections that the chosen algorithm never reads must not be set."""

    name: str = Field(default="run", pattern=NAME)
    title: str = ""
    seed: int = Field(default=0, ge=0)
    output: str = Field(default="runs", description="directory that holds the run directory")
    policy: PolicyConfig = PolicyConfig()
    tasks: TasksConfig = LabTasksConfig()
    rewards: dict[str, RewardConfig] = Field(
        default_factory=dict[str, RewardConfig], description="verifier name -> reward; 'exact' needs no entry"
    )
    rollout: RolloutConfig = RolloutConfig()
    algorithm: AlgorithmConfig = GrpoConfig()
    plateau: PlateauConfig = PlateauConfig()
    critic: Annotated[CriticConfig | None, BeforeValidator(critic_tree)] = None
    feedback: FeedbackConfig | None = None
    trust: TrustConfig = TrustConfig()
    refinement: RefinementConfig = RefinementConfig()
    distillation: DistillationConfig = DistillationConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    budget: BudgetConfig = BudgetConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    report: ReportConfig = ReportConfig()

    @field_validator("critic", mode="before")
    @classmethod
    def _no_critic(cls, value: object) -> object:
        return None if isinstance(value, dict) and value.get("kind") == "none" else value  # pyright: ignore[reportUnknownMemberType]

    @model_validator(mode="after")
    def _every_section_is_read(self) -> RunConfig:
        needs = NEEDS[self.algorithm.name]
        unset = {name for name in ("critic", "feedback") if getattr(self, name) is None}
        inert = sorted((OPTIONAL & self.model_fields_set) - unset - needs)
        if inert:
            raise ValueError(
                f"[{'], ['.join(inert)}] would have no effect under algorithm.name = {self.algorithm.name!r}; "
                "remove the section or choose an algorithm that reads it"
            )
        if self.critic is not None and self.feedback is not None:
            raise ValueError("[feedback] takes the place of a critic: remove the [critic] section, or [feedback]")
        if "critic" in needs and self.critic is None and self.feedback is None:
            raise ValueError(
                f"algorithm.name = {self.algorithm.name!r} needs a [critic] section (or [feedback]), and none is set"
            )
        return self

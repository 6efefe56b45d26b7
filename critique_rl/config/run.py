"""One run, whole: the schema of a run file, section by section in loop order.

Owns: which sections there are, what they ask of each other, and the rule that an ineffective section is an error. Must
not know: torch, transformers, or how anything is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, cast

from pydantic import BeforeValidator, Field, field_validator, model_validator

from critique_rl.config.algorithm import (
    PARTS,
    AlgorithmConfig,
    DistillationConfig,
    GrpoConfig,
    RefinementConfig,
)
from critique_rl.config.base import Strict
from critique_rl.config.critic import CriticConfig
from critique_rl.config.engine import EngineConfig, HfEngineConfig, MismatchConfig
from critique_rl.config.episodes import brought_along, check_episodes
from critique_rl.config.evaluation import EvaluationConfig
from critique_rl.config.exploration import ExplorationConfig, check_exploration
from critique_rl.config.feedback import FeedbackConfig
from critique_rl.config.forgetting import ForgettingConfig, check_forgetting
from critique_rl.config.guards import GuardsConfig, check_conflict
from critique_rl.config.loss import LossConfig, check_batch_options, with_loss_defaults
from critique_rl.config.monitors import MonitorsConfig
from critique_rl.config.objective_sources import check_sources
from critique_rl.config.objectives import ObjectivesConfig, check_method
from critique_rl.config.phases import PhasesConfig, check_phases
from critique_rl.config.plateau import PlateauConfig
from critique_rl.config.policy import OptimizerConfig, PolicyConfig
from critique_rl.config.prediction import check_prediction
from critique_rl.config.reads import OPTIONAL, sections_read
from critique_rl.config.replay import ReplayConfig
from critique_rl.config.rewards import RewardConfig
from critique_rl.config.sampling import SamplingConfig, check_pass_at_k, check_sampling
from critique_rl.config.search import EpisodesConfig
from critique_rl.config.sections import BudgetConfig, CheckpointConfig, ReportConfig, RolloutConfig
from critique_rl.config.sft import SFT, check_sft
from critique_rl.config.shorthand import critic_tree
from critique_rl.config.skills import SkillsConfig, check_skills
from critique_rl.config.tasks import LabTasksConfig, TasksConfig, parts_of
from critique_rl.config.trust import TrustConfig

NAME = r"^[A-Za-z0-9._-]{1,80}$"
"""What runs and arms may be called: their names are directories."""


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
    sampling: SamplingConfig | None = None
    engine: EngineConfig = HfEngineConfig()
    mismatch: MismatchConfig = MismatchConfig()
    algorithm: AlgorithmConfig = GrpoConfig()
    objectives: ObjectivesConfig | None = None
    plateau: PlateauConfig = PlateauConfig()
    critic: Annotated[CriticConfig | None, BeforeValidator(critic_tree)] = None
    feedback: FeedbackConfig | None = None
    trust: TrustConfig = TrustConfig()
    guards: GuardsConfig = GuardsConfig()
    monitors: MonitorsConfig | None = None
    exploration: ExplorationConfig | None = None
    phases: PhasesConfig | None = None
    skills: SkillsConfig | None = None
    refinement: RefinementConfig = RefinementConfig()
    replay: ReplayConfig | None = None
    distillation: DistillationConfig = DistillationConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    budget: BudgetConfig = BudgetConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    report: ReportConfig = ReportConfig()
    forgetting: ForgettingConfig | None = None

    @property
    def reads_scores(self) -> bool:
        """Whether anything is learned from the critic's scores."""
        weight = getattr(self.algorithm, "critic_score_weight", 0.0)
        return weight > 0 or (self.objectives is not None and self.objectives.reads_critic)

    @property
    def reads(self) -> frozenset[str]:
        """The optional sections that the algorithm reads as it is set."""
        return sections_read(self.algorithm.name, getattr(self.algorithm, "use", PARTS))

    @property
    def evaluation_tokens(self) -> int:
        """The longest answer to a held-out task, in tokens."""
        return self.rollout.max_tokens if self.evaluation.max_tokens is None else self.evaluation.max_tokens

    @field_validator("critic", mode="before")
    @classmethod
    def _no_critic(cls, value: object) -> object:
        return None if isinstance(value, dict) and value.get("kind") == "none" else value  # pyright: ignore[reportUnknownMemberType]

    @model_validator(mode="before")
    @classmethod
    def _loss_of_the_method(cls, tree: object) -> object:
        return with_loss_defaults(cast("Mapping[str, object]", tree)) if isinstance(tree, Mapping) else tree

    @model_validator(mode="after")
    def _a_served_teacher_knows_no_temperature(self) -> RunConfig:
        if self.distillation.teacher == "served" and self.rollout.temperature != 1.0:
            raise ValueError(
                f'rollout.temperature = {self.rollout.temperature:g} came with distillation.teacher = "served", but a '
                "vLLM server tells its prompt log-probs at temperature 1 only; set rollout.temperature = 1, or choose "
                "another teacher"
            )
        return self

    @model_validator(mode="after")
    def _a_schedule_sees_the_policy(self) -> RunConfig:
        for section in ("distillation", "refinement"):
            if self.feedback is not None and getattr(self, section).schedule == "unsolved":
                raise ValueError(
                    f'{section}.schedule = "unsolved" has no effect with [feedback]: recalled rollouts say nothing of '
                    "what the policy solves now; choose another schedule"
                )
        return self

    @model_validator(mode="after")
    def _a_join_has_both_sides(self) -> RunConfig:
        check_prediction(self.refinement, self.distillation)
        join = self.distillation.join
        if self.algorithm.name == "directive_distillation" and join not in ("losses", "advantages"):
            raise ValueError(
                f"distillation.join = {join!r} has no effect under algorithm.name = 'directive_distillation', which "
                "learns from no reward; remove it, or choose two_channel"
            )
        chooses = self.feedback is None and self.distillation.hint_choice != "joined"
        if chooses and getattr(self.critic, "max_directives", None) == 1:
            raise ValueError(
                f"distillation.hint_choice = {self.distillation.hint_choice!r} has no effect with "
                "critic.max_directives = 1, which leaves one directive to show; remove one of the two"
            )
        told = sorted(self.reads & {"distillation", "refinement"})
        if getattr(self.critic, "max_directives", None) == 0 and (told or not self.reads_scores):
            left = f"leaves [{told[0]}] without a word" if told else "leaves nothing that this run learns from"
            raise ValueError(
                f"critic.max_directives = 0 {left}; raise it, or learn from the critic's scores alone, with "
                "algorithm.use = ['scores'] or an objective of source critic"
            )
        if self.feedback is not None and self.feedback.anchor and join == "routed":
            raise ValueError(
                'feedback.anchor has no effect with distillation.join = "routed", which has right attempts learn from '
                "the policy gradient alone; remove it, or choose another join"
            )
        return self

    @model_validator(mode="after")
    def _objectives_can_be_measured_and_used(self) -> RunConfig:
        if self.objectives is None:
            return self
        check_method(self.objectives, self.algorithm, self.refinement, self.distillation)
        gym = any(part.kind == "reasoning_gym" for part in parts_of(self.tasks))
        own = ("exact", *(["reasoning_gym"] if gym else []), *brought_along(self.tasks))
        check_sources(
            self.objectives.of,
            rewards={**{name: name for name in own}, **{name: reward.kind for name, reward in self.rewards.items()}},
            uses=getattr(self.algorithm, "use", ()),
            calibrated=bool(self.trust.calibration),
        )
        return self

    @model_validator(mode="after")
    def _sampling_fits(self) -> RunConfig:
        check_pass_at_k(self.algorithm, group_size=self.rollout.group_size)
        check_episodes(
            self.tasks,
            first_turn_candidates=self.rollout.first_turn_candidates,
            group_size=self.rollout.group_size,
            recalls=self.feedback is not None,
            samples=self.algorithm.name != SFT,
        )
        if self.sampling is not None:
            schedules = (self.distillation.schedule, self.refinement.schedule)
            check_sampling(
                self.sampling,
                self.algorithm,
                group_size=self.rollout.group_size,
                max_tokens=self.rollout.max_tokens,
                recalls=self.feedback is not None,
                has_objectives=self.objectives is not None,
                multi_turn=isinstance(self.tasks, EpisodesConfig),
                unsolved_schedule="unsolved" in schedules,
                revisit_share=self.replay.revisit_share if self.replay is not None else 0.0,
            )
        return self

    @model_validator(mode="after")
    def _every_section_is_read(self) -> RunConfig:
        use, needs = getattr(self.algorithm, "use", PARTS), self.reads
        unset = {name for name in ("critic", "feedback", "replay") if getattr(self, name) is None}
        inert = sorted((OPTIONAL & self.model_fields_set) - unset - needs)
        if inert:
            raise ValueError(
                f"[{'], ['.join(inert)}] would have no effect under algorithm.name = {self.algorithm.name!r}"
                f"{'' if use == PARTS else f' with use = {list(use)}'}; remove the section or choose an algorithm that "
                "reads it"
            )
        if self.critic is not None and self.feedback is not None:
            raise ValueError("[feedback] takes the place of a critic: remove the [critic] section, or [feedback]")
        if self.feedback is not None and self.budget.stop_on_plateau:
            raise ValueError(
                "budget.stop_on_plateau has no effect with [feedback]: recalled rollouts say nothing of how the policy "
                "fares now; remove it"
            )
        if self.feedback is not None and self.monitors is not None and not self.monitors.probe_tasks:
            raise ValueError(
                "[monitors] would watch nothing with [feedback]: recalled rollouts say nothing of the policy as it is "
                "now; set monitors.probe_tasks, or remove one of the two sections"
            )
        if self.feedback is not None and self.guards != GuardsConfig():
            raise ValueError(
                "[guards] would have no effect with [feedback]: recalled rollouts say nothing of the policy as it is "
                "now; remove one of the two sections"
            )
        if self.feedback is not None and self.replay is not None:
            raise ValueError(
                "[replay] would have no effect with [feedback]: recalled rollouts do not tell whether a prompt still "
                "fails; remove one of the two sections"
            )
        if "critic" in needs and self.critic is None and self.feedback is None:
            raise ValueError(
                f"algorithm.name = {self.algorithm.name!r} needs a [critic] section (or [feedback]), and none is set"
            )
        check_conflict(self.guards, self.algorithm, self.distillation)
        check_skills(self)
        check_forgetting(self.forgetting, self.tasks)
        check_exploration(self)
        check_phases(self)
        joins = self.objectives is not None and self.objectives.gradient_method is not None
        check_batch_options(self.loss, self.optimizer, recalled=self.feedback is not None, joins_gradients=joins)
        if self.algorithm.name == SFT:
            check_sft(self)
        return self

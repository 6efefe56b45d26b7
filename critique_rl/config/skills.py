"""`[skills]`: what a run keeps of its attempts as advice in later prompts, and what it makes of it.

Owns: the section's options. Must not know: how skills are found, written or shown.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from critique_rl.config.base import Strict
from critique_rl.config.critic import (
    CriticConfig,
    LiteLLMCriticConfig,
    NoCriticConfig,
    OpenAICriticConfig,
    PolicyCriticConfig,
    RecordedCriticConfig,
    ShuffledCriticConfig,
    members_of,
    with_members,
)
from critique_rl.config.shorthand import critic_tree

if TYPE_CHECKING:
    from critique_rl.config.run import RunConfig

ASKED = (LiteLLMCriticConfig, OpenAICriticConfig, PolicyCriticConfig, RecordedCriticConfig)
"""Critics that are shown a prompt, and that words in it change."""


class SkillsConfig(Strict):
    """A bank of skills: which ones stand in a prompt, where new ones come from, when a bad one leaves."""

    bank: str = Field(default="", description="a skills.json to start from; empty: an empty bank")
    source: Literal["directives", "writer", "attempts", "none"] = Field(
        default="directives",
        description="directives: what the run's critiques say, at no further call; writer: a critic of [skills.writer] "
        "is asked about failures and successes; attempts: whole attempts, as a control; none: the bank stays as it is",
    )
    writer: Annotated[CriticConfig | None, BeforeValidator(critic_tree)] = None
    lesson_prompt: str = Field(default="skill_lesson", description="what a prompted writer is asked about a failure")
    pattern_prompt: str = Field(default="skill_pattern", description="what a prompted writer is asked about a success")
    prompt: str = Field(
        default="skills",
        description="the template of the block that opens a prompt: it may use skills, principles and question",
    )
    embedder: str = Field(
        default="hashed",
        min_length=1,
        description='"hashed" (shared words, no model), or a sentence-transformers model by Hub name or directory',
    )
    match_kind: bool = Field(default=True, description="a task gets only what was learned from tasks of its own kind")
    k_general: int = Field(default=3, ge=0, description="general skills in a prompt, those nearest to the question")
    k_task: int = Field(default=3, ge=0, description="skills of the task's kind in a prompt, the nearest ones")
    min_similarity: float = Field(
        default=0.3, ge=-1.0, le=1.0, description="a task's own skill must be nearer than this; general ones need not"
    )
    token_budget: int = Field(default=512, ge=1, description="tokens that the block of skills may take in a prompt")
    every: int = Field(default=5, ge=1, description="steps between two evolutions of the bank")
    low_success: float = Field(
        default=0.4, ge=0.0, le=1.0, description="lessons come from kinds of task that succeed less often than this"
    )
    max_failures: int = Field(default=10, ge=0, description="failures that one evolution learns from, kinds in turn")
    max_successes: int = Field(
        default=2, ge=0, description="successes that one evolution learns from: of prompts that also fail"
    )
    max_new: int = Field(default=3, ge=1, description="new skills of one evolution")
    demonstration_chars: int = Field(
        default=400, ge=0, description="a longer success is not kept as a demonstration; 0: none is"
    )
    dedup_above: float = Field(default=0.9, gt=0.0, le=1.0, description="similarity at which words repeat a skill")
    refine_above: float = Field(
        default=0.75,
        gt=0.0,
        le=1.0,
        description="similarity at which a lesson of an attempt that had a skill in view takes its place; 1: never",
    )
    capacity: int = Field(default=200, ge=1, description="active skills; the least used one leaves a full bank")
    dropout: float = Field(
        default=0.1,
        ge=0.0,
        lt=1.0,
        description="share of groups that get no skills: what skills are worth is measured against them; 0: not at all",
    )
    prune_below: float = Field(
        default=0.05, ge=0.0, le=1.0, description="a skill that loses more success than this is retired"
    )
    min_groups: int = Field(default=20, ge=2, description="groups with and without a skill before it can be retired")
    min_hit_share: float = Field(
        default=0.1,
        ge=0.0,
        le=1.0,
        description="a person is told once when fewer of the tasks than this get a skill of their own from a bank that "
        "has some",
    )
    evaluate_with_skills: bool = Field(
        default=False, description="evaluate a second time with skills in the prompt: eval/KIND/with_skills"
    )
    allow_val_leak: bool = Field(
        default=False, description="accept a bank with skills that were learned from held-out tasks"
    )

    @model_validator(mode="after")
    def _every_key_is_read(self) -> Self:
        if (self.writer is not None) != (self.source == "writer"):
            raise ValueError('source = "writer" and a section [skills.writer] go together: set both, or neither')
        self._check_writer()
        if self.source == "none" and not self.bank:
            raise ValueError('source = "none" without a bank is a memory of nothing: name a bank, or choose a source')
        if self.allow_val_leak and not self.bank:
            raise ValueError("allow_val_leak has no effect without a bank: name one, or remove it")
        if self.k_general == 0 and self.k_task == 0:
            raise ValueError("k_general = 0 and k_task = 0 show no skill: raise one, or remove [skills]")
        inert = _inert(self) & _changed(self)
        if inert:
            raise ValueError(f"{', '.join(sorted(inert))} would have no effect as the section is set; remove it")
        return self

    def _check_writer(self) -> None:
        writer = self.writer
        if isinstance(writer, NoCriticConfig | ShuffledCriticConfig):
            raise ValueError(f"writer.kind = {writer.kind!r} writes no skill of an attempt; choose another critic")
        for one in () if writer is None else (members_of(writer) or (writer,)):
            if isinstance(one, ASKED) and one.prompt != type(one).model_fields["prompt"].default:
                raise ValueError(
                    f"writer.prompt = {one.prompt!r} has no effect: set skills.lesson_prompt and skills.pattern_prompt"
                )

    def writer_with(self, prompt: str) -> CriticConfig:
        """The writer's section with what its prompted critics are asked."""
        assert self.writer is not None
        if members_of(self.writer):
            return with_members(self.writer, lambda one: _prompted(one, prompt))
        return _prompted(self.writer, prompt)

    @property
    def asks_by_prompt(self) -> bool:
        """Whether the writer, or any member of it, is shown a prompt."""
        return self.writer is not None and any(
            isinstance(one, ASKED) for one in (members_of(self.writer) or (self.writer,))
        )


def _prompted(critic: CriticConfig, prompt: str) -> CriticConfig:
    return critic.model_copy(update={"prompt": prompt}) if isinstance(critic, ASKED) else critic


def _changed(config: SkillsConfig) -> set[str]:
    """Keys with another value than their default: a resolved file states every key."""
    return {name for name, field in type(config).model_fields.items() if getattr(config, name) != field.default}


def _inert(config: SkillsConfig) -> set[str]:
    """Keys that nothing reads under the other ones."""
    inert: set[str] = set()
    if config.source == "none":
        inert |= {"every", "low_success", "max_failures", "max_successes", "max_new", "capacity", "dedup_above"}
        inert |= {"prune_below", "min_groups"}
    if config.source in ("none", "attempts"):
        inert |= {"refine_above", "demonstration_chars"}
    if not config.asks_by_prompt:
        inert |= {"lesson_prompt", "pattern_prompt"}
    elif config.source == "writer":
        inert |= {"demonstration_chars"}
    if config.dropout == 0.0:
        inert |= {"prune_below", "min_groups"}
    if config.k_task == 0:
        inert |= {"min_similarity", "match_kind", "min_hit_share"}
    return inert


def check_skills(config: RunConfig) -> None:
    """What [skills] needs of the rest of a run. Raises ValueError."""
    skills = config.skills
    if skills is None:
        return
    if skills.source == "directives" and config.critic is None and config.feedback is None:
        raise ValueError(
            'skills.source = "directives" has nothing to learn from: no [critic] or [feedback] is set; choose '
            '"writer" and a [skills.writer], or "attempts"'
        )
    if config.feedback is not None and {"dropout", "prune_below", "min_groups"} & _changed(skills):
        raise ValueError(
            "skills.dropout, prune_below and min_groups have no effect with [feedback]: recalled attempts were sampled "
            "without skills; remove them"
        )

"""The `[rewards.NAME]` sections: one class per kind of judge, told apart by `kind`; NAME is a task's `verifier`.

Owns: every default of the rewards. Must not know: how a reward judges.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError, model_validator

from critique_rl.config.base import Strict
from critique_rl.config.critic import SingleCriticConfig


def _compiles(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"is not a regular expression: {error}") from None
    return pattern


def _has_one_group(pattern: str) -> str:
    groups = re.compile(pattern).groups
    if groups != 1:
        raise ValueError(f"has {groups} groups; wanted exactly one, round the answer: write other groups as (?:...)")
    return pattern


TAGGED = (
    r"\A(?:(?!<confidence>)[\s\S])*"
    r"<answer>(?P<answer>(?:(?!</?answer>|<confidence>)[\s\S])*)</answer>"
    r"(?P<block>(?:(?!<answer>|<confidence>)[\s\S])*<confidence>(?P<confidence>[^<]*)</confidence>)\s*\Z"
)
"""The last <answer>, anything, the text's only <confidence>, and nothing more; what follows the answer is the block."""
TAGGED_FORM = "<answer>...</answer> <confidence>0.5</confidence>"


def _has_answer_and_confidence(pattern: str) -> str:
    names = set(re.compile(pattern).groupindex)
    if not {"answer", "confidence"} <= names <= {"answer", "confidence", "block"}:
        raise ValueError(
            f"has the named groups {sorted(names)}; wanted (?P<answer>...) and (?P<confidence>...), and no other than "
            "(?P<block>...) round all that belongs to the confidence"
        )
    return pattern


FORM = 'what the pattern looks like to a reader, such as "[[...]]"; for critics and reports'
Pattern = Annotated[str, AfterValidator(_compiles)]
ConfidencePattern = Annotated[str, AfterValidator(_compiles), AfterValidator(_has_answer_and_confidence)]
AnswerPattern = Annotated[str, AfterValidator(_compiles), AfterValidator(_has_one_group)]


class _ReadsAnAnswer(Strict):
    pattern: AnswerPattern | None = Field(
        default=None, description="regular expression whose one group is the answer (last match); none: the whole text"
    )
    form: str = Field(default="", description=FORM)

    @model_validator(mode="after")
    def _form_has_a_pattern(self) -> _ReadsAnAnswer:
        if self.form and self.pattern is None:
            raise ValueError(f"form = {self.form!r} has no effect without pattern; set pattern or remove form")
        return self


class ExactRewardConfig(_ReadsAnAnswer):
    """1 if the answer read from the text is the task's answer, else 0."""

    kind: Literal["exact"]
    match: Literal["equal", "contains"] = Field(
        default="equal", description="contains: the task's answer has to occur in it as whole words"
    )
    casefold: bool = Field(default=False, description="ignore upper and lower case")
    collapse_whitespace: bool = Field(default=False, description="count any run of white space as one space")


class MathVerifyRewardConfig(Strict):
    """1 if math-verify finds the answer in the text equal to the task's answer, else 0."""

    kind: Literal["math_verify"]
    timeout_s: int = Field(default=5, ge=1, description="seconds for each parse and each comparison")


class FormatRewardConfig(Strict):
    """1 if the pattern occurs in the text, else 0; the task's answer is not looked at."""

    kind: Literal["format"]
    pattern: Pattern = Field(description="regular expression; anchor it with ^ and $ to bind the whole text")
    form: str = Field(default="", description=FORM)


class ReasoningGymRewardConfig(_ReadsAnAnswer):
    """The data set's own score in [0, 1] of the answer read from the text."""

    kind: Literal["reasoning_gym"]


AnswerRewardConfig = Annotated[
    ExactRewardConfig | MathVerifyRewardConfig | ReasoningGymRewardConfig, Field(discriminator="kind")
]


class ConfidenceRewardConfig(Strict):
    """The reward of `answer`, and as objective "confidence" a proper score of the stated one (arXiv 2507.16806)."""

    kind: Literal["with_confidence"]
    answer: AnswerRewardConfig = Field(
        default=ExactRewardConfig(kind="exact"), description="judge of the text inside the pattern's answer group"
    )
    pattern: ConfidencePattern = Field(
        default=TAGGED,
        description="regular expression with groups named answer and confidence (last match), and maybe block round "
        "all that belongs to the confidence; a text that it does not match is unparsed and earns 0 in both",
    )
    form: str = Field(default=TAGGED_FORM, description=FORM)
    divide_by: float = Field(
        default=1.0, gt=0.0, description="what the number stated is divided by; 10 for a digit of tenths"
    )
    lenient: bool = Field(
        default=False,
        description="also read 95%, 95 and the first number of a phrase; for a verifier of held-out tasks only: "
        "training on it lets the form decay",
    )
    rule: Literal["brier", "spherical", "clipped_log"] = Field(
        default="brier", description="proper scoring rule, brought to [0, 1]; the unbounded log is not on offer"
    )
    eps: float | None = Field(
        default=None, gt=0.0, lt=0.5, description="with rule clipped_log only: confidences are held to [eps, 1 - eps]"
    )

    @model_validator(mode="after")
    def _every_key_has_an_effect(self) -> ConfidenceRewardConfig:
        own = self.pattern != TAGGED or getattr(self.answer, "pattern", None) is not None
        if own and "form" not in self.model_fields_set:
            raise ValueError("a pattern, here or in answer, needs form: a text that it reads, with ... for the answer")
        if self.lenient and self.divide_by != 1.0:
            raise ValueError(f"lenient = true with divide_by = {self.divide_by:g} is ambiguous; set only one of them")
        if (self.eps is not None) != (self.rule == "clipped_log"):
            raise ValueError(f"eps = {self.eps} with rule = {self.rule!r}; clipped_log needs it, others do not use it")
        return self


MONOLOGUE = r"\s*(?:<think>(?:(?!</?think>)[\s\S])*</think>)?(?P<action>(?:(?!</?think>)[\s\S])*)"
"""At most one monologue, closed, and behind it the step."""
MONOLOGUE_FORM = "<think>...</think> step"


def _has_an_action(pattern: str) -> str:
    names = set(re.compile(pattern).groupindex)
    if names != {"action"}:
        raise ValueError(f"has the named groups {sorted(names)}; wanted (?P<action>...) round the step, and no other")
    return pattern


class StepSimilarityRewardConfig(Strict):
    """How near the completion's step comes to the expert's, 2M/T; -1 without a step in the form (arXiv 2510.25992)."""

    kind: Literal["step_similarity"]
    pattern: Annotated[str, AfterValidator(_compiles), AfterValidator(_has_an_action)] = Field(
        default=MONOLOGUE,
        description="regular expression of a whole completion, with a group named action round the step; what stands "
        "outside of it is free",
    )
    form: str = Field(default=MONOLOGUE_FORM, description=FORM)
    unit: Literal["char", "word"] = Field(default="char", description="what is compared; word: what white space parts")
    symmetric: Literal["none", "max", "mean"] = Field(
        default="none", description="none: ratio(step, expert's), which depends on the order; max, mean: of both orders"
    )
    numbers: Literal["as_text", "agree"] = Field(
        default="as_text",
        description="agree: times the share of numbers that both steps have, so that x = 3 is not nearly x = 2 (ours)",
    )
    autojunk: bool = Field(
        default=False,
        description="difflib's own default, for literal reproduction only: from 200 elements of the expert's step on, "
        "its frequent ones are ignored, and rewards jump",
    )

    @model_validator(mode="after")
    def _form_fits_the_pattern(self) -> StepSimilarityRewardConfig:
        if self.pattern != MONOLOGUE and "form" not in self.model_fields_set:
            raise ValueError("a pattern needs form: what it looks like to a reader, such as '<think>...</think> step'")
        return self


class ChoiceRewardConfig(_ReadsAnAnswer):
    """1 if the answer names the right one of the task's `metadata["choices"]`, by its letter or its text, else 0."""

    kind: Literal["choice"]


class JudgeRewardConfig(Strict):
    """A judge's preference over the task's answer: 1 for a win, 0.5 for a tie, 0 for a loss, in both positions."""

    kind: Literal["judge"]
    critic: dict[str, object] = Field(
        description='who judges: a section like [critic], of any kind but "policy" and those that hold critics; its '
        'prompt is "judge_pair" unless it sets one, and it scores the criteria first and second'
    )

    @property
    def judge(self) -> SingleCriticConfig:
        """The critic's section as it is used."""
        own: dict[str, object] = {}
        if self.critic.get("kind") in _PROMPTED:
            own = {"prompt": "judge_pair", **self.critic, "criteria": ("first", "second"), "max_directives": 0}
        return _SINGLE.validate_python(own or self.critic)

    @model_validator(mode="after")
    def _somebody_judges(self) -> JudgeRewardConfig:
        if self.critic.get("kind") == "policy":
            raise ValueError('critic.kind = "policy" cannot judge: its words would be trained to please itself')
        if "criteria" in self.critic:
            raise ValueError("critic.criteria has no effect: a judge scores the criteria first and second; remove it")
        if "max_directives" in self.critic and self.critic.get("kind") in _PROMPTED:
            raise ValueError("critic.max_directives has no effect: a judge is asked for scores alone; remove it")
        try:
            assert self.judge
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"critic: {where}: {first['msg']}") from None
        return self


_PROMPTED = ("openai", "litellm", "recorded", "scripted")
_SINGLE: TypeAdapter[SingleCriticConfig] = TypeAdapter(Annotated[SingleCriticConfig, Field(discriminator="kind")])


# The one that holds another comes first, so that the list of all keys has those of its `answer` too.
UnaidedRewardConfig = (
    ConfidenceRewardConfig
    | ExactRewardConfig
    | MathVerifyRewardConfig
    | FormatRewardConfig
    | ReasoningGymRewardConfig
    | StepSimilarityRewardConfig
    | ChoiceRewardConfig
)
RewardConfig = Annotated[UnaidedRewardConfig | JudgeRewardConfig, Field(discriminator="kind")]

"""The `[rewards.NAME]` sections: one class per kind of judge, told apart by `kind`; NAME is a task's `verifier`.

Owns: every default of the rewards. Must not know: how a reward judges.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator

from critique_rl.config.base import Strict


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


FORM = 'what the pattern looks like to a reader, such as "[[...]]"; for critics and reports'
Pattern = Annotated[str, AfterValidator(_compiles)]
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


RewardConfig = Annotated[
    ExactRewardConfig | MathVerifyRewardConfig | FormatRewardConfig | ReasoningGymRewardConfig,
    Field(discriminator="kind"),
]

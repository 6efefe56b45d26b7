"""The `[objectives.of.NAME]` sections: one class for each thing that an objective can be measured by.

Owns: their defaults, and what of the run each of them rests on. Must not know: torch, how anything is measured.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from critique_rl.config.base import Strict

Tokens = Literal["all", "answer", "confidence"]


class _Objective(Strict):
    weight: float = Field(
        default=1.0, ge=0.0, description="weight beside the other objectives; 0: measured and reported, nothing more"
    )
    only_if: str | None = Field(
        default=None,
        description="another objective; where that one lies below threshold, this one is 0, before any statistic of "
        "the group (arXiv 2601.05242, eq. 8)",
    )
    threshold: float | None = Field(default=None, description="with only_if: the least that counts (None: 1)")
    tokens: Tokens = Field(
        default="all",
        description="which tokens it moves: all, those before the confidence that the completion states, or those from "
        "there on",
    )


class VerifierObjectiveConfig(_Objective):
    """The reward of the task's own verifier."""

    source: Literal["verifier"]


class RewardObjectiveConfig(_Objective):
    """Another reward of the run; missing where it failed."""

    source: Literal["reward"]
    reward: str = Field(description='NAME of a [rewards.NAME]; "exact" is always there')


class LengthObjectiveConfig(_Objective):
    """1 for a completion of at most target_tokens, else 0, or less and less."""

    source: Literal["length"]
    target_tokens: int = Field(ge=1)
    soft_tokens: int = Field(
        default=0, ge=0, description="tokens above target_tokens over which it falls from 1 to 0 in a straight line"
    )


class ConfidenceObjectiveConfig(_Objective):
    """The proper score of the stated confidence, as a reward of kind with_confidence leaves it (arXiv 2507.16806)."""

    source: Literal["confidence"]


class CriticObjectiveConfig(_Objective):
    """What the critic's scores say of an attempt; missing where it was not asked, failed, or is not trusted."""

    source: Literal["critic"]
    criterion: str | None = Field(default=None, description="one criterion by name (None: the mean of all)")


class PayoffObjectiveConfig(_Objective):
    """What answering is worth: one number for a right answer, a wrong one, and none (abstaining)."""

    source: Literal["payoff"]
    correct: float = Field(default=1.0, description="of a right answer")
    wrong: float = Field(description="below correct, such as -4 for a mistake that costs four")
    abstain: float = Field(default=0.0, description="of a wrong completion that abstains fits; between the two others")
    abstains: str = Field(description="regular expression that a completion fits, as a whole, when it gives no answer")

    @model_validator(mode="after")
    def _is_a_choice(self) -> PayoffObjectiveConfig:
        if not self.wrong < self.correct:
            raise ValueError(f"wrong = {self.wrong:g} is not below correct = {self.correct:g}; a mistake must cost")
        if not self.wrong < self.abstain < self.correct:
            raise ValueError(
                f"abstain = {self.abstain:g} does not lie between wrong = {self.wrong:g} and correct = "
                f"{self.correct:g}, so abstaining would be right always or never"
            )
        try:
            re.compile(self.abstains)
        except re.error as error:
            raise ValueError(f"abstains = {self.abstains!r} is not a regular expression: {error}") from None
        return self


class PythonObjectiveConfig(_Objective):
    """A function of (task, text) -> a number, or None where it has nothing to say."""

    source: Literal["python"]
    function: str = Field(pattern=r"^[\w.]+:\w+$", description="module:name of something that Python can import")
    low: float | None = Field(default=None, description="worst value; with high it is brought to [0, 1]")
    high: float | None = Field(default=None, description="best value")

    @model_validator(mode="after")
    def _has_a_range_or_none(self) -> PythonObjectiveConfig:
        if (self.low is None) != (self.high is None):
            raise ValueError("low and high only work together; set both, or neither")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(f"low = {self.low:g} is not below high = {self.high:g}; low is the worst value")
        return self


ObjectiveConfig = Annotated[
    VerifierObjectiveConfig
    | RewardObjectiveConfig
    | LengthObjectiveConfig
    | ConfidenceObjectiveConfig
    | CriticObjectiveConfig
    | PayoffObjectiveConfig
    | PythonObjectiveConfig,
    Field(discriminator="source"),
]


def check_sources(
    objectives: Mapping[str, ObjectiveConfig],
    *,
    rewards: Mapping[str, str],
    uses: Collection[str],
    calibrated: bool,
) -> None:
    """Raises ValueError for an objective that the run cannot measure.

    `rewards` are the kinds of the run's rewards by name, `uses` what is learned from critiques; `calibrated`: there is
    a [trust] calibration.
    """
    for name, objective in objectives.items():
        where = f"objectives.of.{name}"
        stated = objective.source == "confidence" or objective.tokens != "all"
        if stated and "with_confidence" not in rewards.values():
            raise ValueError(f'{where} needs a [rewards.NAME] of kind = "with_confidence", and there is none')
        if objective.source == "reward" and objective.reward not in rewards:
            known = ", ".join(sorted(rewards))
            raise ValueError(f"{where}.reward = {objective.reward!r} is no reward of this run; known are {known}")
        if objective.source != "critic":
            continue
        if "scores" not in uses:
            raise ValueError(
                f'{where}: source = "critic" needs algorithm.name = "two_channel" with "scores" in use; choose it, or '
                "remove the objective"
            )
        if calibrated and objective.criterion is not None:
            raise ValueError(
                f"{where}.criterion = {objective.criterion!r} cannot be with trust.calibration, which makes one score "
                "of all criteria; remove one of the two"
            )

"""When the critic is asked: the options of the plateau tracker.

Owns: every default of `schedule/`. Must not know: how counts or trends are computed, torch.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from critique_rl.config.base import Strict

PlateauMode = Literal["tracker", "paper", "always", "never"]

MIN_BLOCKS = 8
"""Fewest block means from which a trend is read."""


class PlateauConfig(Strict):
    """What counts as a stall of one prompt, how long the critic is tried on it, and what counts as a flat run."""

    mode: PlateauMode = Field(
        default="tracker",
        description="tracker: prompts with enough evidence of failure; paper: every group whose rollouts all fail now "
        "(arXiv 2506.03106); always: every group; never: watch and report only",
    )
    min_failures: int = Field(
        default=16, ge=1, description="failed rollouts of a prompt needed before it can be plateaued"
    )
    max_success: float = Field(
        default=0.171,
        gt=0.0,
        lt=1.0,
        description="a prompt is plateaued if the upper confidence bound on its success rate is at most this "
        "(16 failures and no success give 0.1707 at 95 %)",
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1.0, description="one-sided confidence of that bound")
    window_rollouts: int = Field(
        default=64,
        ge=1,
        description="judged rollouts of a prompt that are remembered; older evidence is forgotten, as the policy moves",
    )
    exempt_steps: int = Field(default=0, ge=0, description="no critic before this many steps are done")
    exempt_fraction: float = Field(
        default=0.0, ge=0.0, lt=1.0, description="the same as a share of the run's steps; the longer exemption counts"
    )
    max_tries: int = Field(
        default=4, ge=1, description="critiqued visits without a verified refinement before a prompt rests"
    )
    cooldown_visits: int = Field(
        default=2, ge=1, description="visits that a resting prompt is left alone before the next try"
    )
    critique_unparsed: bool = Field(
        default=True,
        description="completions without a readable answer are failures, and groups of them may be critiqued; "
        "False: they are no evidence and are left alone",
    )
    critique_truncated: bool = Field(
        default=True, description="the same for completions that ran into the token limit before they finished"
    )
    alarm_prompts: int = Field(
        default=8,
        ge=1,
        description="prompts of one verifier, none with a success ever, before it is checked on its own reference "
        "answers once more; and groups, before truncation or a verifier that errs is told as the run's trouble (ours, "
        "no published evidence)",
    )
    recheck_steps: int = Field(
        default=100,
        ge=1,
        description="steps between two checks of a verifier that has never accepted anything; while it does not even "
        "accept reference answers, no critic is asked (ours, no published evidence)",
    )
    block: int = Field(default=10, ge=1, description="steps averaged into one block before the run's trend is tested")
    horizon: int = Field(
        default=200, ge=2, description="steps the trend looks back, and over which it must move by delta"
    )
    delta: float = Field(
        default=0.02, gt=0.0, description="a run that would gain less reward than this over the horizon is flat"
    )
    alpha: float = Field(default=0.05, gt=0.0, lt=0.5, description="significance level of the trend test")

    @model_validator(mode="after")
    def _can_plateau(self) -> PlateauConfig:
        if self.window_rollouts < self.min_failures:
            raise ValueError(
                f"window_rollouts = {self.window_rollouts} is below min_failures = {self.min_failures}, so that no "
                "prompt could ever be plateaued; raise the window or lower min_failures"
            )
        best = 1.0 - (1.0 - self.confidence) ** (1.0 / self.window_rollouts)
        if best > self.max_success:
            raise ValueError(
                f"max_success = {self.max_success} cannot be reached: {self.window_rollouts} failures "
                f"(window_rollouts) only bound success by {best:.3f} at {self.confidence:.0%}; "
                "raise max_success or the window"
            )
        if self.horizon < MIN_BLOCKS * self.block:
            raise ValueError(
                f"horizon = {self.horizon} holds fewer than {MIN_BLOCKS} blocks of {self.block} steps, so that the "
                "trend would always be undecided; raise horizon or lower block"
            )
        return self

"""`[ablation]` of a run file: what the arms are compared with, and what is claimed of them.

Owns: the entry's keys. Must not know: how arms are run or how success is measured.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from critique_rl.config.base import Strict
from critique_rl.config.search import QUERY_RATES

SUCCESS, POOLED = "success", "all"
_STATED = "valid|confidence|overconfidence|std|distinct|at_ends|collapsed|brier|ece|ece_equal_mass|auroc"
_MEASURED = re.compile(
    r"reward|with_skills|context_tokens|monitor/(?:batch|probe)/[\w./@^+-]+|"
    rf"pass[@^][1-9]\d*|majority_vote|weighted_vote|most_confident|confidence/(?:{_STATED})|{'|'.join(QUERY_RATES)}"
    r"|(?:utility|coverage|precision)@[0-9.]+"
)
Metric = Annotated[str, Field(min_length=1)]


def _check_metric(metric: str) -> None:
    if not _MEASURED.fullmatch(metric):
        raise ValueError(
            f"{metric!r} is nothing that is measured; wanted reward, pass@K or pass^K, with_skills or context_tokens, "
            f"majority_vote, weighted_vote, most_confident, confidence/ and one of {_STATED.replace('|', ', ')}, "
            f"utility@L, coverage@L or precision@L with an L of decisions.penalties, of tasks with a tool "
            f"{', '.join(QUERY_RATES)}, or for class all a figure of the monitors, monitor/probe/NAME"
        )


class ShareConfig(Strict):
    """A share of what another arm has."""

    arm: str
    share: float = Field(gt=0.0, lt=1.0, description="such as 0.333 for a third")


class ClaimConfig(Strict):
    """A statement about one arm that the ablation confirms or refutes, by intervals over all seeds, by differences at
    the same seeds, or by every seed."""

    name: str = Field(min_length=1)
    arm: str
    kind: str = Field(alias="class", description='a task\'s kind ("all" for tasks without one)')
    metric: Metric = Field(default=SUCCESS, description="what is compared: success, or one of columns")
    by: Literal["intervals", "seeds"] = Field(
        default="intervals",
        description="what above and not_below compare: the two arms' own intervals, or the interval of their "
        "difference at the same seed, which leaves undecided what it cannot tell; for arms that share their seeds",
    )
    above: tuple[str, ...] = Field(
        default=(),
        description="arms that it must beat: its interval lies above each of theirs, without overlap; by seeds: that "
        "of the difference lies above 0",
    )
    not_below: tuple[str, ...] = Field(
        default=(),
        description="arms that it must not be worse than: its interval does not lie below any of theirs; by seeds: "
        "that of the difference lies above -margin",
    )
    margin: float | None = Field(
        default=None,
        gt=0.0,
        allow_inf_nan=False,
        description='with not_below and by = "seeds", which need it: how much worse is no worse, as a share of success '
        "(0.05: five points) or in the metric's own units",
    )
    at_most_share_of: ShareConfig | None = Field(
        default=None,
        description="for a metric that should fall: the upper end of its interval is at most this share of the lower "
        "end of that arm's",
    )
    floor_above: float | None = Field(
        default=None,
        ge=0.0,
        lt=1.0,
        description="what its success must stay above in every seed, at every evaluation after the one at which it "
        "first reached half of its best; a seed that never succeeds refutes it. It needs evaluation.every",
    )
    from_step: int | None = Field(
        default=None,
        ge=1,
        description="with floor_above: only evaluations from this step on count, and all of them do (None: those after "
        "the plateau was broken)",
    )

    @property
    def others(self) -> tuple[str, ...]:
        """The arms that it is compared with."""
        shared = () if self.at_most_share_of is None else (self.at_most_share_of.arm,)
        return (*self.above, *self.not_below, *shared)

    @model_validator(mode="after")
    def _says_something(self) -> Self:
        forms = (self.above, self.not_below, self.floor_above is not None, self.at_most_share_of is not None)
        if sum(map(bool, forms)) != 1:
            raise ValueError(
                "give exactly one of above and not_below, each a list of arms, at_most_share_of, an arm and a share, "
                "and floor_above, a number"
            )
        if self.from_step is not None and self.floor_above is None:
            raise ValueError(f"from_step = {self.from_step} has no effect without floor_above; remove it, or set that")
        if self.floor_above is not None and self.metric != SUCCESS:
            raise ValueError(f"metric = {self.metric!r} has no effect with floor_above, which is of success; remove it")
        return self

    @model_validator(mode="after")
    def _is_judged_in_one_way(self) -> Self:
        if self.by == "seeds" and not (self.above or self.not_below):
            raise ValueError(
                'by = "seeds" has no effect with floor_above, which every seed is judged by, nor with '
                "at_most_share_of, which is of intervals; remove it"
            )
        inferior = self.by == "seeds" and bool(self.not_below)
        if self.margin is not None and not inferior:
            raise ValueError(f'margin = {self.margin:g} has no effect without not_below and by = "seeds"; remove it')
        if self.margin is None and inferior:
            raise ValueError(
                'not_below by = "seeds" needs a margin, how much worse is no worse; set one, such as margin = 0.05'
            )
        if self.margin is not None and self.metric == SUCCESS and self.margin >= 1:
            raise ValueError(f"margin = {self.margin:g} grants everything, success being a share; set one below 1")
        return self


class DecisionsConfig(Strict):
    """What the final policies are worth where a mistake costs L: 1 for a right answer, -L for a wrong one, 0 for none.

    On half of the held-out tasks, the same for all arms and seeds; what cannot be read counts as no answer.
    """

    penalties: tuple[Annotated[float, Field(ge=0.0, allow_inf_nan=False)], ...] = Field(
        min_length=1, description="each L, such as [1, 4, 9]"
    )
    abstains: str | None = Field(
        default=None,
        description="regular expression that an answer fits, as a whole, when it gives none, if the verifier reads it "
        "as an answer (None: no answer that can be read abstains)",
    )
    by_confidence: tuple[str, ...] = Field(
        default=(),
        description="arms that answer where the stated confidence, calibrated on the other half of the tasks, is at "
        "least L / (1 + L); every other arm answers unless it abstains",
    )
    calibrator: Literal["temperature", "platt", "isotonic"] | None = Field(
        default=None, description="the map that by_confidence fits, one for each run (None: platt)"
    )

    @model_validator(mode="after")
    def _can_be_used(self) -> Self:
        if len(set(self.penalties)) < len(self.penalties):
            raise ValueError(f"penalties = {list(self.penalties)} names one twice; remove it")
        try:
            re.compile(self.abstains or "")
        except re.error as error:
            raise ValueError(f"abstains = {self.abstains!r} is not a regular expression: {error}") from None
        if self.calibrator is not None and not self.by_confidence:
            raise ValueError(f"calibrator = {self.calibrator!r} has no effect without by_confidence; remove it")
        return self

    def figures(self) -> frozenset[str]:
        """The metrics that it makes."""
        return frozenset(f"{name}@{L:g}" for name in ("utility", "coverage", "precision") for L in self.penalties)


class AblationConfig(Strict):
    """How arms are compared; every arm must have the same token budget, the critic's own tokens included."""

    reference: str = Field(description="the arm that every other one is compared with")
    jobs: int = Field(default=2, ge=1, description="runs at a time, each in a process of its own")
    classes: tuple[str, ...] = Field(
        default=(),
        description='classes of tasks to compare, "all" for all of them together (none: each class by itself)',
    )
    columns: tuple[Metric, ...] = Field(
        default=(),
        description="what to compare beside success: figures of the evaluation such as pass@64 or confidence/ece, and "
        "utility@L, coverage@L and precision@L (right of answered) of decisions",
    )
    decisions: DecisionsConfig | None = Field(
        default=None, description="what the final policies' answers are worth at several prices; in class all only"
    )
    claims: tuple[ClaimConfig, ...] = ()

    @property
    def needs_monitors(self) -> bool:
        """Whether the last figures of a run's monitors are compared."""
        return any(metric.startswith("monitor/") for metric in self.columns)

    @property
    def needs_answers(self) -> bool:
        """Whether figures are wanted that only the answers of all classes together can give."""
        stated = any(metric.startswith("confidence/") for metric in self.columns)
        return self.decisions is not None or (POOLED in self.classes and stated)

    def arms(self) -> tuple[str, ...]:
        """Every arm that the section names."""
        named = [self.reference]
        for claim in self.claims:
            named += [claim.arm, *claim.others]
        named += self.decisions.by_confidence if self.decisions is not None else ()
        return tuple(dict.fromkeys(named))

    @model_validator(mode="after")
    def _columns_are_measured(self) -> Self:
        made = frozenset[str]() if self.decisions is None else self.decisions.figures()
        for metric in self.columns:
            _check_metric(metric)
            if metric.partition("@")[0] in ("utility", "coverage", "precision") and metric not in made:
                known = ", ".join(sorted(made)) or "none, without a section decisions"
                raise ValueError(f"columns: {metric!r} is not of decisions.penalties; there are {known}")
        if len(set(self.columns)) < len(self.columns) or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"columns = {list(self.columns)}, classes = {list(self.classes)}: one stands there twice")
        if self.needs_monitors and POOLED not in self.classes:
            raise ValueError('figures of monitors are shown for class "all" only; add "all" to classes')
        if made and (POOLED not in self.classes or not made & set(self.columns)):
            raise ValueError(
                'decisions are shown for class "all" only, in columns that ask for them; add "all" to classes and a '
                f"metric such as {min(made)!r} to columns"
            )
        return self

    @model_validator(mode="after")
    def _claims_are_of_what_is_compared(self) -> Self:
        for claim in self.claims:
            if claim.metric not in (SUCCESS, *self.columns):
                raise ValueError(f"claim {claim.name!r}: metric = {claim.metric!r} is not one of columns; add it there")
            if self.classes and claim.kind not in self.classes:
                raise ValueError(f"claim {claim.name!r}: class = {claim.kind!r} is not one of classes; add it there")
        return self

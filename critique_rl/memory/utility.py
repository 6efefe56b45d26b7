"""What skills are worth: success of groups that saw them minus success of groups from which they were withheld.

Owns: the counts behind that difference and its interval. The unit is the group: rollouts of one prompt are no
independent evidence. Must not know: who withholds skills, what is done with a bad one.

Trap: policy and bank change while the counts add up. Withholding at random, at one rate for the whole run, keeps both
sides equally old on average; a skill's counts start anew with each of its revisions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, cast


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Success rates of groups: how many, their sum, the sum of their squares."""

    groups: int = 0
    total: float = 0.0
    squares: float = 0.0

    def plus(self, rate: float) -> Tally:
        return Tally(groups=self.groups + 1, total=self.total + rate, squares=self.squares + rate * rate)

    @property
    def mean(self) -> float:
        return self.total / self.groups

    @property
    def variance(self) -> float:
        """Sample variance, of at least two groups."""
        return max(0.0, (self.squares - self.total * self.total / self.groups) / (self.groups - 1))


class Utility(NamedTuple):
    """Success with minus success without, and its 95 % bounds."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """Groups that saw a skill, and groups that would have seen it."""

    shown: Tally = Tally()
    withheld: Tally = Tally()

    def plus(self, rate: float, *, shown: bool) -> Evidence:
        if shown:
            return Evidence(shown=self.shown.plus(rate), withheld=self.withheld)
        return Evidence(shown=self.shown, withheld=self.withheld.plus(rate))

    def to_json(self) -> list[list[float]]:
        return [[t.groups, t.total, t.squares] for t in (self.shown, self.withheld)]


def utility(evidence: Evidence) -> Utility | None:
    """The difference of two means with Welch's interval,

        d +- t_{v, 0.975} sqrt(s1^2/n1 + s2^2/n2),  v by Welch and Satterthwaite.

    None with fewer than two groups on either side. Where neither side varies at all, sample variances say nothing of
    what the next group may do, and each gets that of one deviating group, (n - 1) / n^2.
    """
    one, other = evidence.shown, evidence.withheld
    if min(one.groups, other.groups) < 2:
        return None
    from scipy.stats import t as student

    parts = [_spread(tally) / tally.groups for tally in (one, other)]
    error = math.sqrt(sum(parts))
    freedom = sum(parts) ** 2 / sum(p * p / (t.groups - 1) for p, t in zip(parts, (one, other), strict=True))
    half = float(student.ppf(0.975, freedom)) * error
    value = one.mean - other.mean
    return Utility(value, value - half, value + half)


def is_harmful(evidence: Evidence, *, epsilon: float, min_groups: int) -> bool:
    """Whether a skill loses more than `epsilon` success, with `min_groups` on each side and an interval below 0."""
    if min(evidence.shown.groups, evidence.withheld.groups) < min_groups:
        return False
    found = utility(evidence)
    return found is not None and found.value < -epsilon and found.high < 0.0


def saving(before: float, after: float) -> float:
    """The share that is saved: (before - after) / before; SkillRL (arXiv 2602.08234) has 1,450 and 1,300 tokens."""
    return (before - after) / before


def evidence_from_json(value: object) -> Evidence:
    """What `to_json` wrote."""
    shown, withheld = (
        Tally(groups=int(groups), total=total, squares=squares)
        for groups, total, squares in cast("list[tuple[float, float, float]]", value)
    )
    return Evidence(shown=shown, withheld=withheld)


def evidence_by_skill(state: Mapping[str, object]) -> dict[str, Evidence]:
    """By skill id, as a checkpoint holds it."""
    return {name: evidence_from_json(value) for name, value in state.items()}


def _spread(tally: Tally) -> float:
    # Sums of floats leave crumbs where all rates are equal.
    return tally.variance if tally.variance > 1e-12 else (tally.groups - 1) / tally.groups**2

"""Proper scoring rules for one stated confidence, and the weight of accuracy that they need beside them.

Owns: the rules, always as SCORES (higher is better; papers also print losses), and the incentive check. Must not know:
how a confidence is read, which advantage is made of a score.
"""

from __future__ import annotations

import math
from typing import Literal

ScoringRule = Literal["brier", "spherical", "clipped_log"]
_WAY_OUT = "wanted brier, spherical or clipped_log"


def probability(value: float) -> float:
    """`value` as it came. Raises ValueError unless it lies in [0, 1]; NaN does not."""
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"confidence is {value!r}; wanted a number from 0 to 1")
    return value


def score(rule: ScoringRule, confidence: float, correct: bool, *, eps: float | None = None) -> float:
    """What stating q = `confidence` earns once the answer turns out right (c = 1) or wrong (c = 0); higher is better.

    `brier`: -(q - c)^2, in [-1, 0], so that c + score is the reward of RLCR (arXiv 2507.16806). `spherical`: p_c /
    sqrt(q^2 + (1 - q)^2) with p_1 = q, p_0 = 1 - q, in [0, 1]. `clipped_log`: log p_c with q held to [eps, 1 - eps], in
    nats; outside of that band every q earns the same, so there it is only weakly proper. Raises ValueError for q
    outside [0, 1], an unknown rule, the unbounded `log`, an eps outside (0, 0.5), and an eps that has no effect.
    """
    band = _checked(rule, eps)
    q = probability(confidence)
    if rule == "brier":
        return -((q - correct) ** 2)
    if rule == "spherical":
        return (q if correct else 1 - q) / math.hypot(q, 1 - q)
    q = min(max(q, band), 1 - band)
    return math.log(q if correct else 1 - q)


def unit_score(rule: ScoringRule, confidence: float, correct: bool, *, eps: float | None = None) -> float:
    """`score` shifted and scaled to [0, 1], from the worst to the best; for `brier` that is 1 - (q - c)^2.

    Raises ValueError as `score` does.
    """
    worst, best = _range(rule, eps)
    return (score(rule, confidence, correct, eps=eps) - worst) / (best - worst)


def minimum_weight(rule: ScoringRule, eps: float | None = None) -> float:
    """Least weight of accuracy, per unit of `score`, at which the best answer with an honest confidence is optimal.

    sup_p [S(p, 1) - S(p, 0)] of the loss S = -score (arXiv 2507.16806, appendix A): brier 1, spherical 1, clipped_log
    log((1 - eps) / eps). It is always reached at p = 0, where the difference is the rule's whole range; so per unit of
    `unit_score` it is 1 for every rule. At this value the incentive is marginal: flat for answers that are never right.
    Raises ValueError as `score` does; the unbounded `log` has no such weight.
    """
    worst, best = _range(rule, eps)
    return best - worst


def check_incentive(
    rule: ScoringRule, accuracy_weight: float, score_weight: float, *, eps: float | None = None, unit: bool = False
) -> None:
    """Refuse weights under which a surely wrong answer with confidence 0 can beat an honest attempt.

    The reward is accuracy_weight * c + score_weight * score; with `unit`, `unit_score` stands in its place. Raises
    ValueError with the weight that is needed, for weights that are negative or not finite, and as `score` does.
    """
    for name, weight in (("accuracy_weight", accuracy_weight), ("score_weight", score_weight)):
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"{name} is {weight!r}; wanted a finite number >= 0")
    least = minimum_weight(rule, eps)
    per_unit = 1.0 if unit else least
    needed = per_unit * score_weight
    if accuracy_weight < needed * (1 - 1e-5):  # the six digits that the message prints have to be enough
        raise ValueError(
            f"accuracy_weight {accuracy_weight:g} is too small beside score_weight {score_weight:g} for {rule}: a "
            f"deliberately wrong answer with confidence 0 would pay more than an honest attempt at a hard task; "
            f"wanted accuracy_weight >= {needed:.6g}, or score_weight <= {accuracy_weight / per_unit:.6g}"
        )


def _checked(rule: str, eps: float | None) -> float:
    """`eps` where the rule has one, else 0. Raises ValueError for a rule or an eps that cannot be used."""
    if rule == "log":
        raise ValueError(
            "rule 'log' is unbounded: beside it no weight of accuracy is large enough, and wrong answers with "
            f"confidence 0 win; {_WAY_OUT}"
        )
    if rule not in ("brier", "spherical", "clipped_log"):
        raise ValueError(f"rule is {rule!r}; {_WAY_OUT}")
    if rule == "clipped_log":
        if eps is None or not 0 < eps < 0.5:
            raise ValueError(f"eps is {eps!r}; clipped_log wants a number above 0 and below 0.5, such as 0.01")
        return eps
    if eps is not None:
        raise ValueError(f"eps = {eps:g} has no effect on rule {rule!r}; remove it or use clipped_log")
    return 0.0


def _range(rule: ScoringRule, eps: float | None) -> tuple[float, float]:
    """The worst and the best score: sure and wrong, sure and right."""
    return score(rule, 0.0, True, eps=eps), score(rule, 1.0, True, eps=eps)

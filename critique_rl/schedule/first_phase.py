"""Whether the first phase is over: the steps are learned, which a flat curve alone does not say.

    over = perplexity flat, answers well formed, enough of them right, and the policy sure of its execution tokens:
           by a fall since the first window, or by a low level

Owns: the rule and its words. Must not know: what follows from it, phrases, how figures are taken.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import NamedTuple

from critique_rl.config.phases import PhasesConfig

TOLD_AFTER_WINDOWS = 5


@dataclass(slots=True, kw_only=True)
class FirstPhase:
    """What is remembered of it: log-perplexity in the first window (nats a token), and how long was waited since."""

    nats: float | None = None
    waited: int = 0
    told: bool = False

    def measure(self, nats: Sequence[float], *, window: int) -> dict[str, float]:
        """The share of the first log-perplexity that is gone, 1 - x / x_first (below 0: it rose), the first whole
        window being kept; nothing before there is one, or for a policy that was certain in it."""
        if self.nats is None and len(nats) >= window:
            self.nats = fmean(nats[-window:])
        return {"phases/execution_fall": 1 - fmean(nats[-window:]) / self.nats} if self.nats else {}

    def wait(self, lacking: Sequence[str], *, window: int) -> str | None:
        """One more step that was not the last: after TOLD_AFTER_WINDOWS it is told once what is lacking."""
        self.waited += 1
        if self.told or self.waited < TOLD_AFTER_WINDOWS * window:
            return None
        self.told = True
        return (
            f"still off after {self.waited} steps: {'; '.join(lacking)}. If the steps are learned, move the limits in "
            'brackets, or set mode = "on"'
        )


class Seen(NamedTuple):
    """What is still lacking, each with the key that decides it (none: the phase is over), and what was seen."""

    lacking: tuple[str, ...]
    shown: str


def look(
    config: PhasesConfig,
    *,
    nats: Sequence[float],
    first_nats: float | None,
    formed: Sequence[float],
    success: Sequence[float],
) -> Seen:
    """The rule over the latest window, x being the mean of `nats` (log-perplexity of execution tokens, nats a token).

        flat    |b - a| / a < flat_below, of mean perplexities: a, b the halves of the window, and the window before
                it and the window itself, once there is one before
        formed  mean > formed_above;   right  mean success > success_above
        sure    x <= (1 - fallen_by) x_first,   or   x <= sure_below_nats

    `nats` holds up to two windows, `formed` and `success` (shares) one. Perplexity has no scale of its own above 1, so
    a fall is of its logarithm. A policy that grows sure of wrong answers falls, too: hence `right` in either case.
    That execution perplexity falls and then stands still, and that a strong policy may lack this phase, is of arXiv
    2509.03646; the limits and all that makes them a rule are ours, without published evidence.
    """
    window = config.window
    courses = {"execution perplexity": nats, "the share of well-formed answers": formed, "success": success}
    short = [name for name, course in courses.items() if len(course) < window]
    if short or first_nats is None:
        return Seen((f"{' and '.join(short)} could not be measured in {window} steps",), "")
    now = fmean(nats[-window:])
    lacking = _movements(nats, window=window, flat_below=config.flat_below)
    if fmean(formed) <= config.formed_above:
        lacking.append(f"{fmean(formed):.1%} of answers are well formed (formed_above = {config.formed_above:g})")
    if fmean(success) <= config.success_above:
        lacking.append(f"{fmean(success):.1%} of answers are right (success_above = {config.success_above:g})")
    course, reached = f"{first_nats:.3g} -> {now:.3g} nats a token", f"low without a fall, {now:.3g} nats a token"
    if first_nats > 0 and now <= (1 - config.fallen_by) * first_nats:
        reached = f"after a fall by {1 - now / first_nats:.0%}, {course}"
    elif now > config.sure_below_nats:
        lacking.append(
            f"execution tokens are hardly surer than at first, {course} (fallen_by = {config.fallen_by:g}), and not "
            f"sure as they are (sure_below_nats = {config.sure_below_nats:g})"
        )
    shares = f"{fmean(formed):.0%} well formed, {fmean(success):.0%} right"
    return Seen(tuple(lacking), f"execution perplexity stands still at {math.exp(now):.3g}, {reached}; {shares}")


def _movements(nats: Sequence[float], *, window: int, flat_below: float) -> list[str]:
    perplexity = [math.exp(value) for value in nats]
    half, now = window // 2, perplexity[-window:]
    changes = {"between the halves of the window": fmean(now[half:]) / fmean(now[:half]) - 1}
    if len(perplexity) >= 2 * window:
        changes["since the window before"] = fmean(now) / fmean(perplexity[-2 * window : -window]) - 1
    return [
        f"execution perplexity changed by {change:+.2%} {where} (flat_below = {flat_below:g})"
        for where, change in changes.items()
        if abs(change) >= flat_below
    ]

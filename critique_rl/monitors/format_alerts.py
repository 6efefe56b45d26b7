"""When a change of formats is worth a person's attention.

Owns: the rules and their words. Must not know: how often they were told, where they go. A change counts only beyond 3
standard errors; the limits 0.3 and 0.05 are ours, with no published evidence.
"""

from __future__ import annotations

from critique_rl.monitors.counting import Tally
from critique_rl.stats.formats import change_in_errors

ERRORS = 3.0
RISE = 0.3
RARE = 0.05


def format_alerts(first: Tally, now: Tally, *, early: bool) -> dict[str, str]:
    """What is wrong, by key, against the first observation; `early`: within the first pass over the prompts."""
    if not first.total or not now.total:
        return {}
    found: dict[str, str] = {}
    leader = now.dominant
    share0, share1 = first.share(leader), now.share(leader)
    gained = gain(first, now, leader) > ERRORS
    if early and gained and share1 - share0 > RISE:
        found["rise"] = (
            f"the format {leader!r} has risen from {share0:.0%} to {share1:.0%} of the answers within the early steps; "
            "a larger loss.kl_weight (1e-2) is what has kept a second format alive in published runs"
        )
    best = most_accurate(first)
    if best is None:
        return found
    rate = first.accuracy(best) or 0.0
    if gained and best != leader and _is_worse(first, leader, best):
        found["not_best"] = (
            f"the format {leader!r} ({share1:.0%} of the answers, {share0:.0%} at first) is taking over, although "
            f"{best!r} was right more often at first ({rate:.0%} against {first.accuracy(leader) or 0.0:.0%})"
        )
    if first.share(best) >= RARE > now.share(best) and gain(first, now, best) < -ERRORS and rate > 0:
        found["best_lost"] = (
            f"the format {best!r}, which was right most often at first ({rate:.0%}), has fallen from "
            f"{first.share(best):.0%} to {now.share(best):.0%} of the answers"
        )
    return found


def most_accurate(first: Tally) -> str | None:
    """The format with the best first accuracy, of equals the commoner; None where nothing was judged."""
    judged = [name for name, count in first.judged.items() if count]
    return max(judged, key=lambda name: (first.accuracy(name) or 0.0, first.counts.get(name, 0)), default=None)


def gain(first: Tally, now: Tally, name: str) -> float:
    """Change of a format's share in standard errors."""
    return change_in_errors(first.counts.get(name, 0), first.total, now.counts.get(name, 0), now.total)


def _is_worse(first: Tally, name: str, best: str) -> bool:
    """Whether a format was beyond doubt less often right than the best one; of an unseen one nothing is known."""
    counts = (first.right.get(name, 0), first.judged.get(name, 0), first.right.get(best, 0), first.judged.get(best, 0))
    return change_in_errors(*counts) > ERRORS

"""The sentence that tells a person which prompts are stalled.

Owns: its words. Must not know: when a prompt is stalled, how a bound or a trend is computed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection

from critique_rl.schedule.state import STALLED, PromptRecord
from critique_rl.stats.trend import TrendReport


def stall_message(
    prompts: Collection[PromptRecord],
    report_of: Callable[[str | None], TrendReport],
    bound_of: Callable[[PromptRecord], float],
    confidence: float,
) -> str:
    """How many prompts of the kind that stalls most are stalled, on what evidence, and where the reward is going."""
    stalled = [r for r in prompts if r.status in STALLED]
    kind = Counter(r.kind for r in stalled).most_common(1)[0][0] if stalled else None
    report = report_of(kind)
    which = f" on {kind} prompts" if kind else ""
    trend = f"reward trend{which} {report.verdict} ({_why(report)})"
    if kind is None:
        return f"no stall: 0 of {_prompts(len(prompts))} plateaued; {trend}"
    alike = [r for r in stalled if r.kind == kind]
    seen = sum(r.kind == kind for r in prompts)
    evidence = min(r.successes + r.failures for r in alike)
    bound = max(bound_of(r) for r in alike)
    verb = "hardly ever succeed" if any(r.successes for r in alike) else "all-fail"
    return (
        f"stall: {len(alike)} of {_prompts(seen, kind)} {verb} over >={evidence} rollouts each "
        f"({confidence:.0%} upper bound on success {bound:.2f} or less); {trend}"
    )


def _why(report: TrendReport) -> str:
    if report.verdict == "undecided":
        return report.reason
    return f"Sen slope {report.slope:.2g} per step, p {report.test.p:.2g}"


def _prompts(count: int, kind: str = "") -> str:
    noun = "prompt" if count == 1 else "prompts"
    return f"{count} {kind} {noun}" if kind else f"{count} {noun}"

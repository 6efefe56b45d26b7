"""Which of the recorded samples a report tells.

Owns: what makes a sample worth reading. Must not know: how a story is laid out.
"""

from __future__ import annotations

from critique_rl.report.load import RunSet
from critique_rl.report.records import Sample
from critique_rl.report.stories import Story, tell


def choose_stories(run_set: RunSet, *, count: int = 6) -> list[Story]:
    """Up to `count` stories: the fullest, spread over the run, then a failed critic call, then one without a critic."""
    candidates = [(run.arm, run.seed, sample) for run in run_set.runs for sample in run.samples]
    fullest = sorted(candidates, key=lambda c: (-_fullness(c[2]), c[2].step))
    best = [c for c in fullest if _fullness(c[2]) == _fullness(fullest[0][2])] if fullest else []
    failed = [c for c in candidates if any(q.outcome != "ok" for q in c[2].critiques)]
    plain = [c for c in candidates if not c[2].critiques]
    plain.sort(key=lambda c: c[2].plateau.status != "plateaued")
    extras = (1 if failed else 0) + (1 if plain and len(plain) < len(candidates) else 0)
    chosen: list[tuple[str, str, Sample]] = []
    for pool, limit in (
        (_spread(best, count - extras), count - extras),
        (fullest, count - extras),
        (failed, count - extras + bool(failed)),
        (plain, count),
        (fullest, count),
    ):
        for candidate in pool:
            if len(chosen) < limit and candidate[2].task_id not in {c[2].task_id for c in chosen}:
                chosen.append(candidate)
    order = {arm: index for index, arm in enumerate(run_set.arms)}
    chosen.sort(key=lambda c: (not c[2].critiques, -order[c[0]], c[2].step))
    return [tell(arm, seed, sample) for arm, seed, sample in chosen]


def _fullness(sample: Sample) -> int:
    """How much of the loop a sample shows."""
    tokens = [token for attempt in sample.attempts for token in attempt.tokens]
    return (
        4 * any((r.reward or 0.0) >= 1.0 for r in sample.refinements)
        + 4 * any(q.outcome == "ok" and q.directives for q in sample.critiques)
        + 2 * any(token.distill for token in tokens)
        + any(token.pg for token in tokens)
        + any(q.dropped for q in sample.critiques)
    )


def _spread(candidates: list[tuple[str, str, Sample]], count: int) -> list[tuple[str, str, Sample]]:
    """`count` candidates at even distances, then the rest."""
    if count < 2 or len(candidates) <= count:
        return candidates
    picks = [candidates[round(i * (len(candidates) - 1) / (count - 1))] for i in range(count)]
    return picks + candidates

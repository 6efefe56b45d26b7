"""A feedback file in figures: how calls ended, what was said, what it cost, whether the scores mean anything.

Owns: which figures. Must not know: how they are shown. "Not known" is None.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from statistics import fmean

from critique_rl.feedback.rows import FeedbackRow
from critique_rl.feedback.spending import spent_by_critic, together, total
from critique_rl.types import CriticOutcome, ScoreStatus

Json = dict[str, object]


class FeedbackSummary:
    """Adds rows up one by one; keeps one number per score, never a row."""

    def __init__(self) -> None:
        self._rows = 0
        self._cached = 0
        self._answered = 0
        self._directives = 0
        self._verified = 0
        self._right = 0
        self._critics: Counter[str] = Counter()
        self._outcomes: Counter[str] = Counter()
        self._forms: Counter[str] = Counter()
        self._kinds: Counter[str] = Counter()
        self._dropped: Counter[str] = Counter()
        self._latencies_s: list[float] = []
        self._scores: defaultdict[str, list[float]] = defaultdict(list)
        self._judged: defaultdict[str, list[tuple[float, bool]]] = defaultdict(list)
        self._verdicts: Counter[str] = Counter()
        self._spent = spent_by_critic([])

    def add(self, row: FeedbackRow) -> None:
        critique, score = row.critique, row.rollout.score
        verified = score is not None and score.status is not ScoreStatus.ERROR
        correct = score is not None and score.correct
        self._rows += 1
        self._verified += verified
        self._right += verified and correct
        self._cached += critique.cached
        self._critics[critique.critic] += 1
        self._outcomes[critique.outcome.value] += 1
        self._spent = together(self._spent, spent_by_critic([critique]))
        self._dropped.update(reason for _, reason in critique.dropped)
        if critique.parse_form:
            self._forms[critique.parse_form] += 1
        if critique.latency_s > 0:
            self._latencies_s.append(critique.latency_s)
        if critique.verdict is not None and verified:
            self._verdicts["agree" if (critique.verdict == "correct") == correct else "disagree"] += 1
        if critique.outcome is not CriticOutcome.OK:
            return
        self._answered += 1
        self._directives += len(critique.directives)
        self._kinds.update(directive.kind for directive in critique.directives)
        for one in critique.evaluative:
            self._scores[one.criterion].append(one.value)
            if verified:
                self._judged[one.criterion].append((one.value, correct))

    def figures(self) -> Json:
        """Every figure, as plain JSON."""
        spent = total(self._spent)
        return {
            "rows": self._rows,
            "critics": dict(self._critics.most_common()),
            "outcomes": dict(self._outcomes.most_common()),
            "cached": self._cached,
            "parse_forms": dict(self._forms.most_common()),
            "directives": self._directives,
            "directives_per_ok_row": self._directives / self._answered if self._answered else None,
            "directive_kinds": dict(self._kinds.most_common()),
            "dropped": dict(self._dropped.most_common()),
            "verified_rows": self._verified,
            "verified_correct": self._right,
            "verdicts": dict(self._verdicts),
            "scores": {name: self._score_figures(name) for name in sorted(self._scores)},
            "tokens": spent.tokens,
            "cost_usd": None if spent.unpriced and not spent.cost_usd else spent.cost_usd,
            "unpriced_rows": spent.unpriced,
            "mean_latency_s": fmean(self._latencies_s) if self._latencies_s else None,
        }

    def _score_figures(self, name: str) -> Json:
        from critique_rl.stats.discrimination import auroc

        values, judged = self._scores[name], self._judged[name]
        area = auroc([value for value, _ in judged], [right for _, right in judged]) if judged else None
        return {
            "count": len(values),
            "mean": fmean(values),
            "min": min(values),
            "max": max(values),
            "auroc": area,
            "judged": len(judged),
        }


def summarise(rows: Iterable[FeedbackRow]) -> Json:
    """The figures of all rows."""
    summary = FeedbackSummary()
    for row in rows:
        summary.add(row)
    return summary.figures()

"""What one observation says of each format: counts, rewards, lengths, and who solved what.

Owns: the tally and its form in a checkpoint. Must not know: how a format is told, earlier observations.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from critique_rl.monitors.prompts import Prompt

Figures = dict[str, float]


@dataclass(slots=True, kw_only=True)
class Tally:
    """Answers by format: `counts` of all, `judged` and `right` of those that the verifier judged."""

    counts: dict[str, int] = field(default_factory=dict[str, int])
    judged: dict[str, int] = field(default_factory=dict[str, int])
    right: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def total(self) -> int:
        return sum(self.counts.values())

    def share(self, name: str) -> float:
        return self.counts.get(name, 0) / self.total if self.total else 0.0

    def accuracy(self, name: str) -> float | None:
        """Share of right answers among the judged ones; None where there is none."""
        judged = self.judged.get(name, 0)
        return self.right.get(name, 0) / judged if judged else None

    @property
    def dominant(self) -> str:
        """The commonest format; of equals the first counted."""
        return max(self.counts, key=lambda name: self.counts[name])


def tally(prompts: Sequence[Prompt], labels: Mapping[str, str]) -> Tally:
    """Count every answer, also unread and unjudged ones: shares of what is left after a filter are biased.

    `labels` holds the format of each text.
    """
    found = Tally()
    for prompt in prompts:
        for text in prompt.texts:
            found.counts[labels[text]] = found.counts.get(labels[text], 0) + 1
        for answer in prompt.judged:
            label = labels[answer.text]
            found.judged[label] = found.judged.get(label, 0) + 1
            found.right[label] = found.right.get(label, 0) + answer.score.correct
    return found


def by_format(prompts: Sequence[Prompt], labels: Mapping[str, str]) -> Figures:
    """Means of each format's answers: reward, tokens, advantage, and the share of prompts that it alone would solve."""
    rows: dict[str, dict[str, list[float]]] = {}
    for prompt in prompts:
        solved: dict[str, bool] = {}
        for rollout, score, text, advantage in prompt.judged:
            label = labels[text]
            row = rows.setdefault(label, {"reward": [], "tokens": [], "advantage": [], "solved": []})
            row["reward"].append(score.reward)
            row["tokens"].append(float(rollout.own_tokens))
            row["advantage"].append(advantage)
            solved[label] = solved.get(label, False) or score.correct
        for label, whether in solved.items():
            rows[label]["solved"].append(float(whether))
    return _means(rows)


def _means(rows: Mapping[str, Mapping[str, Sequence[float]]]) -> Figures:
    return {
        f"{key}/{name}": math.fsum(values) / len(values) for name, row in rows.items() for key, values in row.items()
    }

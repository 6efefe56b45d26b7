"""What a whole run looked like, step by step: mean reward and the share of groups by cause.

Owns: the per-step sums, kept so that a trend can be tested on raw values (never on smoothed ones). Must not know:
single prompts, critics, how a trend is tested.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from critique_rl.schedule.causes import GroupCause, GroupEvidence


@dataclass(slots=True, kw_only=True)
class StepRecord:
    """Sums over one step's groups; `reward` and `judged` are keyed by task kind, `causes` by cause. `errors` are
    rollouts on which the verifier failed."""

    step: int
    reward: dict[str, float] = field(default_factory=dict[str, float])
    judged: dict[str, int] = field(default_factory=dict[str, int])
    causes: dict[str, int] = field(default_factory=dict[str, int])
    errors: int = 0

    def copy(self) -> StepRecord:
        return replace(self, reward=dict(self.reward), judged=dict(self.judged), causes=dict(self.causes))

    def add(self, kind: str, evidence: GroupEvidence) -> None:
        self.reward[kind] = self.reward.get(kind, 0.0) + evidence.reward_sum
        self.judged[kind] = self.judged.get(kind, 0) + evidence.judged
        self.errors += evidence.errors
        self.causes[evidence.cause.value] = self.causes.get(evidence.cause.value, 0) + 1

    def mean_reward(self, kind: str | None) -> float | None:
        """Mean verified reward of the step (of one kind, or of all), or None if nothing was judged."""
        kinds = self.reward if kind is None else [k for k in self.reward if k == kind]
        judged = sum(self.judged[k] for k in kinds)
        return sum(self.reward[k] for k in kinds) / judged if judged else None

    def shares(self) -> Mapping[str, float]:
        """Share of the step's groups by cause; every cause is present."""
        total = sum(self.causes.values())
        return {cause.value: self.causes.get(cause.value, 0) / total if total else 0.0 for cause in GroupCause}


def mean_rewards(history: list[StepRecord], *, kind: str | None, last: int) -> list[float]:
    """Mean reward of each of the last `last` steps that judged something of this kind, oldest first."""
    means = (record.mean_reward(kind) for record in history)
    return [value for value in means if value is not None][-last:]

"""Groups made of feedback that was collected earlier: ids, policy version and behaviour log-probs as they were sampled.

Owns: which rows may still be learned from, and what another model's attempt lacks. Must not know: the file's format,
critics, training. Every answer is verified anew: a row's own reward is only compared.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from critique_rl.config.feedback import FeedbackConfig
from critique_rl.errors import CheckpointError, DataError
from critique_rl.feedback.rows import FeedbackRow, RolloutRow
from critique_rl.loop.collect import confidence_tokens
from critique_rl.loop.seeds import derive_seed
from critique_rl.protocols import Policy, Reward
from critique_rl.types import Critique, Group, Rollout, ScoreStatus

COUNTED = ("stale", "too_long", "reencoded", "reward_differs", "rows")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recalled:
    """`protocols.GroupState` of a group that was not sampled now."""

    status: str = "recalled"
    cause: str = "recalled"
    upper_bound: float = 1.0
    rung: int = 0
    select: bool = True


class FeedbackGroups:
    """`protocols.FeedbackSource` over rows in memory: one group per task, shuffled anew in every epoch.

    A row whose `policy` is the run's model and that carries ids and log-probs is used as it was sampled. Any other row
    is encoded here and has no behaviour log-probs: it gets directive targets and refinements, and no policy gradient.
    """

    def __init__(
        self,
        rows: Sequence[FeedbackRow],
        *,
        policy: Policy,
        reward: Reward,
        config: FeedbackConfig,
        model: str,
        max_tokens: int,
        seed: int,
    ) -> None:
        """Raises DataError if there is no row."""
        if not rows:
            raise DataError(f"feedback.path = {config.path!r} holds no row: collect some with `critique-rl critique`")
        self._policy = policy
        self._reward = reward
        self._config = config
        self._model = model
        self._max_tokens = max_tokens
        self._seed = seed
        self._by_task: dict[str, list[FeedbackRow]] = {}
        for row in rows:
            self._by_task.setdefault(row.rollout.task.id, []).append(row)
        self._taken = 0
        self._counts: Counter[str] = Counter()

    @property
    def exhausted(self) -> bool:
        return self._taken >= len(self._by_task) * self._config.epochs

    def batch(self, size: int) -> list[Group]:
        """The next groups that still have a row to learn from; fewer at the end."""
        groups: list[Group] = []
        while len(groups) < size and not self.exhausted:
            epoch, position = divmod(self._taken, len(self._by_task))
            self._taken += 1
            group = self._group(self._order(epoch)[position])
            if group is not None:
                groups.append(group)
        return groups

    def counts(self) -> Mapping[str, float]:
        """Rows so far: used, left out as stale or too long, encoded here, and those whose reward was different."""
        return {f"feedback/{name}": float(self._counts[name]) for name in COUNTED}

    def state_dict(self) -> dict[str, object]:
        return {"taken": self._taken, "counts": dict(self._counts), "tasks": len(self._by_task)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Raises CheckpointError if the file has other tasks than the run began with."""
        if state.get("tasks") != len(self._by_task):
            raise CheckpointError(
                f"feedback.path = {self._config.path!r} has {len(self._by_task)} tasks, and had {state.get('tasks')} "
                "when the run began: resume with the same file"
            )
        self._taken = cast(int, state["taken"])
        self._counts = Counter(cast("dict[str, int]", state["counts"]))

    def _order(self, epoch: int) -> list[str]:
        names = list(self._by_task)
        order = np.random.default_rng(derive_seed(self._seed, epoch, "feedback")).permutation(len(names))
        return [names[i] for i in order]

    def _group(self, task_id: str) -> Group | None:
        rollouts: dict[str, Rollout] = {}
        critiques: dict[str, list[Critique]] = {}
        rows = self._by_task[task_id]
        task = rows[0].rollout.task
        for row in rows:
            rollout = self._rollout(row.rollout)
            if rollout is None:
                continue
            rollouts.setdefault(rollout.id, rollout)
            critiques.setdefault(rollout.id, []).append(replace(row.critique, rollout_id=rollout.id))
            self._counts["rows"] += 1
        if not rollouts:
            return None
        kept = tuple(rollouts.values())
        scores = tuple(self._reward.score(task, rollout.text) for rollout in kept)
        known = {row.rollout.id: row.rollout.score for row in rows}
        for rollout, score in zip(kept, scores, strict=True):
            earlier = known[rollout.id]
            if earlier is not None and earlier.status is not ScoreStatus.ERROR and earlier.correct != score.correct:
                self._counts["reward_differs"] += 1
        joined = {name: _joined(several) for name, several in critiques.items()}
        wrong = {r.id for r, s in zip(kept, scores, strict=True) if not s.correct}
        return Group(
            task=task,
            rollouts=kept,
            scores=scores,
            plateaued=True,
            # A right attempt needs no refinement, whatever was said of it.
            critiques={name: critique for name, critique in joined.items() if name in wrong},
            confidence_tokens=confidence_tokens(kept, scores, decode=self._policy.decode),
        )

    def _rollout(self, row: RolloutRow) -> Rollout | None:
        own = row.policy == self._model and bool(row.completion_ids) and bool(row.prompt_ids)
        # Ids mean nothing to a tokenizer that reads them otherwise.
        own = own and self._policy.decode(row.completion_ids).strip() == row.attempt.strip()
        if own and abs(self._policy.version - row.policy_version) > self._config.max_staleness:
            self._counts["stale"] += 1
            return None
        completion_ids = row.completion_ids if own else self._policy.encode_completion(row.attempt)
        if len(completion_ids) > self._max_tokens:
            self._counts["too_long"] += 1
            return None
        self._counts["reencoded"] += not own
        return Rollout(
            id=row.id,
            task_id=row.task.id,
            prompt_ids=row.prompt_ids if own else self._policy.encode(row.task.messages),
            completion_ids=completion_ids,
            behaviour_logprobs=row.behaviour_logprobs if own else (),
            text=row.attempt,
            finished=row.finished,
            policy_version=row.policy_version if own else self._policy.version,
        )


def _joined(critiques: Sequence[Critique]) -> Critique:
    """Several critics' words about one attempt as one critique; what failed adds nothing."""
    if len(critiques) == 1:
        return critiques[0]
    useful = [c for c in critiques if c.directives] or list(critiques[:1])
    return replace(
        useful[0],
        critic="+".join(dict.fromkeys(c.critic for c in useful)),
        directives=tuple(d for c in useful for d in c.directives),
        dropped=tuple(pair for c in critiques for pair in c.dropped),
    )

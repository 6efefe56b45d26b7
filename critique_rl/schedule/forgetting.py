"""When training on one task has cost an earlier one more than was to be expected, and what is done about it.

Owns: what each finished task could do when its own training ended, what its loss may come to, and which tasks are
replayed. Must not know: how success is measured, batches, stages; a later stage goes on from an earlier one's state.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple, cast

from critique_rl.errors import CheckpointError, ConfigError
from critique_rl.stats.transfer import TransferMatrix

Action = Literal["replay", "stop", "warn"]


Level = tuple[float, float]
"""Held-out success of one task in [0, 1], and its standard error."""


class Effect(NamedTuple):
    """What the training at hand is predicted to do to a task's success: negative is a loss."""

    change: float
    se: float


NO_EFFECT = Effect(0.0, 0.0)


def expected_effects(matrix: TransferMatrix, trained: Sequence[str], tasks: Sequence[str]) -> dict[str, Effect]:
    """What training on `trained`, in equal parts, is predicted to do to each other task: the mean of D[k, j] over them.

    Errors: ConfigError for a task that the matrix does not have.
    """
    missing = sorted(set(tasks) - set(matrix.tasks))
    if missing:
        raise ConfigError(
            f"forgetting.transfer knows nothing of {missing[0]!r}; it has {', '.join(matrix.tasks)}: measure it anew, "
            "or remove the key"
        )
    rows = [matrix.tasks.index(name) for name in trained]
    effects: dict[str, Effect] = {}
    for name in tasks:
        j = matrix.tasks.index(name)
        se = 0.0 if matrix.se is None else float((matrix.se[rows, j] ** 2).sum() ** 0.5) / len(rows)
        base_se = 0.0 if matrix.base_se is None else float(matrix.base_se[j])
        if name not in trained:
            effects[name] = Effect(float(matrix.effect[rows, j].mean()), math.hypot(se, base_se))
    return effects


@dataclass(slots=True, kw_only=True)
class _Finished:
    """`success`, `se`: when the task's own training ended. `change`, `change_se`: predicted since. `lost`: by now."""

    success: float
    se: float
    change: float = 0.0
    change_se: float = 0.0
    lost: float = 0.0
    allowed: float = 0.0
    forgotten: bool = False

    def add(self, effect: Effect) -> None:
        self.change += effect.change
        self.change_se = math.hypot(self.change_se, effect.se)


class ForgettingGuard:
    """Compares each finished task with what it could do when its training ended, at every evaluation.

    A task is forgotten when its loss exceeds max(0, predicted loss) by more than `standard_errors` of all that is
    measured. `effects` are of the tasks `trained` now on each other one; `finished` were trained before this run.
    """

    def __init__(
        self,
        *,
        trained: Sequence[str],
        finished: Sequence[str] = (),
        effects: Mapping[str, Effect] | None = None,
        action: Action = "replay",
        replay_share: float = 0.2,
        standard_errors: float = 2.0,
    ) -> None:
        self._trained = tuple(trained)
        self._effects = dict(effects or {})
        self._action: Action = action
        self._share = replay_share
        self._limit = standard_errors
        self._known: dict[str, _Finished | None] = dict.fromkeys(finished)  # None: from the first evaluation on
        self._told: list[str] = []

    def observe(self, levels: Mapping[str, Level]) -> None:
        """One evaluation of the policy as it is now, by task."""
        for name, (success, se) in levels.items():
            if name in self._trained:
                self._known[name] = _Finished(success=success, se=se)
            elif name in self._known:
                self._compare(name, success, se)

    def replayed(self) -> Mapping[str, float]:
        """The share of a batch that each forgotten task is to have; empty while there is none."""
        names = [
            name
            for name, task in self._known.items()
            if task is not None and task.forgotten and name not in self._trained and self._action == "replay"
        ]
        return {name: self._share / len(names) for name in names}

    @property
    def stopped(self) -> str:
        """Why the run is to end, or ""."""
        names = [name for name, task in self._known.items() if task is not None and task.forgotten]
        return f"forgetting: {', '.join(names)}" if names and self._action == "stop" else ""

    def message(self) -> str | None:
        """What was found since the last call, for a person; else None."""
        told, self._told = "; ".join(self._told), []
        return told or None

    def figures(self) -> Mapping[str, float]:
        """What each finished task has lost, and what it may lose."""
        watched = {n: task for n, task in self._known.items() if task is not None and n not in self._trained}
        lost = {f"forgetting/{name}/lost": task.lost for name, task in watched.items()}
        return lost | {f"forgetting/{name}/allowed": task.allowed for name, task in watched.items()}

    def state_dict(self) -> dict[str, object]:
        """Plain JSON."""
        known = {name: None if task is None else asdict(task) for name, task in self._known.items()}
        return {"trained": list(self._trained), "known": known}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from `state_dict()`: of this run, or of one that trained on other tasks, whose levels then count as
        finished. Errors: CheckpointError."""
        try:
            known = {
                name: None if task is None else _Finished(**cast("Mapping[str, Any]", task))
                for name, task in cast("Mapping[str, object]", state["known"]).items()
            }
            earlier = tuple(cast("Sequence[str]", state["trained"]))
        except (KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"the checkpoint's memory of finished tasks cannot be read: {error}") from None
        self._known = {**self._known, **known} if earlier != self._trained else known
        if earlier != self._trained:
            for name, task in self._known.items():
                if task is not None:
                    task.add(self._effects.get(name, NO_EFFECT))

    def _compare(self, name: str, success: float, se: float) -> None:
        task = self._known[name]
        if task is None:
            task = _Finished(success=success, se=se)
            task.add(self._effects.get(name, NO_EFFECT))
            self._known[name] = task
        task.lost = task.success - success
        task.allowed = max(0.0, -task.change) + self._limit * math.hypot(task.se, se, task.change_se)
        if task.forgotten or task.lost <= task.allowed:
            return
        task.forgotten = True
        done = {
            "replay": f"it is replayed from now on, with {self._share:.0%} of each batch for all that is forgotten",
            "stop": "the run stops",
            "warn": "training goes on",
        }
        self._told.append(
            f"{name} is forgotten: {task.success:.1%} when its training ended, {success:.1%} now; the change "
            f"predicted was {task.change:+.1%}, and a loss of {task.allowed:.1%} would still pass; {done[self._action]}"
        )

"""What each objective of a run gives to each rollout of a group, on the scale that it is combined on.

Owns: measuring, declared ranges, conditions, and what becomes of a missing value. Must not know: how objectives are
combined. A value that is not a finite number stops the step with the objective's and the rollout's name.
"""

from __future__ import annotations

import importlib
import inspect
import math
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import SupportsFloat, assert_never, cast

from critique_rl.config import objective_sources as kinds
from critique_rl.config.objectives import ObjectivesConfig
from critique_rl.errors import ConfigError, DataError
from critique_rl.protocols import Reward
from critique_rl.rewards.confidence import OBJECTIVE
from critique_rl.types import CriticOutcome, Critique, Group, Score, ScoreStatus, Task

Values = list[float | None]
Measure = Callable[[Group, int], object]
"""(group, index of a rollout) -> a number, or None where nothing is known."""

_ROUNDING = 1e-9


class ObjectiveReader:
    """Measures the objectives of [objectives.of], in its order."""

    def __init__(self, config: ObjectivesConfig, reward: Reward) -> None:
        """`reward` judges by every name of the run. Raises ConfigError for a function that is not there."""
        self.names = tuple(config.of)
        self._kinds = config.of
        self._fill = 0.0 if config.missing == "zero" else None
        self._measures = {name: _measure(name, kind, reward) for name, kind in config.of.items()}

    def read(self, group: Group) -> list[Values]:
        """One row a rollout, one value an objective; all None where the task's verifier failed.

        Raises DataError for a value that is no number, not finite, or outside its declared range, and for a function
        that raised.
        """
        return [
            [None] * len(self.names) if score.status is ScoreStatus.ERROR else self._row(group, i)
            for i, score in enumerate(group.scores)
        ]

    def _row(self, group: Group, i: int) -> Values:
        found = {name: self._value(name, group, i) for name in self.names}
        return [self._conditioned(name, found) for name in self.names]

    def _conditioned(self, name: str, found: Mapping[str, float | None]) -> float | None:
        kind = self._kinds[name]
        if kind.only_if is None or found[name] is None:
            return found[name]
        other = found[kind.only_if]
        if other is None:
            return None
        return found[name] if other >= (1.0 if kind.threshold is None else kind.threshold) else 0.0

    def _value(self, name: str, group: Group, i: int) -> float | None:
        rollout, kind = group.rollouts[i], self._kinds[name]
        where = f"objectives.of.{name} for rollout {rollout.id!r} of task {group.task.id!r}"
        try:
            raw = self._measures[name](group, i)
        except Exception as error:  # a function of the user's, or a reward: whatever it is, the step cannot go on
            if kind.source != "python":
                raise
            raise DataError(
                f"{where}: {kind.function} raised {type(error).__name__}: {error}; mend it, or have it return None "
                "where it has nothing to say"
            ) from error
        if raw is None:
            return self._fill
        value = _number(raw)
        if not math.isfinite(value):
            raise DataError(f"{where} is {raw!r:.80}; wanted a finite number, or None where it has nothing to say")
        return value if kind.source != "python" else _scaled(value, kind, where)


def _scaled(value: float, kind: kinds.PythonObjectiveConfig, where: str) -> float:
    if kind.low is None or kind.high is None:
        return value
    share = (value - kind.low) / (kind.high - kind.low)
    if not -_ROUNDING <= share <= 1 + _ROUNDING:
        raise DataError(f"{where} is {value:g}, and low = {kind.low:g}, high = {kind.high:g}; correct one of them")
    return min(1.0, max(0.0, share))


def _number(raw: object) -> float:
    try:
        return float(cast(SupportsFloat, raw)) if not isinstance(raw, (str, bytes)) else math.nan
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _measure(name: str, kind: kinds.ObjectiveConfig, reward: Reward) -> Measure:
    match kind:
        case kinds.VerifierObjectiveConfig():
            return lambda group, i: group.scores[i].reward
        case kinds.RewardObjectiveConfig():
            return lambda group, i: _judged(
                reward.score(replace(group.task, verifier=kind.reward), group.rollouts[i].answer_text)
            )
        case kinds.LengthObjectiveConfig():
            return lambda group, i: _short(group.rollouts[i].own_tokens, kind)
        case kinds.ConfidenceObjectiveConfig():
            return lambda group, i: group.scores[i].objectives.get(OBJECTIVE)
        case kinds.CriticObjectiveConfig():
            return lambda group, i: _criticised(group.critiques.get(group.rollouts[i].id), kind.criterion)
        case kinds.PayoffObjectiveConfig():
            return lambda group, i: _paid(group.scores[i], group.rollouts[i].answer_text, kind)
        case kinds.PythonObjectiveConfig():
            function = _load(kind.function, where=f"objectives.of.{name}.function")
            return lambda group, i: function(group.task, group.rollouts[i].answer_text)
        case _:
            assert_never(kind)


def _judged(score: Score) -> float | None:
    return None if score.status is ScoreStatus.ERROR else score.reward


def _short(tokens: int, kind: kinds.LengthObjectiveConfig) -> float:
    over = tokens - kind.target_tokens
    if over <= 0:
        return 1.0
    return max(0.0, 1 - over / kind.soft_tokens) if kind.soft_tokens else 0.0


def _paid(score: Score, text: str, kind: kinds.PayoffObjectiveConfig) -> float:
    if score.correct:
        return kind.correct
    return kind.abstain if re.fullmatch(kind.abstains, text.strip()) else kind.wrong


def _criticised(critique: Critique | None, criterion: str | None) -> float | None:
    """Never 0 for a critic that was not asked, had nothing to say, or is not trusted: its scores are then not there."""
    if critique is None or critique.outcome is not CriticOutcome.OK:
        return None
    values = [e.value for e in critique.evaluative if criterion in (None, e.criterion)]
    return sum(values) / len(values) if values else None


def _load(path: str, *, where: str) -> Callable[[Task, str], object]:
    module, _, function = path.partition(":")
    if os.getcwd() not in sys.path:
        # Behind everything else, so that a file beside the run file hides no installed module.
        sys.path.append(os.getcwd())
    try:
        found: object = getattr(importlib.import_module(module), function, None)
    except Exception as error:  # importing runs the user's file, which may raise anything
        raise ConfigError(f"{where} = {path!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not callable(found):
        what = "is not there" if found is None else f"is {type(found).__name__}, no function"
        raise ConfigError(f"{where} = {path!r}: {function} {what}; define it in {module}, or name another one")
    try:
        inspect.signature(found).bind(object(), "")
    except TypeError:
        raise ConfigError(f"{where} = {path!r} cannot be called with (task, text); give it these two") from None
    except ValueError:
        pass  # some built-in callables have no signature to look at
    return found

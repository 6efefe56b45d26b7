"""What a run is made of: every live object behind its protocol.

Must not know: any concrete critic, engine, policy or method; build.py puts them in.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from critique_rl.prompting.template import PromptTemplate
from critique_rl.protocols import (
    Algorithm,
    Critic,
    FeedbackSource,
    Guards,
    Plateau,
    Policy,
    Reward,
    RolloutEngine,
    TaskSource,
    TeacherGate,
    Tracker,
    Trust,
)
from critique_rl.types import Refinement, Rollout, Task, TokenIds, TrainSample


class ChannelPaces(Protocol):
    """What the directive channels weigh as the run goes on; only its memory and its brake concern the loop."""

    def back_off(self) -> None: ...

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


class AttemptMemory(Protocol):
    """Verified refinements of prompts that still fail by themselves; its state is plain JSON."""

    def note(self, task: Task, refinement: Refinement, *, step: int) -> None: ...

    def recall(self, task_id: str, *, step: int) -> Refinement | None:
        """The one to inject on this visit, with the rung that it was sampled on, or None."""
        ...

    def discard(self, task_id: str, completion_ids: TokenIds) -> None: ...

    def visited(self, task_id: str) -> None: ...

    def unsolved(self, *, step: int) -> Sequence[Task]:
        """The tasks that something is kept for, longest not visited first."""
        ...

    def forget(self, task_id: str) -> None: ...

    def counts(self) -> Mapping[str, float]: ...

    def mark(self) -> None: ...

    def rollback(self) -> None: ...

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


class CritiquePredictor(Protocol):
    """Makes critiques something to be predicted, beside all that a method has stamped."""

    def add(self, samples: Sequence[TrainSample], critiques: Sequence[Rollout]) -> list[TrainSample]:
        """The samples with the critiques behind them, each a completion whose log-probs nobody knows."""
        ...


class Objectives(Protocol):
    """What the several rewards of the latest step came to, and what a person should know of them, once."""

    def figures(self) -> Mapping[str, float]: ...

    def messages(self) -> Sequence[str]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """Every live object of a run, behind its protocol; what a method or a run does without is None.

    `feedback` takes the place of rollouts and critic; `trust` judges a critic that is asked during the run; `score_map`
    turns a critic's mean score into the probability that it was right, as an earlier run measured it; `closing` is what
    to call when the run has ended.
    """

    tasks: TaskSource
    policy: Policy
    engine: RolloutEngine
    reward: Reward
    plateau: Plateau
    algorithm: Algorithm
    tracker: Tracker
    critic: Critic | None = None
    feedback: FeedbackSource | None = None
    trust: Trust | None = None
    guards: Guards | None = None
    teacher_gate: TeacherGate | None = None
    paces: ChannelPaces | None = None
    objectives: Objectives | None = None
    replay: AttemptMemory | None = None
    predictor: CritiquePredictor | None = None
    score_map: Callable[[float], float] | None = None
    refine_template: PromptTemplate | None = None
    teacher_template: PromptTemplate | None = None
    closing: tuple[Callable[[], None], ...] = ()

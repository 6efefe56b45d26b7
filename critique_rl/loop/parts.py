"""What a run is made of: every live object behind its protocol.

Must not know: any concrete critic, engine, policy or method; build.py puts them in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
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
from critique_rl.stats.grams import Grams
from critique_rl.types import Array, Group, Knobs, Refinement, Rollout, Task, TokenIds, TrainSample, Turn


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


class WaitingPrompts(Protocol):
    """Prompts from which nothing could be learned, until something can; its state is plain JSON."""

    def put(self, task: Task, *, step: int) -> None: ...

    def forget(self, task_id: str) -> None: ...

    def waiting(self, *, step: int, apart_from: Collection[str]) -> Sequence[Task]:
        """Those that may be asked again now, longest not asked first."""
        ...

    def __len__(self) -> int: ...

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


class Environment(Protocol):
    """What answers the policy's turns, and so makes episodes of rollouts."""

    @property
    def max_turns(self) -> int: ...

    @property
    def max_turn_tokens(self) -> int | None:
        """Longest turn, or None for what is left of the episode."""
        ...

    @property
    def stop(self) -> Sequence[str]:
        """Texts that end a turn as an end token does."""
        ...

    def answer(self, task: Task, turns: Sequence[Turn]) -> Turn:
        """The last of `turns` with its action, argument, observation and documents; the episode ends with a turn that
        gets no observation."""
        ...

    def penalty(self, task: Task, turns: Sequence[Turn]) -> float:
        """What the reward of an episode that is not right loses for how it was played, 0 or more."""
        ...


class Skills(Protocol):
    """A memory that stands in prompts and learns from what becomes of them; its state is plain JSON."""

    @property
    def version(self) -> int:
        """Grows with every change of what the memory holds."""
        ...

    @property
    def writer_tokens(self) -> int:
        """Completion tokens of whoever writes the skills, in the whole run."""
        ...

    def dress(self, tasks: Sequence[Task], step: int) -> Sequence[Task]:
        """Training tasks with skills in their messages, before the question; one version serves a whole step."""
        ...

    def dress_held_out(self, tasks: Sequence[Task]) -> Sequence[Task]:
        """The same for evaluation; nothing is counted."""
        ...

    def note(self, groups: Sequence[Group]) -> None:
        """A step's groups, verified and criticised."""
        ...

    def evolve(self, step: int) -> object:
        """Make the next version, where it is due."""
        ...

    def bank_json(self) -> Mapping[str, object]: ...

    def figures(self) -> Mapping[str, float]: ...

    def messages(self) -> Sequence[str]:
        """What a person should know since the last call."""
        ...

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


class Monitors(Protocol):
    """Measures the policy's answers, batch by batch and on fixed tasks; its state is plain JSON and does not grow."""

    def observe(self, step: int, groups: Sequence[Group]) -> None:
        """A step's rollouts, before anything is filtered out."""
        ...

    def probe_due(self, step: int, *, last: bool = False) -> bool:
        """Whether the fixed tasks are to be asked before this step; `last`: the run ends here."""
        ...

    def observe_probe(self, step: int, groups: Sequence[Group]) -> None: ...

    def figures(self) -> Mapping[str, float]:
        """Of the latest step's batch."""
        ...

    def probe_figures(self) -> Mapping[str, float]:
        """Of the latest probe."""
        ...

    def messages(self) -> Sequence[str]:
        """What a person should know since the last call."""
        ...

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


class ExplorationGuard(Protocol):
    """Watches how a policy explores and turns knobs, one at a time; its state is plain JSON and does not grow."""

    def observe(
        self,
        step: int,
        *,
        entropy: float | None,
        success: float | None,
        truncated: float | None,
        p95_tokens: float | None,
        zero_variance: float | None,
        strategy_entropy: float | None,
    ) -> None:
        """One step's rollouts, before anything is filtered out; what follows holds from the next step."""
        ...

    def observe_probe(self, *, pass_at_1: float, pass_at_k: float, tasks: int) -> None: ...

    def note_training(self, *, grad_norm: float, clip_fraction: float | None) -> None: ...

    def note_checkpoint(self, step: int) -> int | None:
        """One is about to be written; returns the one that must be kept to go back to."""
        ...

    def take_rollback(self) -> int | None:
        """The checkpoint to go back to now, once; else None."""
        ...

    @property
    def knobs(self) -> Knobs: ...

    @property
    def stop_reason(self) -> str:
        """Why the run is to end, or ""."""
        ...

    def messages(self) -> Sequence[str]:
        """What a person should know since the last call."""
        ...

    def figures(self) -> Mapping[str, float]: ...

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


class Phases(Protocol):
    """Says which tokens are plans and when they are learned from more; its state is plain JSON and does not grow."""

    @property
    def grams(self) -> Grams | None:
        """The phrases to look for, or None while they are not known."""
        ...

    def keep(self, solutions: Sequence[str]) -> None:
        """Right answers of a step."""
        ...

    def observe(
        self,
        *,
        masks: Mapping[str, Array],
        execution_perplexity: float | None,
        formed: float | None,
        success: float | None,
        strategy_entropy: float | None,
        figures: Mapping[str, float],
    ) -> None:
        """One step's rollouts, before any is dropped, and their masks by rollout id."""
        ...

    def messages(self) -> Sequence[str]:
        """What a person should know since the last call."""
        ...

    def figures(self) -> Mapping[str, float]: ...

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


class Forgetting(Protocol):
    """Watches tasks that were trained before; its state is plain JSON."""

    def observe(self, levels: Mapping[str, tuple[float, float]]) -> None:
        """Held-out success of each task, with its standard error, under the policy of the moment."""
        ...

    @property
    def stopped(self) -> str:
        """Why the run is to end, or ""."""
        ...

    def message(self) -> str | None:
        """What was found since the last call, for a person; else None."""
        ...

    def figures(self) -> Mapping[str, float]: ...

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


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
    monitors: Monitors | None = None
    skills: Skills | None = None
    recycle: WaitingPrompts | None = None
    predictor: CritiquePredictor | None = None
    environment: Environment | None = None
    exploration: ExplorationGuard | None = None
    phases: Phases | None = None
    forgetting: Forgetting | None = None
    score_map: Callable[[float], float] | None = None
    refine_template: PromptTemplate | None = None
    teacher_template: PromptTemplate | None = None
    closing: tuple[Callable[[], None], ...] = ()

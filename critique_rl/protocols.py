"""What each stage of the loop must be able to do: signatures only, one protocol a stage, in loop order.

Owns: the seams. An implementation lives in the plural folder of the same name; tests fake an engine's `generate` or a
critic's `review`, nothing else. Must not know: any implementation, torch, config.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from enum import StrEnum
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

from critique_rl.types import (
    Array,
    Completion,
    CriticRequest,
    Critique,
    Group,
    Knobs,
    Message,
    Score,
    Task,
    TeacherTargets,
    TokenIds,
    TrainSample,
)


class TaskSource(Protocol):
    """Where prompts come from. `batch` is a pure function of (seed, step), so a resumed run sees the same prompts."""

    def batch(self, step: int, size: int, *, seed: int) -> Sequence[Task]: ...

    def held_out(self) -> Sequence[Task]:
        """Tasks that never occur in `batch`."""
        ...


class RolloutEngine(Protocol):
    """Samples completions. Equal arguments and weights give equal completions."""

    def generate(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        on_done: Callable[[int, Completion], None] | None = None,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        """The i-th completion answers the i-th prompt. `on_done(i, completion)` is called on the caller's thread as
        soon as a completion is finished, while others are still being sampled.

        A completion ends, finished, with the first token at which the text of its ids so far holds one of `stop`; that
        token is kept whole. Where none is met, nothing differs from a call without them."""
        ...


class Reward(Protocol):
    """Judges one completion against its task; never raises for bad model output."""

    def score(self, task: Task, text: str) -> Score: ...


class Critic(Protocol):
    """Reviews attempts; the i-th critique answers the i-th request. Failure is an outcome, not an exception:
    only `CriticSetupError` may be raised."""

    name: str

    def review(self, requests: Sequence[CriticRequest]) -> list[Critique]: ...

    def close(self) -> None: ...


@runtime_checkable
class StreamingCritic(Critic, Protocol):
    """A critic that works while its caller does something else."""

    def submit(self, request: CriticRequest) -> Future[Critique]:
        """Send one request now. The future ends with a critique, or with CriticSetupError; cancelling it gives up the
        request."""
        ...


class GroupState(Protocol):
    """Where a prompt stands after its latest group: `select` says whether the critic should be asked about it now."""

    @property
    def status(self) -> str: ...

    @property
    def cause(self) -> str: ...

    @property
    def upper_bound(self) -> float:
        """Upper confidence bound on the prompt's success rate under the present policy."""
        ...

    @property
    def select(self) -> bool: ...

    @property
    def rung(self) -> int:
        """Which step of the guidance ladder is to be used, from 0."""
        ...


class Plateau(Protocol):
    """Watches prompts and the run for stalls; its state is plain JSON and travels in checkpoints."""

    def observe(
        self,
        step: int,
        task_id: str,
        scores: Sequence[Score],
        finished: Sequence[bool],
        *,
        kind: str = "",
        verifier: str = "",
    ) -> GroupState: ...

    def wants_verifier_check(self, verifier: str, step: int) -> bool:
        """Whether this verifier should be tried on reference answers before the step's groups are observed."""
        ...

    def note_verifier(self, verifier: str, step: int, *, accepts: bool | None, found: str = "") -> None:
        """What the check came to (None: nothing can be said), in words for a person."""
        ...

    def alarms(self) -> Sequence[tuple[str, str]]:
        """What is wrong with the whole run since the last call: (cause, sentence for a person)."""
        ...

    def note_critiqued(self, task_id: str, step: int) -> None: ...

    def note_rescued(self, task_id: str, step: int) -> None: ...

    @property
    def first_stall_step(self) -> int | None: ...

    def counts(self) -> Mapping[str, float]: ...

    def message(self) -> str: ...

    def mark(self) -> None:
        """Remember this moment; the cost does not grow with the number of prompts."""
        ...

    def rollback(self) -> None:
        """Undo everything since `mark`, once."""
        ...

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


class Trust(Protocol):
    """Judges the critic by what its words and scores turn out to be worth; its state is plain JSON."""

    @property
    def asks_critic(self) -> bool: ...

    @property
    def uses_scores(self) -> bool: ...

    @property
    def controls_wanted(self) -> int:
        """How many second attempts under a bare verdict are still wanted."""
        ...

    @property
    def wants_probe(self) -> bool:
        """Whether critiques of right attempts are still wanted, to see if the critic's scores tell right from wrong."""
        ...

    def note_refinements(self, *, critiqued: Sequence[bool], control: Sequence[bool]) -> None: ...

    def note_scores(self, values: Sequence[float], correct: Sequence[bool]) -> None: ...

    def note_cost(self, *, usd: float | None, tokens: int) -> None: ...

    def verdict(self) -> str | None:
        """A message for a person when something was decided since the last call, else None."""
        ...

    def figures(self) -> Mapping[str, float]: ...

    def mark(self) -> None:
        """Remember this moment at a constant cost."""
        ...

    def rollback(self) -> None:
        """Undo everything since `mark`, once."""
        ...

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


class Guards(Protocol):
    """Watches the policy's own rollouts and says whether feedback may be injected; its state is plain JSON."""

    def observe(
        self,
        *,
        entropy: float | None,
        p50_tokens: float | None,
        p95_tokens: float | None,
        truncated: float | None,
        success: float | None,
        injecting: bool,
        conflict: float | None = None,
        success_by_kind: Mapping[str, float] | None = None,
    ) -> None:
        """One step's rollouts; `conflict` is the cosine between the gradients of the policy-gradient channel and of
        the directive ones in the training step before them, None where it was not measured; `success_by_kind` holds
        the kinds of task that the step has."""
        ...

    @property
    def allows_injection(self) -> bool: ...

    def message(self) -> str | None:
        """What changed since the last call, for a person; else None."""
        ...

    def figures(self) -> Mapping[str, float]: ...

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


class TeacherGate(Protocol):
    """Says after which steps a slow teacher may follow the policy; its state is plain JSON."""

    def observe(self, *, reward: float | None, p95_tokens: float | None, truncated: float | None) -> bool: ...

    def figures(self) -> Mapping[str, float]: ...

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


class FeedbackSource(Protocol):
    """Groups that were sampled and criticised earlier: what a run without a critic learns from."""

    def batch(self, size: int) -> list[Group]:
        """The next `size` groups, each with its critiques; fewer at the end, none when all are used up."""
        ...

    @property
    def exhausted(self) -> bool: ...

    def counts(self) -> Mapping[str, float]: ...

    def state_dict(self) -> dict[str, object]: ...

    def load_state_dict(self, state: Mapping[str, object]) -> None: ...


class Skipped(StrEnum):
    """Why a step changed no weight."""

    NOTHING_TO_LEARN = "nothing to learn"
    NOT_FINITE = "not finite"


GRADIENT_CONFLICT = "grad/cosine_directive"
"""The diagnostic of a step that measured the cosine between the gradients of its evaluative and directive channels."""


class StepReport(NamedTuple):
    """What one optimiser step did. Losses are the channel's sum over its own global denominator; where `applied` is
    False, `skipped` says why and `reason` says it in words."""

    loss: float
    pg_loss: float
    distill_loss: float
    imitate_loss: float
    grad_norm: float
    trained_tokens: int
    applied: bool
    reason: str
    diagnostics: Mapping[str, float]
    skipped: Skipped | None = None


class Policy(Protocol):
    """The model being trained: encodes prompts, re-scores tokens, takes steps. Blind to critiques."""

    @property
    def version(self) -> int:
        """Number of optimiser steps taken."""
        ...

    def encode(self, messages: Sequence[Message]) -> TokenIds: ...

    def encode_completion(self, text: str) -> TokenIds:
        """Ids of a completion of which only the text is known, with the end token."""
        ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def logprobs(self, prompts: Sequence[TokenIds], completions: Sequence[TokenIds]) -> list[Array]:
        """Log-probs [T] of each completion's tokens under its prompt, no gradient, at the run's temperature."""
        ...

    def topk_logprobs(
        self,
        contexts: Sequence[TokenIds],
        completions: Sequence[TokenIds],
        *,
        k: int,
        who: Literal["policy", "teacher"],
        support: Sequence[TeacherTargets] | None = None,
    ) -> list[TeacherTargets]:
        """Log-probs of `who` for each completion token under its context: at the ids of `support`, else at its own
        top-K. The completions' ids are used as they are, never re-encoded."""
        ...

    def step(self, samples: Sequence[TrainSample], *, refresh_teacher: bool | None = None) -> StepReport:
        """Learn from one batch, in one optimiser step or as many as the run's options say, on the three weight streams;
        skipped (`applied=False`) if nothing carries a gradient.

        `refresh_teacher` says whether a slow teacher follows after it; None leaves that to its own schedule.
        """
        ...

    def set_knobs(self, knobs: Knobs) -> None:
        """What a guard of exploration has changed of the run's options, from now on."""
        ...

    def save(self, directory: Path) -> None: ...

    def restore(self, directory: Path) -> None: ...


class Algorithm(Protocol):
    """Stamps per-token weights and targets on samples; knows neither model nor critic.

    `needs` says which stages the loop must run for it: any of {"critique", "refinement", "teacher"}.
    """

    name: str
    needs: frozenset[Literal["critique", "refinement", "teacher"]]

    def assemble(self, groups: Sequence[Group]) -> list[TrainSample]: ...


class Tracker(Protocol):
    """Receives what happened. `log` gets the scalars of one step; `event` a message a person should see;
    `sample` one JSON-able record of a prompt's whole story (attempts, critiques, refinements, tokens)."""

    def log(self, step: int, values: Mapping[str, float]) -> None: ...

    def event(self, step: int, kind: str, message: str) -> None: ...

    def sample(self, step: int, record: Mapping[str, object]) -> None: ...

    def close(self) -> None: ...

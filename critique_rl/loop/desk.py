"""Where requests wait for the critic: sent as soon as a group is whole, collected when the step needs them.

Owns: the stage's deadline, and late critiques that serve a later step, of this process or of one that resumes the run.
Must not know: which critic answers, training. A critic that cannot stream is asked about everything at once, when the
answers are collected.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, wait
from dataclasses import dataclass, replace
from typing import NamedTuple

from critique_rl.loop.criticize import CriticTally, Question, attach, probe, questions
from critique_rl.loop.waiting import Waiting, waiting_from_json, waiting_to_json
from critique_rl.protocols import Critic, StreamingCritic
from critique_rl.types import CriticOutcome, Critique, Group


@dataclass(frozen=True, slots=True, kw_only=True)
class DeskLimits:
    """`deadline_s` runs from the moment the step has nothing left to do but wait; None waits for every answer.
    A critique that misses it may serve one of the next `late_steps` steps. `others_chars`: one question about all
    failures of a group, as in `questions`."""

    max_attempts: int
    show_reference: bool = False
    deadline_s: float | None = None
    late_steps: int = 0
    others_chars: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Open:
    """`group` is None for a probe. `future` is None where nobody has been asked yet."""

    step: int
    group: Group | None
    question: Question
    future: Future[Critique] | None
    probes: bool | None = None


class Resumed(NamedTuple):
    """Questions that a checkpoint left open: how many were sent again, and how many no step may wait for any more."""

    sent: int
    given_up: int


class Reviewed(NamedTuple):
    """`groups` as they came, with critiques; `late` are groups of earlier steps whose critiques came now; `probes` are
    critiques of attempts that say nothing to the policy, each with whether the attempt was right."""

    groups: list[Group]
    late: list[Group]
    probes: list[tuple[Critique, bool]]
    tally: CriticTally


class CriticDesk:
    """Takes questions during a step and hands out critiques at its end."""

    def __init__(self, critic: Critic, limits: DeskLimits, *, tokens_of: Callable[[str], int] | None = None) -> None:
        """`tokens_of` counts the replies of a critic that states no usage."""
        self._critic = critic
        self._tokens_of = tokens_of
        self._limits = limits
        self._open: list[_Open] = []
        self._mark: list[_Open] | None = None

    @property
    def waiting(self) -> int:
        """Questions that are not answered yet."""
        return len(self._open)

    def ask(self, step: int, group: Group) -> int:
        """Ask about the wrong attempts of a plateaued group; returns how many questions that makes."""
        limits = self._limits
        asked = questions(
            group,
            max_attempts=limits.max_attempts,
            show_reference=limits.show_reference,
            others_chars=limits.others_chars,
        )
        for question in asked:
            self._open.append(_Open(step, group, question, self._sent(question)))
        return len(asked)

    def ask_probes(self, step: int, groups: Sequence[Group]) -> bool:
        """Ask about one right and one wrong attempt, without the verifier's report; False if the step has not both."""
        shown = self._limits.show_reference
        right, wrong = (probe(groups, correct=correct, show_reference=shown) for correct in (True, False))
        if right is None or wrong is None:
            return False
        for question, correct in ((right, True), (wrong, False)):
            self._open.append(_Open(step, None, question, self._sent(question), correct))
        return True

    def collect(self, step: int, groups: Sequence[Group]) -> Reviewed:
        """Wait for this step's critiques up to the deadline, and take in what has come of earlier ones.

        `groups` holds the very objects that were asked about. Raises CriticSetupError, all that a critic may raise.
        """
        ended = self._ended(step)
        reviewed = [attach(group, _of(group, ended)) for group in groups]
        earlier = {id(e.group): e.group for e, _ in ended if e.step < step and e.group is not None}
        late = [
            replace(attach(replace(group, critiques={}), _of(group, ended)), late=True, plateaued=True)
            for group in earlier.values()
        ]
        return Reviewed(
            groups=reviewed,
            late=late,
            probes=[(critique, entry.probes) for entry, critique in ended if entry.probes is not None],
            tally=CriticTally.of([critique for _, critique in ended], tokens_of=self._tokens_of),
        )

    def ask_again(self, step: int) -> Resumed:
        """Before a step asks anything: send what was loaded without its answer, and give up what is too old for it.

        Errors: CriticSetupError, all that a critic may raise.
        """
        kept = [entry for entry in self._open if step - entry.step <= self._limits.late_steps]
        unsent = {id(e) for e in kept if e.future is None or e.future.cancelled()}
        given_up = len(self._open) - len(kept)
        self._open = [replace(e, future=self._sent(e.question)) if id(e) in unsent else e for e in kept]
        return Resumed(len(unsent), given_up)

    def mark(self) -> None:
        """Remember what is open, at a cost of one list entry a question."""
        self._mark = list(self._open)

    def rollback(self) -> None:
        """Give up what was asked since `mark`, and have what was collected since then open again; once."""
        assert self._mark is not None, "rollback without a mark"
        known = set(map(id, self._mark))
        for entry in self._open:
            if id(entry) not in known and entry.future is not None:
                entry.future.cancel()
        self._open, self._mark = self._mark, None

    def state_dict(self) -> dict[str, object]:
        """What is open, as plain JSON; an answer that has come in the meantime is kept with its question."""
        return waiting_to_json([_waiting(e) for e in self._open])

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """The inverse of `state_dict`; nothing is sent before `ask_again`. Errors: CheckpointError."""
        self._open = [
            _Open(one.step, one.group, one.question, _answered(one.answer), one.probes)
            for one in waiting_from_json(state)
        ]

    def _sent(self, question: Question) -> Future[Critique] | None:
        critic = self._critic
        return critic.submit(question.request) if isinstance(critic, StreamingCritic) else None

    def _ended(self, step: int) -> list[tuple[_Open, Critique]]:
        entries, late = self._open, list[_Open]()
        futures = [entry.future for entry in entries if entry.future is not None and entry.step == step]
        if futures:
            wait(futures, timeout=self._limits.deadline_s)
        queued = [entry for entry in entries if entry.future is None]
        reviewed = iter(self._critic.review([e.question.request for e in queued]) if queued else [])
        answered: list[tuple[_Open, Critique]] = []
        for entry in entries:
            if entry.future is None:
                answered.append((entry, next(reviewed)))
            elif entry.future.done():
                answered.append((entry, self._result(entry, entry.future)))
            elif step - entry.step < self._limits.late_steps:
                late.append(entry)
            else:
                entry.future.cancel()
                answered.append((entry, self._timed_out(entry)))
        self._open = late
        return answered

    def _result(self, entry: _Open, future: Future[Critique]) -> Critique:
        try:
            return future.result()
        except CancelledError:
            return self._timed_out(entry)

    def _timed_out(self, entry: _Open) -> Critique:
        limits = self._limits
        late = f" and {limits.late_steps} more steps" if limits.late_steps else ""
        return Critique(
            rollout_id=entry.question.request.rollout_id,
            critic=self._critic.name,
            outcome=CriticOutcome.TIMED_OUT,
            reason=f"no critique within the stage's {limits.deadline_s} s{late}: raise critic.stage_deadline_s",
        )


def _of(group: Group, ended: Sequence[tuple[_Open, Critique]]) -> list[tuple[Question, Critique]]:
    return [(entry.question, critique) for entry, critique in ended if entry.group is group]


def _waiting(entry: _Open) -> Waiting:
    return Waiting(
        step=entry.step,
        question=entry.question,
        group=entry.group,
        probes=entry.probes,
        answer=_answer(entry.future),
    )


def _answer(future: Future[Critique] | None) -> Critique | None:
    """What has come; a future that was cancelled or that failed holds nothing."""
    if future is None or not future.done() or future.cancelled() or future.exception() is not None:
        return None
    return future.result()


def _answered(critique: Critique | None) -> Future[Critique] | None:
    if critique is None:
        return None
    future: Future[Critique] = Future()
    future.set_result(critique)
    return future

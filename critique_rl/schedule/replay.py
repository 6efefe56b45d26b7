"""Verified second attempts of prompts that still fail under the bare prompt, kept until one of them succeeds.

Owns: what is kept, for how long, and which one is chosen. Must not know: where second attempts come from, training.
The choice follows ExGRPO (arXiv 2510.02245), which replays a prompt's lowest-entropy success: here the one that was
likeliest under the bare prompt when it was stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import cast

from pydantic import TypeAdapter

from critique_rl.config.replay import REPLAY
from critique_rl.errors import CheckpointError
from critique_rl.schedule.restoring import restored
from critique_rl.types import CriticOutcome, Critique, Directive, Refinement, Rollout, Score, Task, TokenIds, Turn


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAttempt:
    """One verified second attempt in plain values; log-probs in nats, as they were when it was stored at `step`."""

    step: int
    attempt_id: str
    rollout_id: str
    directive: str
    rung: str
    text: str
    finished: bool
    policy_version: int
    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    guided_logprobs: tuple[float, ...]
    bare_logprobs: tuple[float, ...]
    policy_mask: tuple[bool, ...] = ()
    turns: tuple[Turn, ...] = ()

    @property
    def mean_bare_logprob(self) -> float:
        """Over what the policy wrote itself."""
        own = self.policy_mask or (True,) * len(self.bare_logprobs)
        kept = [logprob for logprob, is_own in zip(self.bare_logprobs, own, strict=True) if is_own]
        return sum(kept) / len(kept)


@dataclass(slots=True, kw_only=True)
class _State:
    """All that a resumed run needs: attempts by task, oldest first, of tasks longest not visited first."""

    attempts: dict[str, list[StoredAttempt]] = field(default_factory=dict[str, list[StoredAttempt]])
    tasks: dict[str, Task] = field(default_factory=dict[str, Task])


_STATE: TypeAdapter[_State] = TypeAdapter(_State)


class Replay:
    """Memory of at most `capacity` second attempts, none older than `max_age_steps`.

    The oldest one leaves when there is no room. One that is recalled stays, so that it can serve the next visit too.
    Raises ValueError for a capacity or age below 1.
    """

    def __init__(self, *, capacity: int, max_age_steps: int) -> None:
        if capacity < 1 or max_age_steps < 1:
            raise ValueError(f"capacity = {capacity}, max_age_steps = {max_age_steps}; wanted both to be at least 1")
        self.capacity = capacity
        self.max_age_steps = max_age_steps
        self._state = _State()
        self._mark: _State | None = None

    def note(self, task: Task, refinement: Refinement, *, step: int) -> None:
        """Keep a verified second attempt; of equal ones the newest is kept.

        Raises ValueError for one that is not verified, or whose log-probs under the bare prompt are not known.
        """
        rollout = refinement.rollout
        if not refinement.score.correct or not rollout.completion_ids:
            raise ValueError(f"second attempt {rollout.id!r} is not verified; only right ones are replayed")
        if len(refinement.bare_logprobs) != len(rollout.completion_ids):
            raise ValueError(
                f"second attempt {rollout.id!r} has {len(refinement.bare_logprobs)} bare log-probs for "
                f"{len(rollout.completion_ids)} tokens; score it under the bare prompt first"
            )
        stored = StoredAttempt(
            step=step,
            attempt_id=refinement.attempt_id,
            rollout_id=rollout.id,
            directive=refinement.critique.directive_text,
            rung=refinement.rung,
            text=rollout.text,
            finished=rollout.finished,
            policy_version=rollout.policy_version,
            prompt_ids=rollout.prompt_ids,
            completion_ids=rollout.completion_ids,
            guided_logprobs=rollout.behaviour_logprobs,
            bare_logprobs=refinement.bare_logprobs,
            policy_mask=rollout.policy_mask,
            turns=rollout.turns,
        )
        known = self._of(task.id)
        self._state.attempts[task.id] = [k for k in known if k.completion_ids != stored.completion_ids] + [stored]
        self._state.tasks[task.id] = task
        if len(self) > self.capacity:
            self._drop_oldest()

    def recall(self, task_id: str, *, step: int) -> Refinement | None:
        """The one attempt to inject on this visit, or None: likeliest when stored, then shorter, then older.

        Its rollout has an id of its own for this step; its log-probs are those of when it was stored.
        """
        self._keep(task_id, [a for a in self._of(task_id) if step - a.step <= self.max_age_steps])
        kept = self._of(task_id)
        if not kept:
            return None
        best = min(kept, key=lambda a: (-a.mean_bare_logprob, len(a.completion_ids), a.step))
        said = (Directive(text=best.directive, critic=REPLAY),) if best.directive else ()
        return Refinement(
            attempt_id=best.attempt_id,
            critique=Critique(
                rollout_id=best.attempt_id, critic=REPLAY, outcome=CriticOutcome.OK, directives=said, cached=True
            ),
            rollout=Rollout(
                id=f"{step}/{task_id}/{REPLAY}",
                task_id=task_id,
                prompt_ids=best.prompt_ids,
                completion_ids=best.completion_ids,
                behaviour_logprobs=best.guided_logprobs,
                text=best.text,
                finished=best.finished,
                policy_version=best.policy_version,
                policy_mask=best.policy_mask,
                turns=best.turns,
            ),
            score=Score(reward=1.0, detail="verified when it was stored"),
            bare_logprobs=best.bare_logprobs,
            rung=best.rung,
        )

    def discard(self, task_id: str, completion_ids: TokenIds) -> None:
        """One attempt may not be trained on any more; others of its task stay."""
        self._keep(task_id, [a for a in self._of(task_id) if a.completion_ids != completion_ids])

    def visited(self, task_id: str) -> None:
        """The task has had its turn: others come first at the next `unsolved`."""
        if task_id in self._state.attempts:
            self._state.attempts[task_id] = self._state.attempts.pop(task_id)

    def unsolved(self, *, step: int) -> list[Task]:
        """The tasks with an attempt that is not too old, longest not visited first."""
        kept = self._state.attempts.items()
        return [self._state.tasks[name] for name, of in kept if step - of[-1].step <= self.max_age_steps]

    def forget(self, task_id: str) -> None:
        """The bare prompt has succeeded: nothing of it is replayed any more."""
        self._state.attempts.pop(task_id, None)
        self._state.tasks.pop(task_id, None)

    def __len__(self) -> int:
        return sum(len(kept) for kept in self._state.attempts.values())

    def counts(self) -> Mapping[str, float]:
        """For the trackers."""
        return {"replay/attempts": float(len(self)), "replay/prompts": float(len(self._state.attempts))}

    def mark(self) -> None:
        """Remember this moment at a cost of one list entry an attempt."""
        attempts = {task_id: list(kept) for task_id, kept in self._state.attempts.items()}
        self._mark = _State(attempts=attempts, tasks=dict(self._state.tasks))

    def rollback(self) -> None:
        """Undo everything since `mark`, once."""
        assert self._mark is not None, "rollback without a mark"
        self._state, self._mark = self._mark, None

    def state_dict(self) -> dict[str, object]:
        """All attempts as plain JSON values."""
        return cast("dict[str, object]", _STATE.dump_python(self._state, mode="json"))

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """The inverse of `state_dict`. Raises CheckpointError for anything that it did not write."""
        found = restored(_STATE, state, what="replay memory")
        if found.attempts.keys() != found.tasks.keys() or not all(found.attempts.values()):
            raise CheckpointError(
                f"replay memory in the checkpoint: attempts of {len(found.attempts)} tasks came with "
                f"{len(found.tasks)} tasks; wanted some of each; resume from an older checkpoint"
            )
        self._state, self._mark = found, None

    def _of(self, task_id: str) -> list[StoredAttempt]:
        return self._state.attempts.get(task_id, [])

    def _keep(self, task_id: str, kept: list[StoredAttempt]) -> None:
        if kept:
            self._state.attempts[task_id] = kept
        else:
            self.forget(task_id)

    def _drop_oldest(self) -> None:
        task_id = min(self._state.attempts, key=lambda name: self._state.attempts[name][0].step)
        self._keep(task_id, self._state.attempts[task_id][1:])

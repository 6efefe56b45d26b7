"""Attempts that may become skills: kept by kind of task until the bank next evolves.

Owns: what is remembered of an attempt, how many, and which of them are learned from. Failures go by the success flag: a
shaped reward of a failed attempt may have any sign. Must not know: how skills are written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, cast

from critique_rl.memory.dressing import shown_to, undressed
from critique_rl.memory.retrieval import category_of
from critique_rl.memory.skill import Split
from critique_rl.types import CriticOutcome, Critique, Group, Message, Rollout, Score, ScoreStatus, Task

PER_KIND = 32
"""Attempts kept of one kind and outcome; the oldest leaves."""
Item = TypeVar("Item")


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """One attempt at a task without its skills: `shown` are those that it had, `said` what a critic directed."""

    id: str
    task: Task
    attempt: str
    correct: bool
    reward: float
    said: tuple[str, ...] = ()
    shown: tuple[str, ...] = ()
    split: Split = "train"
    detail: str = ""

    @property
    def score(self) -> Score:
        """What a writer may know of the verifier's judgement."""
        return Score(reward=1.0 if self.correct else min(self.reward, 0.99), status=ScoreStatus.OK, detail=self.detail)

    def to_json(self) -> dict[str, object]:
        task = self.task
        return {
            "id": self.id,
            "task": {
                "id": task.id,
                "messages": [[m.role, m.content] for m in task.messages],
                "answer": task.answer,
                "verifier": task.verifier,
                "kind": task.kind,
            },
            "attempt": self.attempt,
            "correct": self.correct,
            "reward": self.reward,
            "said": list(self.said),
            "shown": list(self.shown),
            "split": self.split,
            "detail": self.detail,
        }


def episode_from_json(value: Mapping[str, object]) -> Episode:
    """What `to_json` wrote."""
    task = cast("Mapping[str, object]", value["task"])
    turns = cast("list[tuple[str, str]]", task["messages"])
    return Episode(
        id=str(value["id"]),
        task=Task(
            id=str(task["id"]),
            messages=tuple(Message(role=role, content=content) for role, content in turns),  # pyright: ignore[reportArgumentType]
            answer=str(task["answer"]),
            verifier=str(task["verifier"]),
            kind=str(task["kind"]),
        ),
        attempt=str(value["attempt"]),
        correct=bool(value["correct"]),
        reward=float(cast(float, value["reward"])),
        said=tuple(cast("list[str]", value["said"])),
        shown=tuple(cast("list[str]", value["shown"])),
        split=cast(Split, value["split"]),
        detail=str(value["detail"]),
    )


class EpisodePool:
    """Attempts since the last evolution, and how often each kind succeeded."""

    def __init__(self) -> None:
        self._failures: dict[str, list[Episode]] = {}
        self._successes: dict[str, list[Episode]] = {}
        self._right: dict[str, int] = {}
        self._tried: dict[str, int] = {}

    def count(self, task: Task, scores: Sequence[Score]) -> None:
        """Attempts that a verifier judged, for the success of their kind."""
        judged = [score for score in scores if score.status is not ScoreStatus.ERROR]
        kind = category_of(task)
        self._tried[kind] = self._tried.get(kind, 0) + len(judged)
        self._right[kind] = self._right.get(kind, 0) + sum(score.correct for score in judged)

    def add(self, episode: Episode) -> None:
        """Keep one attempt; an equal one at the same task is kept once, the one that a critic spoke to."""
        kept = (self._successes if episode.correct else self._failures).setdefault(category_of(episode.task), [])
        same = [e for e in kept if e.task.id == episode.task.id and e.attempt == episode.attempt]
        if any(e.said or not episode.said for e in same):
            return
        kept[:] = [*(e for e in kept if e not in same), episode][-PER_KIND:]

    def success(self, kind: str) -> float | None:
        """Acc(C) since the last evolution; None before the first attempt."""
        tried = self._tried.get(kind, 0)
        return self._right.get(kind, 0) / tried if tried else None

    def failures(self, *, below: float, budget: int) -> list[Episode]:
        """At most `budget` failures of the kinds whose success is below `below`, one of each kind in turn."""
        low = {kind: kept for kind, kept in self._failures.items() if (self.success(kind) or 0.0) < below}
        return round_robin({k: sorted(v, key=lambda e: e.reward) for k, v in low.items()}, budget)

    def successes(self, *, budget: int) -> list[Episode]:
        """At most `budget` right attempts, one of each kind in turn, newest first."""
        return round_robin({kind: kept[::-1] for kind, kept in self._successes.items()}, budget)

    def clear(self) -> None:
        for kept in (self._failures, self._successes, self._right, self._tried):
            kept.clear()

    def state_dict(self) -> dict[str, object]:
        """Plain JSON."""
        told = [e.to_json() for found in (self._failures, self._successes) for kept in found.values() for e in kept]
        return {"episodes": told, "right": dict(self._right), "tried": dict(self._tried)}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        self.clear()
        for value in cast("list[Mapping[str, object]]", state["episodes"]):
            episode = episode_from_json(value)
            kept = self._successes if episode.correct else self._failures
            kept.setdefault(category_of(episode.task), []).append(episode)
        self._right.update(cast("Mapping[str, int]", state["right"]))
        self._tried.update(cast("Mapping[str, int]", state["tried"]))


def round_robin(by_kind: Mapping[str, Sequence[Item]], budget: int) -> list[Item]:
    """The first of each kind, then the second of each, until there are `budget`; kinds and items in their own order.

    SkillRL's stratified sampling (arXiv 2602.08234) has each kind's items sorted, most negative reward first.
    """
    deepest = max(map(len, by_kind.values()), default=0)
    turns = (items[depth] for depth in range(deepest) for items in by_kind.values() if depth < len(items))
    return [item for item, _ in zip(turns, range(budget), strict=False)]


def episodes_of(group: Group, split: Split) -> list[Episode]:
    """The wrong attempts, and the right ones of a prompt that also fails: what always works needs no memory."""
    judged = [(r, s) for r, s in zip(group.rollouts, group.scores, strict=True) if s.status is not ScoreStatus.ERROR]
    mixed = any(not score.correct for _, score in judged)
    return [_episode(group, r, s, split) for r, s in judged if mixed or not s.correct]


def _episode(group: Group, rollout: Rollout, score: Score, split: Split) -> Episode:
    return Episode(
        id=rollout.id,
        task=undressed(group.task),
        attempt=rollout.text,
        correct=score.correct,
        reward=score.reward,
        said=_said(group.critiques.get(rollout.id)),
        shown=shown_to(group.task),
        split=split,
        detail=score.detail,
    )


def _said(critique: Critique | None) -> tuple[str, ...]:
    if critique is None or critique.outcome is not CriticOutcome.OK:
        return ()
    return tuple(directive.text for directive in critique.directives)

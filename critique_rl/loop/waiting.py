"""Questions that no step has used the answer of yet, in the form that a checkpoint holds.

Owns: that form. Must not know: critics, futures, how long an answer may take. Rollouts are held whole, with ids and
log-probs: what a late critique directs is re-scored on the very tokens that were sampled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import cast

from pydantic import TypeAdapter, ValidationError

from critique_rl.errors import CheckpointError
from critique_rl.loop.criticize import Question
from critique_rl.types import CriticRequest, Critique, Group, Rollout, Score, Task


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Waiting:
    """A question of `step`, about `group` or as a probe: then `probes` says whether the attempt is right.

    `answer` is None while it has not come.
    """

    step: int
    question: Question
    group: Group | None = None
    probes: bool | None = None
    answer: Critique | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A group as it was when it was asked about: nothing but its rollouts and their scores was known then."""

    task: Task
    rollouts: tuple[Rollout, ...]
    scores: tuple[Score, ...]
    rung: str = ""
    confidence_tokens: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """`group` is a place in the list of groups, `twins` are places in that group's rollouts."""

    step: int
    request: CriticRequest
    group: int | None = None
    twins: tuple[int, ...] = ()
    probes: bool | None = None
    answer: Critique | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _State:
    groups: tuple[_Asked, ...] = ()
    questions: tuple[_Question, ...] = ()


_STATE: TypeAdapter[_State] = TypeAdapter(_State)


def waiting_to_json(entries: Sequence[Waiting]) -> dict[str, object]:
    """Plain JSON values; a group that several questions are about is written once."""
    groups: list[Group] = []
    places: dict[int, int] = {}
    questions: list[_Question] = []
    for entry in entries:
        group = entry.group
        if group is not None and id(group) not in places:
            places[id(group)] = len(groups)
            groups.append(group)
        questions.append(
            _Question(
                step=entry.step,
                request=entry.question.request,
                group=None if group is None else places[id(group)],
                twins=() if group is None else tuple(map(group.rollouts.index, entry.question.twins)),
                probes=entry.probes,
                answer=entry.answer,
            )
        )
    state = _State(groups=tuple(map(_asked, groups)), questions=tuple(questions))
    return cast("dict[str, object]", _STATE.dump_python(state, mode="json"))


def waiting_from_json(state: Mapping[str, object]) -> list[Waiting]:
    """The inverse of `waiting_to_json`: questions about one group share one object. Errors: CheckpointError."""
    try:
        found = _STATE.validate_python(dict(state))
    except ValidationError as error:
        first = error.errors()[0]
        raise _unreadable(f"field {'.'.join(map(str, first['loc']))!r}: {first['msg']}") from error
    groups = [_group(one, place) for place, one in enumerate(found.groups)]
    return [_waiting(one, groups) for one in found.questions]


def _asked(group: Group) -> _Asked:
    return _Asked(
        task=group.task,
        rollouts=group.rollouts,
        scores=group.scores,
        rung=group.rung,
        confidence_tokens=group.confidence_tokens,
    )


def _group(one: _Asked, place: int) -> Group:
    if len(one.scores) != len(one.rollouts):
        raise _unreadable(
            f"groups.{place} came with {len(one.scores)} scores for {len(one.rollouts)} rollouts; wanted one for each"
        )
    return Group(
        task=one.task,
        rollouts=one.rollouts,
        scores=one.scores,
        plateaued=True,
        rung=one.rung,
        confidence_tokens=one.confidence_tokens,
    )


def _waiting(one: _Question, groups: Sequence[Group]) -> Waiting:
    where = f"the question about {one.request.rollout_id!r}"
    if (one.group is None) != (one.probes is not None):
        raise _unreadable(f"{where} came with group {one.group} and probes {one.probes}; wanted one of them")
    if one.group is None:
        return Waiting(step=one.step, question=Question(one.request, ()), probes=one.probes, answer=one.answer)
    if not 0 <= one.group < len(groups):
        raise _unreadable(f"{where} came with group {one.group}; wanted one of the {len(groups)} that are there")
    group = groups[one.group]
    if not one.twins or not all(0 <= twin < len(group.rollouts) for twin in one.twins):
        raise _unreadable(f"{where} came with twins {list(one.twins)}; wanted some of {len(group.rollouts)} rollouts")
    twins = tuple(group.rollouts[twin] for twin in one.twins)
    return Waiting(step=one.step, question=Question(one.request, twins), group=group, answer=one.answer)


def _unreadable(found: str) -> CheckpointError:
    return CheckpointError(f"late critiques in the checkpoint: {found}; resume from an older checkpoint")

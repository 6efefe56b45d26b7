"""Copies of one prompt in a batch: one group, one baseline.

Owns: when two groups are of one prompt. Must not know: advantages. A batch in which a prompt stands twice, under one id
or two, must not split its rollouts: each half would be measured against its own mean, and a group of one against
nothing (Search-R1's issue 88).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

from critique_rl.types import Group, Message, Task

Value = TypeVar("Value")
Prompt = tuple[tuple[Message, ...], str, str, tuple[tuple[str, str], ...]]


def sharing_baselines(groups: Sequence[Group]) -> list[Group]:
    """The groups, those of one prompt and one version of the policy joined into the first of them.

    Without copies they are the very objects that came.
    """
    places: dict[tuple[Prompt, bool, int], int] = {}
    joined: list[Group] = []
    for group in groups:
        version = group.rollouts[0].policy_version if group.rollouts else 0
        key = (prompt_of(group.task), group.late, version)
        if key in places:
            joined[places[key]] = _join(joined[places[key]], group)
        else:
            places[key] = len(joined)
            joined.append(group)
    return joined


def prompt_of(task: Task) -> Prompt:
    """What two tasks have to share to be copies of one prompt: the messages, and all that a verifier may read."""
    return task.messages, task.answer, task.verifier, tuple(sorted(task.metadata.items()))


def _join(one: Group, other: Group) -> Group:
    return replace(
        one,
        rollouts=one.rollouts + other.rollouts,
        scores=one.scores + other.scores,
        plateaued=one.plateaued or other.plateaued,
        critiques=_both(one.critiques, other.critiques),
        refinements=one.refinements + other.refinements,
        targets=_both(one.targets, other.targets),
        controls=one.controls + other.controls,
        corrections=_both(one.corrections, other.corrections),
        rung=one.rung or other.rung,
        confidence_tokens=_both(one.confidence_tokens, other.confidence_tokens),
    )


def _both(one: Mapping[str, Value], other: Mapping[str, Value]) -> Mapping[str, Value]:
    return {**one, **other}

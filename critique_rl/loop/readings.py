"""What teacher and policy say of an attempt's tokens, on the support that [distillation] names.

Owns: which passes a support takes, and the proof that they scored the attempt's very ids. Must not know: critiques,
contexts' words, which rollouts are taught. Legend: T tokens of one completion, K support ids.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, NamedTuple

import numpy as np

from critique_rl.config.algorithm import DistillationConfig
from critique_rl.protocols import Policy
from critique_rl.stats.overlap import shared_places
from critique_rl.types import TeacherTargets, TokenIds

_SAME_NATS = 1e-2
"""How far two readings of one log-prob may lie apart; another token's lies further off at almost every position."""


class Pair(NamedTuple):
    """What is scored: a completion's ids under a context's."""

    context: TokenIds
    completion: TokenIds


Who = Literal["policy", "teacher"]
Known = Mapping[tuple[Who, Pair], TeacherTargets]
"""What each side said at its own top K before, so that it is not asked again."""


class Asked(NamedTuple):
    """A pair, the prompt that the policy trains its completion under, and a rollout that has it."""

    pair: Pair
    bare: TokenIds
    rollout_id: str


class Reading(NamedTuple):
    """The targets of one pair; `student` is the policy at the same ids under the bare prompt, where it was asked."""

    targets: TeacherTargets
    student: TeacherTargets | None


def own_topk(pairs: Sequence[Pair], *, policy: Policy, who: Who, k: int, known: Known) -> list[TeacherTargets]:
    """What `who` says of each pair at its own top K, in one pass over those that are not known, with as many ids there
    as it was asked for then. Equal pairs are scored as often as they come."""
    fresh = [pair for pair in pairs if (who, pair) not in known]
    found: list[TeacherTargets] = []
    if fresh:
        contexts, completions = [pair.context for pair in fresh], [pair.completion for pair in fresh]
        found = policy.topk_logprobs(contexts, completions, k=k, who=who)
    anew = iter(found)
    return [known[who, pair] if (who, pair) in known else next(anew) for pair in pairs]


def read(
    asked: Sequence[Asked], *, policy: Policy, config: DistillationConfig, known: Known | None = None
) -> list[Reading]:
    """Both sides as far as `config` wants them, in the order asked; what is `known` is not asked for.

    Passes: the teacher's, one; the policy's, one more where the support is its own, or shared, or where the loss reads
    what it said at the teacher's ids. A shared support needs none beyond these two: its ids are in both top K. Raises
    AssertionError where other tokens were scored than were sent.
    """
    known = known or {}
    contexts, completions = [one.pair.context for one in asked], [one.pair.completion for one in asked]
    bare = [one.bare for one in asked]
    student = None
    if config.support in ("student", "overlap"):
        attempts = [Pair(*pair) for pair in zip(bare, completions, strict=True)]
        student = own_topk(attempts, policy=policy, who="policy", k=config.k, known=known)
    k = 1 if config.support == "sampled" else config.k
    if config.support == "student":
        scored = policy.topk_logprobs(contexts, completions, k=k, who="teacher", support=student)
    else:
        scored = own_topk([one.pair for one in asked], policy=policy, who="teacher", k=k, known=known)
    for one, targets in zip(asked, scored, strict=True):
        _check_splice(targets, one)
    if config.support == "sampled":
        scored = [_sampled_alone(t, one.pair.completion) for t, one in zip(scored, asked, strict=True)]
    if student is None:
        if not config.reads_student:
            return [Reading(targets, None) for targets in scored]
        student = policy.topk_logprobs(bare, completions, k=k, who="policy", support=scored)
    both = list(zip(scored, student, strict=True))
    if config.support == "overlap":
        both = [_shared(theirs, own) for theirs, own in both]
    if config.reads_student:
        both = [(_told(theirs, own), own) for theirs, own in both]
    return [Reading(theirs, own) for theirs, own in both]


def _check_splice(targets: TeacherTargets, asked: Asked) -> None:
    """The teacher scored the completion's very ids after the very context: anything else trains on other tokens."""
    context, completion = asked.pair
    length = len(completion)
    shapes = {len(targets.ids_TK), len(targets.logprobs_TK), len(targets.sampled_logprobs_T), len(targets.mask_T)}
    fault = ""
    if targets.context_ids != context:
        fault = f"context ids differ: {len(targets.context_ids)} came, {len(context)} were sent"
    elif shapes != {length}:
        fault = f"rows of {sorted(shapes)} tokens came; wanted {length}, one per completion id"
    else:
        own_TK = targets.ids_TK == np.array(completion, dtype=np.int64)[:, None]
        tokens, columns = np.nonzero(own_TK & (targets.mask_T[:, None] > 0))
        apart = np.abs(targets.logprobs_TK[tokens, columns] - targets.sampled_logprobs_T[tokens])
        if apart.size and apart.max() > _SAME_NATS:
            fault = f"token {tokens[apart.argmax()]} of the completion has two log-probs, {apart.max():.3g} nats apart"
    if fault:
        raise AssertionError(
            f"internal error: teacher targets of rollout {asked.rollout_id!r} do not fit its tokens: {fault}"
        )


def _sampled_alone(targets: TeacherTargets, completion: TokenIds) -> TeacherTargets:
    ids_T1 = np.array(completion, dtype=np.int64)[:, None]
    return replace(targets, ids_TK=ids_T1, logprobs_TK=targets.sampled_logprobs_T[:, None])


def _shared(teacher: TeacherTargets, student: TeacherTargets) -> tuple[TeacherTargets, TeacherTargets]:
    """Both sides at the policy's ids, -inf where the teacher's top K lacks one; unusable where none is shared."""
    places_TK = shared_places(student.ids_TK, teacher.ids_TK)
    shared_TK = places_TK >= 0
    theirs_TK = np.take_along_axis(teacher.logprobs_TK, places_TK.clip(min=0), axis=1)
    usable_T = teacher.mask_T * student.mask_T * shared_TK.any(axis=1)
    targets = replace(
        teacher, ids_TK=student.ids_TK, logprobs_TK=np.where(shared_TK, theirs_TK, -np.inf), mask_T=usable_T
    )
    return targets, replace(student, logprobs_TK=np.where(shared_TK, student.logprobs_TK, -np.inf))


def _told(targets: TeacherTargets, student: TeacherTargets) -> TeacherTargets:
    """The targets with what the policy said beside them; a token is usable where both sides are."""
    return replace(targets, student_logprobs_TK=student.logprobs_TK, mask_T=targets.mask_T * student.mask_T)

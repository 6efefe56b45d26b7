"""Directive text -> token-level targets: the teacher, shown the directive, re-scores the failed attempt's own tokens.

The completion's ids are passed on as they are, never decoded and re-encoded. Equal attempts are scored once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from critique_rl.config.algorithm import DistillationConfig
from critique_rl.loop.contexts import context_budget, fitting_messages
from critique_rl.loop.criticize import usable
from critique_rl.prompting.template import PromptTemplate
from critique_rl.protocols import Policy
from critique_rl.stats.overlap import support_mass, support_overlap
from critique_rl.types import Group, Rollout, TeacherTargets, TokenIds

_SAME_NATS = 1e-2
"""How far two readings of one log-prob may lie apart; another token's lies further off at almost every position."""


@dataclass(slots=True, kw_only=True)
class TeacherTally:
    """Rows that `teach` handled: `scored` by the teacher, each distinct one once; `shortened`: with a part of the
    attempt left out of the context; `over_budget`: without targets, as no shortening makes the context fit; `unscored`:
    the teacher said nothing usable about them. `tokens` are those with a usable teacher, and `sums` what `note` found
    of them."""

    scored: int = 0
    shortened: int = 0
    over_budget: int = 0
    unscored: int = 0
    tokens: int = 0
    sums: dict[str, float] = field(default_factory=dict[str, float])

    def note(
        self, targets: TeacherTargets, completion: TokenIds, *, student: TeacherTargets | None, own_support: bool
    ) -> None:
        """Add up how alike teacher and student are on the usable tokens of a pair, as far as what was scored shows it.

        Always `teacher_mass` on the support. With the student's values there also `student_mass`, `overlap` and
        `entropy_gap` (see `stats.overlap`). With the teacher's own top K, `sampled_in_support`: how often the sampled
        token is one of them, which estimates the student's mass on them, as the student sampled it.
        """
        on_T = targets.mask_T > 0 if student is None else targets.mask_T * student.mask_T > 0
        found = {"teacher_mass": support_mass(targets.logprobs_TK[on_T])}
        if student is not None:
            seen = support_overlap(student.logprobs_TK[on_T], targets.logprobs_TK[on_T])
            found["student_mass"], found["overlap"] = seen.student_mass_T, seen.overlap_T
            found["entropy_gap"] = seen.entropy_gap_T
        if own_support:
            own_TK = targets.ids_TK[on_T] == np.array(completion, dtype=np.int64)[on_T, None]
            found["sampled_in_support"] = own_TK.any(axis=-1).astype(np.float64)
        self.tokens += int(on_T.sum())
        for name, values in found.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(values.sum())

    def figures(self) -> Mapping[str, float]:
        """The counts, and the mean over tokens of what was noted, under the trackers' keys."""
        return {
            "teacher/scored": float(self.scored),
            "teacher/shortened": float(self.shortened),
            "teacher/over_budget": float(self.over_budget),
            "teacher/unscored": float(self.unscored),
            **{f"distill/{name}": total / self.tokens for name, total in self.sums.items() if self.tokens},
        }


class _Pair(NamedTuple):
    context: TokenIds
    completion: TokenIds


class _Plan(NamedTuple):
    """Every distinct pair with a rollout that has it, and which pair each rollout (by group and id) waits for."""

    asked: dict[_Pair, Rollout]
    wanted: dict[tuple[int, str], _Pair]


def teach(
    groups: Sequence[Group],
    *,
    policy: Policy,
    template: PromptTemplate,
    config: DistillationConfig,
    anchor: bool = False,
    tally: TeacherTally | None = None,
) -> list[Group]:
    """Attach teacher targets to every rollout that has a usable critique and whose context fits; `tally` is added to.

    With `anchor` also to every right rollout: there the teacher sees what the policy sees, and no directive, so that
    what is right stays as it is while the wrong ones move (learning without forgetting, arXiv 1606.09282).

    `support = "sampled"` keeps the teacher's log-prob of the sampled token alone, as one bin against the rest of the
    vocabulary: still a divergence with the teacher held fixed (the gradient of the bare log-ratio would not depend on
    the teacher at all), at most the full one, and the noisiest choice: what it says depends on which token was drawn.
    It names no better token, so where the policy is sure of a wrong one it hardly pulls, whatever the divergence.
    """
    tally = TeacherTally() if tally is None else tally
    plan = _plan(groups, policy, template, config, anchor=anchor, tally=tally)
    if not plan.asked:
        return list(groups)
    tally.scored += len(plan.asked)
    by_key = dict(zip(plan.asked, _score(plan.asked, policy, config, tally), strict=True))
    tally.unscored += sum(bool(key.completion) and not found.mask_T.any() for key, found in by_key.items())
    found: dict[int, dict[str, TeacherTargets]] = {}
    for (g, rollout_id), key in plan.wanted.items():
        found.setdefault(g, {})[rollout_id] = by_key[key]
    return [replace(group, targets=found.get(g, {})) for g, group in enumerate(groups)]


def _plan(
    groups: Sequence[Group],
    policy: Policy,
    template: PromptTemplate,
    config: DistillationConfig,
    *,
    anchor: bool,
    tally: TeacherTally,
) -> _Plan:
    plan = _Plan({}, {})
    for g, group in enumerate(groups):
        for rollout, score in zip(group.rollouts, group.scores, strict=True):
            critique = group.critiques.get(rollout.id)
            if critique is not None and usable(critique):
                fitted = fitting_messages(
                    group.task,
                    template,
                    attempt=rollout.text,
                    directive=critique.directive_text,
                    encode=policy.encode,
                    max_tokens=context_budget(
                        policy,
                        completion_tokens=len(rollout.completion_ids),
                        max_context_tokens=config.max_context_tokens,
                    ),
                )
                if fitted is None:
                    tally.over_budget += 1
                    continue
                tally.shortened += fitted.cut_chars > 0
                context = fitted.ids
            elif anchor and score.correct:
                context = rollout.prompt_ids  # the policy trains on these very ids, so they fit
            else:
                continue
            key = _Pair(context, rollout.completion_ids)
            plan.asked.setdefault(key, rollout)
            plan.wanted[g, rollout.id] = key
    return plan


def _score(
    asked: Mapping[_Pair, Rollout], policy: Policy, config: DistillationConfig, tally: TeacherTally
) -> list[TeacherTargets]:
    contexts = [context for context, _ in asked]
    completions = [completion for _, completion in asked]
    sampled_only = config.support == "sampled"
    support = None
    if config.support == "student":
        bare = [rollout.prompt_ids for rollout in asked.values()]
        support = policy.topk_logprobs(bare, completions, k=config.k, who="policy")
    k = 1 if sampled_only else config.k
    scored = policy.topk_logprobs(contexts, completions, k=k, who="teacher", support=support)
    finished: list[TeacherTargets] = []
    students = [None] * len(scored) if support is None else support
    for (key, rollout), targets, student in zip(asked.items(), scored, students, strict=True):
        _check_splice(targets, key, rollout.id)
        kept = _sampled_alone(targets, key.completion) if sampled_only else targets
        if rollout.policy_mask:  # what a tool said is nobody's to imitate
            kept = replace(kept, mask_T=kept.mask_T * np.asarray(rollout.policy_mask))
        finished.append(_shorten(kept, config.max_tokens))
        tally.note(finished[-1], key.completion, student=student, own_support=config.support == "teacher")
    return finished


def _check_splice(targets: TeacherTargets, pair: _Pair, rollout_id: str) -> None:
    """The teacher scored the completion's very ids after the very context: anything else trains on other tokens."""
    length = len(pair.completion)
    shapes = {len(targets.ids_TK), len(targets.logprobs_TK), len(targets.sampled_logprobs_T), len(targets.mask_T)}
    fault = ""
    if targets.context_ids != pair.context:
        fault = f"context ids differ: {len(targets.context_ids)} came, {len(pair.context)} were sent"
    elif shapes != {length}:
        fault = f"rows of {sorted(shapes)} tokens came; wanted {length}, one per completion id"
    else:
        own_TK = targets.ids_TK == np.array(pair.completion, dtype=np.int64)[:, None]
        tokens, columns = np.nonzero(own_TK & (targets.mask_T[:, None] > 0))
        apart = np.abs(targets.logprobs_TK[tokens, columns] - targets.sampled_logprobs_T[tokens])
        if apart.size and apart.max() > _SAME_NATS:
            fault = f"token {tokens[apart.argmax()]} of the completion has two log-probs, {apart.max():.3g} nats apart"
    if fault:
        raise AssertionError(
            f"internal error: teacher targets of rollout {rollout_id!r} do not fit its tokens: {fault}"
        )


def _sampled_alone(targets: TeacherTargets, completion: TokenIds) -> TeacherTargets:
    ids_T1 = np.array(completion, dtype=np.int64)[:, None]
    return replace(targets, ids_TK=ids_T1, logprobs_TK=targets.sampled_logprobs_T[:, None])


def _shorten(targets: TeacherTargets, max_tokens: int | None) -> TeacherTargets:
    if max_tokens is None:
        return targets
    keep_T = np.arange(len(targets.mask_T)) < max_tokens
    return replace(targets, mask_T=targets.mask_T * keep_T)

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
from critique_rl.loop.hints import Choice, HintTally, Rivals, candidates, choose, woven
from critique_rl.loop.readings import Asked, Known, Pair, read
from critique_rl.prompting.template import PromptTemplate
from critique_rl.protocols import Policy
from critique_rl.stats.overlap import support_mass, support_overlap
from critique_rl.types import Critique, Group, Rollout, Task, TeacherTargets, TokenIds


@dataclass(slots=True, kw_only=True)
class TeacherTally:
    """Rows that `teach` handled: `scored` by the teacher, each distinct one once; `shortened`: with a part of the
    attempt left out of the context; `over_budget`: without targets, as no shortening makes the context fit; `unscored`:
    the teacher said nothing usable about them. `tokens` are those with a usable teacher, and `sums` what `note` found
    of them; `hints` is what came of a choice between directives."""

    scored: int = 0
    shortened: int = 0
    over_budget: int = 0
    unscored: int = 0
    tokens: int = 0
    sums: dict[str, float] = field(default_factory=dict[str, float])
    hints: HintTally = field(default_factory=HintTally)

    def note(
        self, targets: TeacherTargets, completion: TokenIds, *, student: TeacherTargets | None, support: str
    ) -> None:
        """Add up how alike teacher and student are on the usable tokens of a pair, as far as what was scored shows it.

        Always `teacher_mass` on the support. With the student's values there also `student_mass`, `overlap` and
        `entropy_gap` (see `stats.overlap`). With the teacher's own top K, `sampled_in_support`: how often the sampled
        token is one of them, which estimates the student's mass on them, as the student sampled it. With a shared
        support `shared_ids`: how many of K they share where they share one at all.
        """
        on_T = targets.mask_T > 0 if student is None else targets.mask_T * student.mask_T > 0
        found = {"teacher_mass": support_mass(targets.logprobs_TK[on_T])}
        if student is not None:
            seen = support_overlap(student.logprobs_TK[on_T], targets.logprobs_TK[on_T])
            found["student_mass"], found["overlap"] = seen.student_mass_T, seen.overlap_T
            found["entropy_gap"] = seen.entropy_gap_T
        if support == "overlap":
            found["shared_ids"] = np.isfinite(targets.logprobs_TK[on_T]).mean(axis=-1)
        if support == "teacher":
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
            **self.hints.figures(),
        }


class _Plan(NamedTuple):
    """Every distinct pair with a rollout that has it, and which pair each rollout (by group and id) waits for; those
    among whose directives a choice is still to be made are `rivals`, and nowhere else."""

    asked: dict[Pair, Rollout]
    wanted: dict[tuple[int, str], Pair]
    rivals: dict[tuple[int, str], Rivals]


class _Settled(NamedTuple):
    """The rollouts whose targets are woven of all their rivals, and what was read on the way."""

    woven: dict[tuple[int, str], Choice]
    known: Known


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
    settled = _settle(plan, policy, config, tally.hints)
    if not plan.asked:
        return list(groups)
    tally.scored += len(plan.asked)
    by_key = dict(zip(plan.asked, _score(plan.asked, policy, config, tally, settled.known), strict=True))
    tally.unscored += sum(bool(key.completion) and not found.mask_T.any() for key, found in by_key.items())
    found: dict[int, dict[str, TeacherTargets]] = {}
    for (g, rollout_id), key in plan.wanted.items():
        found.setdefault(g, {})[rollout_id] = by_key[key]
    for (g, rollout_id), choice in settled.woven.items():
        pairs = plan.rivals[g, rollout_id].pairs
        found.setdefault(g, {})[rollout_id] = woven([by_key[pair] for pair in pairs], choice)
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
    plan = _Plan({}, {}, {})
    for g, group in enumerate(groups):
        for rollout, score in zip(group.rollouts, group.scores, strict=True):
            critique = group.critiques.get(rollout.id)
            if critique is not None and usable(critique):
                contexts = _contexts(group.task, rollout, critique, policy, template, config, tally)
            elif anchor and score.correct:
                contexts = [rollout.prompt_ids]  # the policy trains on these very ids, so they fit
            else:
                continue
            pairs = tuple(Pair(context, rollout.completion_ids) for context in dict.fromkeys(contexts))
            if len(pairs) > 1:
                plan.rivals[g, rollout.id] = Rivals(pairs, rollout)
            elif pairs:
                plan.asked.setdefault(pairs[0], rollout)
                plan.wanted[g, rollout.id] = pairs[0]
    return plan


def _contexts(
    task: Task,
    rollout: Rollout,
    critique: Critique,
    policy: Policy,
    template: PromptTemplate,
    config: DistillationConfig,
    tally: TeacherTally,
) -> list[TokenIds]:
    """The contexts that fit, one for each directive that may be shown; a rollout with none is over the budget."""
    texts = candidates(critique, rollout, config.hint_choice)
    if config.hint_choice != "joined":
        tally.hints.rollouts += 1
        tally.hints.candidates += len({directive.text for directive in critique.directives})
    budget = context_budget(
        policy, completion_tokens=len(rollout.completion_ids), max_context_tokens=config.max_context_tokens
    )
    fitted = [
        fitting_messages(task, template, attempt=rollout.text, directive=text, encode=policy.encode, max_tokens=budget)
        for text in texts
    ]
    fits = [one for one in fitted if one is not None]
    tally.over_budget += not fits
    tally.shortened += any(one.cut_chars > 0 for one in fits)
    return [one.ids for one in fits]


def _settle(plan: _Plan, policy: Policy, config: DistillationConfig, tally: HintTally) -> _Settled:
    """Make the rivals' choices: what has to be scored for them joins the plan."""
    if not plan.rivals:
        return _Settled({}, {})
    found = choose(list(plan.rivals.values()), policy=policy, config=config, tally=tally)
    choices = dict(zip(plan.rivals, found.made, strict=True))
    by_token = config.hint_choice == "token_overlap"
    for place, choice in choices.items():
        rivals = plan.rivals[place]
        for pair in rivals.pairs if by_token else [rivals.pairs[choice.best]]:
            plan.asked.setdefault(pair, rivals.rollout)
        if not by_token:
            plan.wanted[place] = rivals.pairs[choice.best]
    return _Settled(choices if by_token else {}, found.known)


def _score(
    asked: Mapping[Pair, Rollout], policy: Policy, config: DistillationConfig, tally: TeacherTally, known: Known
) -> list[TeacherTargets]:
    wanted = [Asked(pair, rollout.prompt_ids, rollout.id) for pair, rollout in asked.items()]
    finished: list[TeacherTargets] = []
    readings = read(wanted, policy=policy, config=config, known=known)
    for (pair, rollout), reading in zip(asked.items(), readings, strict=True):
        kept = reading.targets
        if rollout.policy_mask:  # what a tool said is nobody's to imitate
            kept = replace(kept, mask_T=kept.mask_T * np.asarray(rollout.policy_mask))
        finished.append(_shorten(kept, config.max_tokens))
        tally.note(finished[-1], pair.completion, student=reading.student, support=config.support)
    return finished


def _shorten(targets: TeacherTargets, max_tokens: int | None) -> TeacherTargets:
    if max_tokens is None:
        return targets
    keep_T = np.arange(len(targets.mask_T)) < max_tokens
    return replace(targets, mask_T=targets.mask_T * keep_T)

"""The guidance ladder: which rung serves a prompt, and what a second attempt is told on it.

Owns: rungs, views and the joining of several failures into one context. Must not know: when a prompt climbs, how
attempts are sampled, which of them are trained on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from critique_rl.config.refinement import CRITIC_RUNGS, PREFIX_SHARES, RefinementConfig, Rung
from critique_rl.feedback.leak import leaks
from critique_rl.loop.criticize import usable
from critique_rl.loop.judge import BARE_VERDICT
from critique_rl.loop.second_attempts import Hint
from critique_rl.prompting.catalogue import load_prompt
from critique_rl.prompting.template import PromptTemplate
from critique_rl.types import CriticOutcome, Critique, Directive, Group, Rollout, ScoreStatus, Task

SOLUTION = "solution"
"""The key of a task's metadata that holds a worked solution."""


class Planned(NamedTuple):
    """One second attempt to sample: of which group's which rollout, under which critique and rung."""

    group: int
    attempt: Rollout
    critique: Critique
    rung: Rung
    hint: Hint


class _Told(NamedTuple):
    attempt: Rollout
    critique: Critique


@dataclass(frozen=True, slots=True, kw_only=True)
class Guidance:
    """A run's ladder with its templates; those that the ladder does not need, or the method, are None."""

    config: RefinementConfig
    template: PromptTemplate | None
    lesson: PromptTemplate | None = None
    prefix: PromptTemplate | None = None
    together: PromptTemplate | None = None

    def rung(self, task: Task, wanted: int, *, critic: bool = True) -> Rung | None:
        """The rung at place `wanted` if it can serve this task, else the next above, else the next below, else None.

        `critic`: whether rungs that ask one are open.
        """
        ladder = self.config.ladder
        wanted = min(wanted, len(ladder) - 1)
        order: list[Rung] = [*ladder[wanted:], *reversed(ladder[:wanted])]
        return next((rung for rung in order if (critic or rung not in CRITIC_RUNGS) and _serves(rung, task)), None)

    def plan(self, groups: Sequence[Group]) -> list[Planned]:
        """The second attempts of all groups, in the groups' order: `per_attempt` for each attempt that is guided."""
        return [planned for g, group in enumerate(groups) for planned in self._plan_group(g, group)]

    @property
    def trial_template(self) -> PromptTemplate | None:
        """The template that the critic's words are first tried under, and a bare verdict beside them."""
        if self._trial_rung == "lesson" or self.config.view == "lesson":
            return self.lesson
        return self.together if self.config.aggregate == "refine" else self.template

    def on_trial(self, group: Group) -> bool:
        """Whether a group's refinements are sampled under `trial_template`: only beside those can controls be held."""
        return self._rung_of(group) == self._trial_rung

    @property
    def _trial_rung(self) -> Rung:
        return "critique" if "critique" in self.config.ladder else "lesson"

    def _rung_of(self, group: Group) -> Rung | None:
        # Recalled feedback was never put on a rung: it gets the lowest.
        return next((rung for rung in self.config.ladder if rung == group.rung), None) or self.rung(group.task, 0)

    def _plan_group(self, g: int, group: Group) -> list[Planned]:
        config, rung = self.config, self._rung_of(group)
        if rung in CRITIC_RUNGS:
            criticized = [_Told(r, group.critiques[r.id]) for r in group.rollouts if usable(group.critiques.get(r.id))]
            told = criticized[: config.max_attempts]
            lessons = config.per_attempt if rung == "lesson" or config.view == "lesson" else 0
            if rung == "critique" and config.view == "mixed":
                lessons = config.per_attempt // 2
            return [
                Planned(g, one.attempt, one.critique, shown, self._critic_hint(group.task, one, told, shown))
                for one in told
                for shown in self._views(lessons)
            ]
        if rung is None or not group.plateaued:
            return []
        wrong = [r for r, s in zip(group.rollouts, group.scores, strict=True) if _is_wrong(s.correct, s.status)]
        hints = [(attempt, self._plain_hint(group.task, attempt, rung)) for attempt in wrong[: config.max_attempts]]
        return [
            Planned(g, attempt, _said_by(rung, attempt, hint.directive), rung, hint)
            for attempt, hint in hints
            for _ in range(config.per_attempt)
        ]

    def _views(self, lessons: int) -> list[Rung]:
        # The attempt's view comes first: the trust guard reads an attempt's first refinement.
        with_attempt: list[Rung] = ["critique"] * (self.config.per_attempt - lessons)
        without: list[Rung] = ["lesson"] * lessons
        return with_attempt + without

    def _critic_hint(self, task: Task, one: _Told, told: Sequence[_Told], shown: Rung) -> Hint:
        joined = self.config.aggregate == "refine"
        directive = _all_directives(told, numbered=shown != "lesson") if joined else one.critique.directive_text
        if shown == "lesson":
            return Hint(task, "", directive, self.lesson)
        if joined:
            return Hint(task, _all_attempts(told), directive, self.together)
        return Hint(task, one.attempt.text, directive, self.template)

    def _plain_hint(self, task: Task, attempt: Rollout, rung: Rung) -> Hint:
        if rung == "verdict":
            return Hint(task, attempt.text, BARE_VERDICT, self.template)
        return Hint(task, "", prefix_of(task, PREFIX_SHARES[rung]), self.prefix)


def load_guidance(config: RefinementConfig, template: PromptTemplate | None) -> Guidance:
    """The ladder with the templates that it needs; `template` is the refine template, None if none is sampled.

    Raises PromptError for a template that is not there or wants what its rung does not show.
    """
    if template is None:
        return Guidance(config=config, template=None)
    short = ("question", "directive")
    return Guidance(
        config=config,
        template=template,
        lesson=_checked(config.lesson_prompt, short) if config.shows_lessons else None,
        prefix=_checked(config.prefix_prompt, short) if config.shows_prefixes else None,
        together=_checked(config.group_prompt, (*short, "attempt")) if config.aggregate == "refine" else None,
    )


def prefix_of(task: Task, share: float) -> str:
    """The first share of the task's worked solution, up to a whole word; "" if there is none."""
    solution = task.metadata.get(SOLUTION, "").strip()
    end = round(share * len(solution))
    if end < len(solution) and not solution[end].isspace():
        end = max((i for i in range(end) if solution[i].isspace()), default=0)
    return solution[:end].rstrip()


def _checked(prompt: str, inputs: Sequence[str]) -> PromptTemplate:
    template = load_prompt(prompt)
    template.check_available(inputs)
    return template


def _serves(rung: str, task: Task) -> bool:
    if rung not in PREFIX_SHARES:
        return True
    shown = prefix_of(task, PREFIX_SHARES[rung])
    return bool(shown) and not leaks(shown, task.answer, question=task.question)


def _is_wrong(correct: bool, status: ScoreStatus) -> bool:
    return not correct and status is not ScoreStatus.ERROR


def _said_by(rung: str, attempt: Rollout, text: str) -> Critique:
    said = (Directive(text=text, critic=rung),)
    return Critique(rollout_id=attempt.id, critic=rung, outcome=CriticOutcome.OK, directives=said)


def _distinct(told: Sequence[_Told]) -> list[_Told]:
    """Equal attempts once, shortest first: where a context is too long, short ones say more."""
    by_text = {one.attempt.text: one for one in reversed(told)}
    return sorted(by_text.values(), key=lambda one: (len(one.attempt.text), one.attempt.id))


def _all_attempts(told: Sequence[_Told]) -> str:
    shown = _distinct(told)
    if len(shown) == 1:
        return shown[0].attempt.text
    return "\n\n".join(f"({n}) {one.attempt.text}" for n, one in enumerate(shown, start=1))


def _all_directives(told: Sequence[_Told], *, numbered: bool) -> str:
    shown = _distinct(told)
    texts = list(dict.fromkeys(one.critique.directive_text for one in shown))
    if len(texts) == 1 or not numbered:
        return "\n".join(texts)
    return "\n".join(f"On ({n}): {one.critique.directive_text}" for n, one in enumerate(shown, start=1))

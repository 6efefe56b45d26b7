"""What the critic said of an attempt, as text for the policy to predict from the question and the attempt.

Owns: which critiques are shown, and the prompt that asks for them. Must not know: how they are weighed, losses.
"""

from __future__ import annotations

from collections.abc import Sequence

from critique_rl.config.refinement import RefinementConfig
from critique_rl.feedback.leak import leaks
from critique_rl.loop.contexts import context_budget, fitting_messages
from critique_rl.loop.criticize import usable
from critique_rl.loop.parts import Parts
from critique_rl.prompting.catalogue import load_prompt
from critique_rl.types import Group, Rollout, TrainSample


class CritiquePrediction:
    """One run's predictions of critiques; a run without them leaves the samples as they are."""

    def __init__(self, config: RefinementConfig, parts: Parts) -> None:
        """Raises PromptError for a template that is not there or wants more than the question and the attempt."""
        self._policy = parts.policy
        self._predictor = parts.predictor
        self._template = load_prompt(config.predict_prompt) if parts.predictor is not None else None
        if self._template is not None:
            self._template.check_available(("question", "attempt"))
        self.shown = 0

    def add(self, samples: Sequence[TrainSample], groups: Sequence[Group]) -> list[TrainSample]:
        """The step's samples and, behind them, its critiques."""
        if self._predictor is None:
            return list(samples)
        critiques = self._critiques(groups)
        self.shown = len(critiques)
        return self._predictor.add(samples, critiques)

    def figures(self) -> dict[str, float]:
        """For the trackers: how many critiques the latest step had to predict."""
        return {} if self._predictor is None else {"refinement/predicted_critiques": float(self.shown)}

    def _critiques(self, groups: Sequence[Group]) -> list[Rollout]:
        """The directives of each criticised attempt as a completion; equal ones once, none that states the answer or
        whose question does not fit."""
        found: dict[tuple[tuple[int, ...], tuple[int, ...]], Rollout] = {}
        for group in groups:
            for attempt in group.rollouts:
                shown = self._critique(group, attempt)
                if shown is not None:
                    found.setdefault((shown.prompt_ids, shown.completion_ids), shown)
        return list(found.values())

    def _critique(self, group: Group, attempt: Rollout) -> Rollout | None:
        critique, task, policy = group.critiques.get(attempt.id), group.task, self._policy
        assert self._template is not None
        if critique is None or not usable(critique):
            return None
        text = critique.directive_text
        if leaks(text, task.answer, question=task.question):
            return None
        ids = policy.encode_completion(text)
        fitted = fitting_messages(
            task,
            self._template,
            attempt=attempt.text,
            directive="",
            encode=policy.encode,
            max_tokens=context_budget(policy, completion_tokens=len(ids)),
        )
        if fitted is None:
            return None
        return Rollout(
            id=f"{attempt.id}/critique",
            task_id=task.id,
            prompt_ids=fitted.ids,
            completion_ids=ids,
            behaviour_logprobs=(),
            text=text,
            finished=True,
            policy_version=policy.version,
        )

"""A run's skill memory in the loop: when tasks are dressed, what it is told, and where its bank is written.

Owns: skills.json in the run directory, and the second evaluation with skills in the prompt. Must not know: how skills
are found or made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean

from critique_rl.config.run import RunConfig
from critique_rl.errors import CheckpointError
from critique_rl.loop.evaluate import Rate, Success, evaluate
from critique_rl.loop.parts import Parts
from critique_rl.loop.seeds import derive_seed
from critique_rl.types import Group, Task

FILE = "skills.json"
WITH_SKILLS = "with_skills"
CONTEXT_TOKENS = "context_tokens"


def with_skills(parts: Parts, step: int, tasks: Sequence[Task]) -> Sequence[Task]:
    """The tasks as the policy is asked them; unchanged without a memory."""
    return tasks if parts.skills is None else parts.skills.dress(tasks, step)


class SkillStage:
    """One run's dealings with its memory; without one nothing happens."""

    def __init__(self, config: RunConfig, parts: Parts, run_dir: Path) -> None:
        self._config = config
        self._parts = parts
        self._path = run_dir / FILE
        self._written: int | None = None

    def learn(self, step: int, groups: Sequence[Group], sampled: Sequence[Group]) -> None:
        """Tell the memory of all that was sampled, with the critiques of what is trained on, and let it evolve.

        The step's own prompts stay as they were: a new version serves the next step. Raises CriticSetupError.
        """
        skills = self._parts.skills
        if skills is None:
            return
        criticised = {group.rollouts[0].id: group for group in groups if group.rollouts}
        asked = [criticised.pop(group.rollouts[0].id, group) for group in sampled if group.rollouts]
        skills.note([*asked, *criticised.values()])
        skills.evolve(step)
        for told in skills.messages():
            self._parts.tracker.event(step + 1, "skills", told)

    def write(self) -> None:
        """The bank's file, if the bank has changed since it was last written. Raises CheckpointError."""
        skills = self._parts.skills
        if skills is None or skills.version == self._written:
            return
        scratch = self._path.with_name(f".{FILE}.new")
        try:
            text = json.dumps(skills.bank_json(), indent=2, ensure_ascii=False) + "\n"
            scratch.write_text(text, encoding="utf-8")
            scratch.replace(self._path)
        except OSError as error:
            raise CheckpointError(f"{self._path} could not be written: {error.strerror}; free some space") from error
        self._written = skills.version

    def figures(self) -> Mapping[str, float]:
        return {} if self._parts.skills is None else self._parts.skills.figures()

    def evaluated(self, step: int, bare: Mapping[str, Success]) -> Mapping[str, Success]:
        """The evaluation with success with skills in the prompt, and a prompt's mean tokens then, if that is wanted."""
        config, parts = self._config, self._parts
        if parts.skills is None or config.skills is None or not config.skills.evaluate_with_skills:
            return bare
        tasks = parts.skills.dress_held_out(parts.tasks.held_out())
        found = evaluate(
            tasks,
            policy=parts.policy,
            engine=parts.engine,
            reward=parts.reward,
            config=config.evaluation,
            max_tokens=config.evaluation_tokens,
            seed=derive_seed(config.seed, step, "evaluation with skills"),
            environment=parts.environment,
        )
        lengths: dict[str, list[int]] = {}
        for task in tasks:
            lengths.setdefault(task.kind or "all", []).append(len(parts.policy.encode(task.messages)))
        return {
            kind: replace(
                success,
                rates={**success.rates, WITH_SKILLS: _rate(found[kind])},
                measured={**success.measured, CONTEXT_TOKENS: fmean(lengths[kind])},
            )
            for kind, success in bare.items()
        }


def _rate(success: Success) -> Rate:
    return Rate(value=success.success, low=success.low, high=success.high)

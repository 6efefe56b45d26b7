"""Tasks whose names say how a group fares, a sampler that lets them, and a run of both. The model is a fake."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import cast

from critique_rl.algorithms.grpo import Grpo
from critique_rl.algorithms.two_channel import TwoChannel
from critique_rl.build_behaviour import build_recycling
from critique_rl.config.algorithm import GrpoConfig, TwoChannelConfig
from critique_rl.config.load import merge, validate
from critique_rl.critics.scripted import ScriptedCritic
from critique_rl.loop.parts import Parts
from critique_rl.loop.seeds import derive_seed
from critique_rl.loop.train import Trainer
from critique_rl.schedule.plateau import PlateauTracker
from critique_rl.types import Completion, Task, TokenIds
from tests.lab_runs import Tree
from tests.loop.fakes import TEMPLATE, CharPolicy, ExactReward, Memory, decode, engine, task

REPLY = '{"directives": [{"text": "Count six sevens.", "kind": "procedure", "quote": null}], "scores": {}}'
BASE: Tree = {
    "algorithm": {"name": "grpo"},
    "rollout": {"prompts_per_step": 2, "group_size": 2, "max_tokens": 4},
    "budget": {"max_steps": 1},
    "evaluation": {"every": 0},
    "sampling": {"dynamic": True},
}
TEXTS = {"mixed": ("1", "8"), "wrong": ("8", "9"), "right": ("1", "1"), "unread": ("8", "?"), "failed": ("!", "!")}
"""What the two rollouts of a task say, by the first part of its name; "1" is right."""


class Bank:
    """Tasks by name; `first` are those of every first round under seed 0, in its order."""

    def __init__(self, *names: str, first: Sequence[str] = ()) -> None:
        self.tasks = {name: task(name, question=name, answer="1", kind=name.partition("-")[0]) for name in names}
        self.first = first

    def batch(self, step: int, size: int, *, seed: int) -> Sequence[Task]:
        if self.first and seed == derive_seed(0, 0, "tasks"):
            return [self.tasks[name] for name in self.first]
        names = sorted(self.tasks)
        return [self.tasks[name] for name in random.Random(f"{seed}/{step}").sample(names, min(size, len(names)))]

    def held_out(self) -> Sequence[Task]:
        return []


class Course(Bank):
    """`first` at the first step, "mixed-0" and "mixed-1" at every other."""

    def batch(self, step: int, size: int, *, seed: int) -> Sequence[Task]:
        return [self.tasks[name] for name in (("mixed-0", "mixed-1") if step else self.first)]


class Sampler:
    """Says what the task's name tells, and is right under a directive; `stop_at` names a round that is interrupted."""

    def __init__(self, texts: dict[str, tuple[str, ...]] | None = None, *, stop_at: int | None = None) -> None:
        self.texts = TEXTS if texts is None else texts
        self.stop_at = stop_at
        self.asked: list[list[str]] = []
        self.seeds: list[int] = []

    def generate(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_tokens: int,
        temperature: float,
        seed: int,
        on_done: Callable[[int, Completion], None] | None = None,
        stop: Sequence[str] = (),
    ) -> list[Completion]:
        names = [decode(prompt).partition("user: ")[2] for prompt in prompts]
        if names and not names[0].endswith("sevens."):
            self.asked.append(list(dict.fromkeys(names)))
            self.seeds.append(seed)
        if len(self.asked) == self.stop_at:
            raise KeyboardInterrupt
        seen: dict[str, int] = {}
        said: list[str] = []
        for name in names:
            texts = ("1",) if name.endswith("sevens.") else self.texts[name.partition("-")[0]]
            said.append(texts[seen.get(name, 0) % len(texts)])
            seen[name] = seen.get(name, 0) + 1
        return engine(*said).generate(
            prompts, max_tokens=max_tokens, temperature=temperature, seed=seed, on_done=on_done
        )


def make(bank: Bank, run_dir: Path, changes: Tree | None = None, *, sampler: Sampler | None = None) -> Trainer:
    config = validate(merge(BASE, changes or {}), source="test")
    critic = config.algorithm.name == "two_channel"
    parts = Parts(
        tasks=bank,
        policy=CharPolicy(),
        engine=sampler or Sampler(),
        reward=ExactReward(),
        plateau=PlateauTracker(config.plateau),
        algorithm=TwoChannel(TwoChannelConfig(use=("refinements",))) if critic else Grpo(GrpoConfig()),
        tracker=Memory(),
        critic=ScriptedCritic([REPLY]) if critic else None,
        refine_template=TEMPLATE if critic else None,
        recycle=build_recycling(config),
    )
    return Trainer(config, parts, run_dir)


def figures(trainer: Trainer) -> list[dict[str, float]]:
    assert isinstance(trainer.parts.tracker, Memory)
    return [dict(values) for values in trainer.parts.tracker.steps()]


def trained(trainer: Trainer) -> list[list[str]]:
    """The task ids of each step's samples."""
    batches = cast(CharPolicy, trainer.parts.policy).trained
    return [list(dict.fromkeys(sample.task_id for sample in batch)) for batch in batches]


def asked(trainer: Trainer) -> list[list[str]]:
    return cast(Sampler, trainer.parts.engine).asked

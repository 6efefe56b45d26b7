"""What the monitors take of a lab step: all default metrics together, and each metric on its own.

`python -m tests.benchmarks.monitors --json` on one core of a CPU; progress on stderr, `--quick` for a smoke run,
`--save FILE` for docs/results. Plain GRPO on the lab with 16 prompts of 8 rollouts a step.

- A share is the processor time inside the monitors over that of whole steps (sampling, verifying, monitors, training)
  of the same run, so that no second run's noise comes in. Every run has steps of its own from the same start and seed.
- The lab is a hard case: its steps take less than a tenth of a second, and a larger model's take seconds.
- The lab's answers are short and have one turn, so metrics of queries, evidence and turns find nothing to compare here.
  `..._on_long_episodes` is the time on a batch of 128 made-up ones that do: two to four turns of fifty words, with two
  documents a search. No share is given, since no model took part; sampling as many tokens takes seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, get_args

from critique_rl.build import build
from critique_rl.config.load import validate
from critique_rl.config.monitors import DEFAULT, Metric
from critique_rl.config.run import RunConfig
from critique_rl.loop.parts import Parts
from critique_rl.loop.train import Trainer
from critique_rl.trackers.jsonl import JsonlTracker
from critique_rl.types import Group, Rollout, Score, Task, Turn
from tests.benchmarks.results import Row, save

TARGET = 0.05
PROMPTS, ROLLOUTS = 16, 8


class Taken(NamedTuple):
    """Processor seconds inside the monitors, and of whole steps."""

    monitors_s: float
    steps_s: float


def config_of(metrics: Sequence[Metric], *, steps: int) -> RunConfig:
    return validate(
        {
            "name": "monitors",
            "policy": {"model": "lab", "device": "cpu", "threads": 1},
            "tasks": {"kind": "lab", "train_easy": 320, "train_hard": 320, "held_out_easy": 1, "held_out_hard": 1},
            "rollout": {"prompts_per_step": PROMPTS, "group_size": ROLLOUTS, "max_tokens": 6, "batch_size": 512},
            "monitors": {"metrics": list(metrics)},
            "budget": {"max_steps": steps},
            "evaluation": {"every": 0},
            "report": {"samples_per_step": 0},
        },
        source="benchmark",
    )


class Watched:
    """A trainer whose steps and monitors are timed."""

    def __init__(self, config: RunConfig, run_dir: Path) -> None:
        self.parts: Parts = build(config, tracker=JsonlTracker(run_dir, resume_step=None))
        self.trainer = Trainer(config, self.parts, run_dir)
        self.inside_s = 0.0
        monitors = self.parts.monitors
        assert monitors is not None
        for name in ("observe", "figures", "messages", "state_dict"):
            setattr(monitors, name, self._timed(getattr(monitors, name)))

    def _timed(self, call: Callable[..., object]) -> Callable[..., object]:
        def timed(*arguments: object) -> object:
            begun = time.process_time()
            try:
                return call(*arguments)
            finally:
                self.inside_s += time.process_time() - begun

        return timed

    def run(self, *, warm_up: int, steps: int) -> Taken:
        whole = getattr(self.trainer, "_whole_step")  # noqa: B009
        for _ in range(warm_up):
            whole()
        self.inside_s = 0.0
        begun = time.process_time()
        for _ in range(steps):
            whole()
        return Taken(self.inside_s, time.process_time() - begun)


def measure(metrics: Sequence[Metric], *, warm_up: int, steps: int) -> Taken:
    with tempfile.TemporaryDirectory() as directory:
        watched = Watched(config_of(metrics, steps=warm_up + steps), Path(directory))
        taken = watched.run(warm_up=warm_up, steps=steps)
        watched.parts.tracker.close()
        return taken


def episodes(seed: int) -> list[Group]:
    """Groups of made-up search episodes, each turn fifty words from a vocabulary of two thousand."""
    draw = random.Random(seed)

    def words(count: int) -> str:
        return " ".join(f"word{draw.randrange(2000)}" for _ in range(count))

    def rollout(task: Task, i: int) -> Rollout:
        turns = tuple(
            Turn(
                start=60 * t,
                end=60 * t + 50,
                text=words(50),
                action="search" if t < 3 else "answer",
                argument=words(5),
                documents=tuple(str(draw.randrange(20)) for _ in range(2)),
            )
            for t in range(draw.randrange(2, 5))
        )
        length = turns[-1].end
        return Rollout(
            id=f"{task.id}/{i}",
            task_id=task.id,
            prompt_ids=(1,),
            completion_ids=(1,) * length,
            behaviour_logprobs=tuple(-draw.random() for _ in range(length)),
            text="\n".join(turn.text for turn in turns),
            finished=True,
            policy_version=0,
            turns=turns,
        )

    groups: list[Group] = []
    for t in range(PROMPTS):
        task = Task(id=str(t), messages=(), answer="1", verifier="exact")
        rollouts = tuple(rollout(task, i) for i in range(ROLLOUTS))
        scores = tuple(Score(reward=float(draw.random() < 0.5), extracted=str(draw.randrange(4))) for _ in rollouts)
        groups.append(Group(task=task, rollouts=rollouts, scores=scores))
    return groups


def time_of_episodes(metrics: Sequence[Metric], *, observations: int) -> float:
    """Seconds of these metrics on one batch of episodes."""
    with tempfile.TemporaryDirectory() as directory:
        parts = Watched(config_of(metrics, steps=1), Path(directory)).parts
        parts.tracker.close()
    monitors = parts.monitors
    assert monitors is not None
    batches = [episodes(seed) for seed in range(observations)]
    begun = time.process_time()
    for step, groups in enumerate(batches):
        monitors.observe(step, [replace(group) for group in groups])
    return (time.process_time() - begun) / observations


def rows(*, quick: bool) -> list[Row]:
    warm_up, steps = (1, 2) if quick else (3, 30)
    lists: dict[str, Sequence[Metric]] = {"default": DEFAULT} | {name: (name,) for name in get_args(Metric)}
    found: list[Row] = []
    for name, metrics in lists.items():
        taken = measure(metrics, warm_up=warm_up, steps=steps)
        share = taken.monitors_s / taken.steps_s
        print(
            f"{name}: {1000 * taken.monitors_s / steps:.2f} ms of {1000 * taken.steps_s / steps:.1f} ms a step",
            file=sys.stderr,
        )
        found.append(Row(f"share_{name}", round(share, 5), "of step", f"< {TARGET}", share < TARGET))
        if name == "default":
            found.append(Row("lab_step", round(1000 * taken.steps_s / steps, 2), "ms"))
    lists = {"default": DEFAULT, "self_bleu": ("self_bleu",), "trajectory_clusters": ("trajectory_clusters",)}
    for name, metrics in lists.items():
        on_episodes = time_of_episodes(metrics, observations=1 if quick else 5)
        found.append(Row(f"{name}_on_long_episodes", round(1000 * on_episodes, 1), "ms"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object a line (the only form there is)")
    parser.add_argument("--quick", action="store_true", help="two steps each: a smoke run")
    parser.add_argument("--save", type=Path, default=None, help="also write the run as a file of docs/results")
    arguments = parser.parse_args()
    begun = time.monotonic()
    found = rows(quick=arguments.quick)
    for row in found:
        print(json.dumps(row._asdict()))
    if arguments.save is not None:
        save(
            arguments.save,
            found,
            name="monitors",
            title="What the monitors take of a lab step",
            seed=0,
            wall_time_s=time.monotonic() - begun,
        )


if __name__ == "__main__":
    main()

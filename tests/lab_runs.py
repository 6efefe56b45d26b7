"""Small runs of the packaged lab policy, with options of their own: the demo's may change without any test noticing."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import torch

from critique_rl.build import build
from critique_rl.config.load import merge, validate
from critique_rl.config.run import RunConfig
from critique_rl.loop.checkpoint import SavedRun
from critique_rl.loop.train import Trainer
from critique_rl.trackers.jsonl import JsonlTracker

Tree = dict[str, object]
LAB: Tree = {
    "name": "small",
    "policy": {"model": "lab", "device": "cpu", "threads": 1},
    "tasks": {"kind": "lab", "train_easy": 6, "train_hard": 6, "held_out_easy": 4, "held_out_hard": 4},
    "rollout": {"prompts_per_step": 4, "group_size": 4, "max_tokens": 6},
    "algorithm": {"name": "two_channel"},
    "plateau": {"min_failures": 4, "max_success": 0.6},
    "critic": {"kind": "lab_rules"},
    "refinement": {"prompt": "lab_refine"},
    "distillation": {"prompt": "lab_teacher"},
    "optimizer": {"learning_rate": 3e-4},
    "budget": {"max_steps": 2},
    "evaluation": {"every": 0},
    "report": {"every": 1},
}
GRPO: Tree = {key: value for key, value in LAB.items() if key not in {"critic", "refinement", "distillation"}} | {
    "algorithm": {"name": "grpo"}
}


def lab_config(changes: Mapping[str, object] | None = None, *, base: Tree = LAB) -> RunConfig:
    """A run of seconds, with some sections changed."""
    return validate(merge(base, changes or {}), source="test")


def lab_trainer(config: RunConfig, run_dir: Path, *, saved: SavedRun | None = None) -> Trainer:
    """Everything built anew, as in a fresh process; with `saved` the files and the state go on from there."""
    step = cast(int, cast(Tree, saved.state["progress"])["step"]) if saved else None
    trainer = Trainer(config, build(config, tracker=JsonlTracker(run_dir, resume_step=step)), run_dir)
    if saved is not None:
        trainer.resume(saved)
    return trainer


def run_lab(config: RunConfig, run_dir: Path) -> Trainer:
    """Train to the end and close the files."""
    trainer = lab_trainer(config, run_dir)
    trainer.run()
    trainer.parts.tracker.close()
    return trainer


def lines(path: Path) -> list[Tree]:
    """A JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def toml(tree: Mapping[str, object]) -> str:
    """A tree of tables and plain values as a TOML file; top-level values come first."""
    plain = [f"{key} = {_value(value)}" for key, value in tree.items() if not isinstance(value, Mapping)]
    tables = [_table(key, cast(Tree, value)) for key, value in tree.items() if isinstance(value, Mapping)]
    return "\n".join([*plain, *tables]) + "\n"


def _table(name: str, values: Mapping[str, object]) -> str:
    return "\n".join([f"\n[{name}]", *(f"{_dotted(key, value)}" for key, value in values.items())])


def _dotted(key: str, value: object) -> str:
    if isinstance(value, Mapping):
        return "\n".join(_dotted(f"{key}.{k}", v) for k, v in cast(Tree, value).items())
    return f"{key} = {_value(value)}"


def _value(value: object) -> str:
    return json.dumps(value)


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    """A copy of every parameter by name."""
    model = cast(torch.nn.Module, trainer.parts.policy.model)  # pyright: ignore[reportAttributeAccessIssue]
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def same_weights(left: Mapping[str, torch.Tensor], right: Mapping[str, torch.Tensor]) -> bool:
    """Whether two sets of weights are equal, bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)

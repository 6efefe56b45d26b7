"""A run of three stages on the lab's sums, in seconds: fine-tuning, single steps, and the critique loop."""

from __future__ import annotations

import json
from pathlib import Path

from tests.lab_runs import LAB, Tree, toml

ROWS = [
    {"prompt": f"{a}+{a + 17}=", "answer": answer, "steps": list(answer), "kind": "sum"}
    for a in range(11, 27)
    for answer in [str(2 * a + 17).zfill(3)[::-1]]
]
STAGES = """
[[stage]]
name = "sft"
algorithm.name = "sft"
budget.max_epochs = 1
[[stage]]
name = "srl"
algorithm.name = "grpo"
tasks = { kind = "steps", prefix = "text", of = { kind = "jsonl", path = "ROWS", held_out_fraction = 0.25 } }
rewards.step_similarity = { kind = "step_similarity", pattern = '(?P<action>[0-9])[\\s\\S]*', form = "4..." }
[[stage]]
name = "rlvr"
"""


def written(directory: Path, *, stages: str = STAGES, **changes: object) -> Path:
    """The run file, with its rows beside it."""
    rows = directory / "rows.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    tasks: Tree = {"kind": "jsonl", "path": str(rows), "held_out_fraction": 0.25}
    budget: Tree = {"max_steps": 3, "max_generated_tokens": 100_000}
    whole: Tree = {"tasks": tasks, "budget": budget, "checkpoint": {"every": 1}, **changes}
    path = directory / "staged.toml"
    path.write_text(toml({**LAB, **whole}) + stages.replace("ROWS", str(rows)), encoding="utf-8")
    return path

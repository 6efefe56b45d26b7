"""Several objectives on two processes: groups that straddle them, and statistics of the whole step's batch."""

from __future__ import annotations

from pathlib import Path

from tests.lab_runs import lines
from tests.ranks.lab_pair import SHORT, Changes, assert_same, lab_runs

GDPO: Changes = {
    **SHORT,
    "rollout": {"batch_size": 3, "group_size": 5, "temperature": 4.0},
    "optimizer": {"micro_batch_tokens": 60},
    "algorithm": {"use": ["targets", "refinements"]},
    "objectives": {
        "combine": "gdpo",
        "of": {
            "right": {"source": "verifier"},
            "short": {"source": "length", "target_tokens": 2, "soft_tokens": 3},
        },
    },
    "budget": {"max_steps": 2},
}


def test_two_processes_make_the_run_of_one(tmp_path: Path) -> None:
    runs = lab_runs(tmp_path, GDPO, ("ddp",))
    for name in ("samples.jsonl", "metrics.jsonl"):
        assert_same(lines(runs["ddp"] / name), lines(runs["one"] / name))
    steps = [row for row in lines(runs["one"] / "metrics.jsonl") if "loss/total" in row]
    assert len(steps) == 2 and all(row["grad/norm"] and row["objectives/live_groups"] for row in steps)

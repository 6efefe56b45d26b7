"""Ten float64 steps of the lab's loop as text. A change that is not meant to change numbers leaves it byte-identical.

python -m tests.golden.ten_steps            print them
python -m tests.golden.ten_steps --write    write ten_steps.txt anew: only for a change that is meant to
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.lab_runs import lab_config, lines, run_lab

GOLDEN = Path(__file__).with_name("ten_steps.txt")
COLUMNS = ("loss/total", "loss/pg", "loss/distill", "loss/imitate", "grad/norm", "reward/mean")
CHANGES = {
    "seed": 1,
    "policy": {"dtype": "float64"},
    "tasks": {"train_easy": 8, "train_hard": 8},
    "rollout": {"group_size": 8},
    "budget": {"max_steps": 10},
    "report": {"samples_per_step": 0},
}


def ten_steps() -> str:
    """Train anew and write each step as one line; the last column is the tokens generated so far."""
    with tempfile.TemporaryDirectory() as folder:
        run_lab(lab_config(CHANGES), Path(folder))
        rows = [row for row in lines(Path(folder) / "metrics.jsonl") if "loss/total" in row]
    head = " ".join(("step", *COLUMNS, "tokens/generated"))
    told = [
        " ".join([f"{row['step']:2d}", *(f"{row[key]:+.9e}" for key in COLUMNS), f"{row['tokens/generated']:.0f}"])
        for row in rows
    ]
    return "\n".join([head, *told]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help=f"write {GOLDEN.name}")
    if parser.parse_args().write:
        GOLDEN.write_text(ten_steps(), encoding="utf-8")
    else:
        print(ten_steps(), end="")


if __name__ == "__main__":
    main()

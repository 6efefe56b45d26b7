"""A lab run with [sampling] switched on: stopped and resumed it is the run that was never stopped."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from critique_rl.loop.checkpoint import latest_checkpoint
from tests.lab_runs import GRPO, LAB, Tree, lab_config, lab_trainer, lines, run_lab, same_weights, weights

ON: Tree = {
    "sampling": {"dynamic": True, "max_rounds": 3, "recycle": True, "recycle_share": 0.5, "unlikeliness": 0.25},
    "tasks": {"train_easy": 20, "train_hard": 20},
    "budget": {"max_steps": 6},
    "checkpoint": {"every": 3, "keep": 9},
}


@pytest.mark.parametrize(("base", "temperature"), [(GRPO, 4.0), (LAB, 1.5)], ids=["grpo", "two_channel"])
def test_a_resumed_run_equals_one_that_was_not_stopped(tmp_path: Path, base: Tree, temperature: float) -> None:
    """Rewards alone need rollouts so hot that some groups are mixed; with a critic the others are a signal, too."""
    on: Tree = {**ON, "rollout": {"temperature": temperature}}
    straight = run_lab(lab_config(on, base=base), tmp_path / "straight")
    whole = [line for line in lines(tmp_path / "straight" / "metrics.jsonl") if "sampling/rounds" in line]
    assert len(whole) == 6 and any(cast(float, line["sampling/rounds"]) > 1 for line in whole)
    assert any(cast(float, line["sampling/recycled"]) > 0 for line in whole[3:])
    stopped = run_lab(lab_config({**on, "budget": {"max_steps": 3}}, base=base), tmp_path / "stopped")
    assert not same_weights(weights(stopped), weights(straight))
    saved = latest_checkpoint(tmp_path / "stopped" / "checkpoints")
    assert saved is not None
    resumed = lab_trainer(lab_config(on, base=base), tmp_path / "stopped", saved=saved)
    resumed.run()
    resumed.parts.tracker.close()
    assert same_weights(weights(resumed), weights(straight))
    assert resumed.progress.generated_tokens == straight.progress.generated_tokens
    again = [line for line in lines(tmp_path / "stopped" / "metrics.jsonl") if "sampling/rounds" in line]
    for one, other in zip(again, whole, strict=True):
        assert {k: v for k, v in one.items() if k.startswith("sampling/")} == {
            k: v for k, v in other.items() if k.startswith("sampling/")
        }

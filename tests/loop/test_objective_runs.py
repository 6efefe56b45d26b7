"""Lab runs with [objectives]: they train, log, warn, resume exactly, and stop before a bad value is learned from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from critique_rl.algorithms.objectives import CombinedObjectives
from critique_rl.errors import DataError
from critique_rl.loop.checkpoint import latest_checkpoint
from critique_rl.protocols import StepReport
from critique_rl.types import TrainSample
from tests.lab_runs import GRPO, LAB, Tree, lab_config, lab_trainer, lines, run_lab, same_weights, weights

RIGHT: Tree = {"source": "verifier"}
SHORT: Tree = {"source": "length", "target_tokens": 2, "soft_tokens": 3}
OWN: Tree = {"source": "python", "function": "lab_objective:even", "low": 0, "high": 1}


HOT: Tree = {"rollout": {"prompts_per_step": 4, "group_size": 4, "max_tokens": 6, "temperature": 8.0}}
"""The lab policy is sure of itself: at temperature 1 hardly any group of four has a spread."""


def several(combine: str = "gdpo", *, of: Tree | None = None, **keys: object) -> Tree:
    return HOT | {"objectives": {"combine": combine, "of": of or {"right": RIGHT, "short": SHORT}, **keys}}


def steps(run_dir: Path) -> list[Tree]:
    return [row for row in lines(run_dir / "metrics.jsonl") if "loss/total" in row]


def write_objective(directory: Path, monkeypatch: pytest.MonkeyPatch, *, body: str) -> None:
    (directory / "lab_objective.py").write_text(f"def even(task, text):\n    {body}\n")
    monkeypatch.syspath_prepend(directory)
    monkeypatch.delitem(__import__("sys").modules, "lab_objective", raising=False)


@pytest.mark.parametrize("combine", ["sum_unscaled", "gdpo", "dvao", "pcgrad", "mgda"])
def test_a_run_trains_and_logs_every_objective(tmp_path: Path, combine: str) -> None:
    trainer = run_lab(lab_config(several(combine), base=GRPO), tmp_path / "run")
    assert isinstance(trainer.parts.algorithm, CombinedObjectives)
    rows = steps(tmp_path / "run")
    assert len(rows) == 2
    for row in rows:
        assert 0 <= float(str(row["objectives/short/mean"])) <= 1 and row["objectives/short/missing"] == 0.0
        assert row["objectives/right/mean"] == pytest.approx(row["reward/mean"])
        assert row["objectives/live_groups"] and row["step/applied"] == 1.0
        assert ("objectives/alpha_1" in row) == (combine in ("pcgrad", "mgda"))
    assert any(row["objectives/short/spread"] for row in rows)


def test_what_is_learned_depends_on_the_combiner(tmp_path: Path) -> None:
    runs = {c: run_lab(lab_config(several(c), base=GRPO), tmp_path / c) for c in ("sum", "gdpo")}
    plain = run_lab(lab_config(HOT, base=GRPO), tmp_path / "plain")
    assert not same_weights(weights(runs["sum"]), weights(runs["gdpo"]))
    assert not same_weights(weights(runs["sum"]), weights(plain))


@pytest.mark.parametrize("combine", ["gdpo", "pcgrad"])
def test_a_resumed_run_is_the_unbroken_one(tmp_path: Path, combine: str) -> None:
    changes = several(combine)
    unbroken = run_lab(lab_config(changes | {"budget": {"max_steps": 4}}, base=GRPO), tmp_path / "one")
    run_lab(lab_config(changes | {"budget": {"max_steps": 2}}, base=GRPO), tmp_path / "two")
    saved = latest_checkpoint(tmp_path / "two/checkpoints")
    assert saved is not None
    resumed = lab_trainer(lab_config(changes | {"budget": {"max_steps": 4}}, base=GRPO), tmp_path / "two", saved=saved)
    resumed.run()
    resumed.parts.tracker.close()
    assert same_weights(weights(unbroken), weights(resumed))
    of_one, of_two = (steps(tmp_path / name) for name in ("one", "two"))
    keys = [key for key in of_one[-1] if key.startswith("objectives/")]
    assert keys and [[row.get(k) for k in keys] for row in of_one] == [[row.get(k) for k in keys] for row in of_two]


def test_the_critics_scores_are_an_objective_of_the_attempts_that_it_saw(tmp_path: Path) -> None:
    base = {key: LAB[key] for key in LAB if key not in {"refinement", "distillation"}}
    changes: Tree = {
        "algorithm": {"use": ["scores"]},
        "objectives": {"combine": "gdpo", "of": {"right": RIGHT, "said": {"source": "critic"}}},
    }
    trainer = run_lab(lab_config(changes, base=base), tmp_path / "run")
    assert trainer.progress.critic.calls > 0
    rows = steps(tmp_path / "run")
    asked = [row for row in rows if "objectives/said/mean" in row]
    # it is asked about wrong attempts of plateaued prompts: the others have no score, and none of 0
    assert asked and all(0 < float(str(row["objectives/said/missing"])) < 1 for row in asked)


def test_right_answers_move_the_answer_and_the_stated_confidence_what_follows(tmp_path: Path) -> None:
    # the last digit that the lab's policy writes stands in for a confidence in tenths
    judge: Tree = {
        "kind": "with_confidence",
        "pattern": r"(?P<answer>[\s\S]*)(?P<confidence>\d)",
        "form": "123",
        "divide_by": 10,
    }
    of: Tree = {
        "right": RIGHT | {"tokens": "answer"},
        "stated": {"source": "confidence", "tokens": "confidence"},
        "short": SHORT | {"tokens": "answer"},
    }
    changes = several("sum_unscaled", of=of) | {"rewards": {"exact": judge}}
    config = lab_config(changes, base=GRPO)
    trainer = lab_trainer(config, tmp_path / "run")
    seen: list[TrainSample] = []
    learn = trainer.parts.policy.step

    def step(samples: Sequence[TrainSample], *, refresh_teacher: bool | None = None) -> StepReport:
        seen.extend(samples)
        return learn(samples, refresh_teacher=refresh_teacher)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer.parts.policy, "step", step)
        trainer.run()
    trainer.parts.tracker.close()
    rows = steps(tmp_path / "run")
    assert all(float(str(row["objectives/stated/spread"])) > 0 for row in rows)
    # two values at most on a rollout: one before its confidence begins, one from there on
    changes_of = [int((s.advantages[1:] != s.advantages[:-1]).sum()) for s in seen]
    assert max(changes_of) == 1 and sum(changes_of) > 3


def test_scores_that_do_not_tell_right_from_wrong_are_an_objective_no_more(tmp_path: Path) -> None:
    base = {key: LAB[key] for key in LAB if key not in {"refinement", "distillation"}}
    same = '{"directives": [], "scores": {"form": 0.5}}'
    changes: Tree = {
        "algorithm": {"use": ["scores"]},
        "critic": {"kind": "scripted", "replies": [same]},
        "objectives": {"combine": "gdpo", "of": {"right": RIGHT, "said": {"source": "critic"}}},
        "trust": {"min_scored": 8},
        "budget": {"max_steps": 12},
    }
    run_lab(lab_config(changes, base=base), tmp_path / "run")
    (event,) = [row for row in lines(tmp_path / "run/events.jsonl") if row["kind"] == "trust"]
    assert "AUROC 0.50" in str(event["message"]) and "no longer used as rewards" in str(event["message"])
    rows, judged = steps(tmp_path / "run"), int(str(event["step"]))
    assert any("objectives/said/mean" in row for row in rows if int(str(row["step"])) < judged)
    after = [row for row in rows if int(str(row["step"])) >= judged]
    assert after and all(row["objectives/said/missing"] == 1.0 for row in after)


def test_a_function_without_values_is_told_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_objective(tmp_path, monkeypatch, body="return None")
    run_lab(lab_config(several(of={"right": RIGHT, "own": OWN}), base=GRPO), tmp_path / "run")
    told = [row for row in lines(tmp_path / "run/events.jsonl") if row["kind"] == "objectives"]
    assert len(told) == 1 and "objective own has no value for any of 16 rollouts" in str(told[0]["message"])


def test_nan_stops_the_run_before_it_is_learned_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_objective(tmp_path, monkeypatch, body="return float('nan')")
    trainer = lab_trainer(lab_config(several(of={"right": RIGHT, "own": OWN}), base=GRPO), tmp_path / "run")
    before = weights(trainer)
    with pytest.raises(DataError, match=r"objectives\.of\.own for rollout '0/.*' of task .* is nan; wanted a finite"):
        trainer.run()
    trainer.parts.tracker.close()
    assert same_weights(before, weights(trainer)) and trainer.progress.step == 0
    # with the function mended the run goes on from what was saved
    write_objective(tmp_path, monkeypatch, body="return len(text) % 2")
    saved = latest_checkpoint(tmp_path / "run/checkpoints")
    assert saved is not None
    mended = lab_trainer(lab_config(several(of={"right": RIGHT, "own": OWN}), base=GRPO), tmp_path / "run", saved=saved)
    mended.run()
    mended.parts.tracker.close()
    assert mended.progress.step == 2

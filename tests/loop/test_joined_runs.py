"""Lab runs under every join, with each part of a critique alone, and of the control arm: what reaches the step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from critique_rl.algorithms.gap_advantages import GapAdvantages
from critique_rl.algorithms.routed import OutcomeRouting
from critique_rl.algorithms.sequential import Sequential
from critique_rl.algorithms.signed import SignedAdvantages
from critique_rl.config.load import load_resolved
from critique_rl.loop.train import Trainer
from tests.lab_runs import GRPO, LAB, Tree, lab_config, lines, run_lab, same_weights, weights

SAMPLED = {"support": "sampled"}
JOINS: dict[str, tuple[type, Tree]] = {
    "advantages": (GapAdvantages, SAMPLED),
    "signed": (SignedAdvantages, SAMPLED),
    "routed": (OutcomeRouting, {}),
    "sequential": (Sequential, {}),
}


def steps(run_dir: Path) -> list[Tree]:
    return [row for row in lines(run_dir / "metrics.jsonl") if "loss/total" in row]


@pytest.mark.parametrize("join", JOINS)
def test_every_join_trains(tmp_path: Path, join: str) -> None:
    wanted, options = JOINS[join]
    trainer = run_lab(lab_config({"distillation": {"join": join, **options}}), tmp_path / "run")
    assert type(trainer.parts.algorithm) is wanted
    rows = steps(tmp_path / "run")
    assert any(row["teacher/scored"] for row in rows)
    keeps_a_loss = join in ("routed", "sequential")
    assert any(row.get("tokens/distill", 0.0) for row in rows) == keeps_a_loss
    if join == "sequential":
        assert all(row["loss/pg"] == row["loss/imitate"] == 0.0 for row in rows if row.get("tokens/distill", 0.0))


@pytest.mark.parametrize("part", ["scores", "targets", "refinements"])
def test_one_part_of_a_critique_alone(tmp_path: Path, part: str) -> None:
    section = {"scores": "", "targets": "distillation", "refinements": "refinement"}[part]
    base = {key: LAB[key] for key in LAB if key not in {"refinement", "distillation"} - {section}}
    config = lab_config({"algorithm": {"use": [part]}}, base=base)
    trainer = run_lab(config, tmp_path / "run")
    assert trainer.progress.critic.calls > 0
    assert (trainer.parts.refine_template is None) == (part != "refinements")
    assert (trainer.parts.teacher_template is None) == (part != "targets")
    rows = steps(tmp_path / "run")
    assert any(row.get("tokens/distill", 0.0) for row in rows) == (part == "targets")
    assert any(row.get("tokens/imitate", 0.0) for row in rows) == (part == "refinements")


def test_in_context_a_refinement_still_trains(tmp_path: Path) -> None:
    run_lab(lab_config({"refinement": {"ratio_mode": "in_context"}}), tmp_path / "run")
    assert any(row["loss/imitate"] for row in steps(tmp_path / "run"))


def test_schedules_travel_in_checkpoints(tmp_path: Path) -> None:
    changes: Tree = {"refinement": {"schedule": "unsolved"}, "distillation": {"schedule": "linear"}}
    run_lab(lab_config(changes), tmp_path / "run")
    state = json.loads((tmp_path / "run/checkpoints/step-000002/state.json").read_text())
    assert state["paces"]["imitate"]["none"] > 0 and state["paces"]["distill"]["backoff"] == 1.0


def test_the_control_arm_asks_no_critic_and_uses_its_own_keys(tmp_path: Path) -> None:
    changes: Tree = {"algorithm": {"name": "self_imitation", "gamma": 0.2, "weight": 0.5}}
    trainer = run_lab(lab_config(changes, base=GRPO), tmp_path / "run")
    read = trainer.parts.policy.train_step.config.refinement  # pyright: ignore[reportAttributeAccessIssue]
    assert (read.gamma, read.weight) == (0.2, 0.5)
    assert trainer.progress.critic.calls == 0


@pytest.mark.parametrize("use", [["scores"], ["targets"], ["refinements", "targets"]])
def test_a_run_of_some_parts_reads_back_and_an_arm_drops_what_it_makes_inert(tmp_path: Path, use: list[str]) -> None:
    from critique_rl.config.load import dump, read_run_file, resolve

    run_file = tmp_path / "run.toml"
    run_file.write_text(
        'algorithm.name = "two_channel"\ncritic.kind = "lab_rules"\nrefinement.gamma = 0.2\ndistillation.k = 5\n'
        f"[arms.some]\nalgorithm.use = {use}\n".replace("'", '"')
    )
    config = resolve(read_run_file(run_file), arm="some")
    resolved = tmp_path / "config.json"
    resolved.write_text(dump(config))
    assert load_resolved(resolved) == config
    assert ("refinement" in config.model_fields_set) == ("refinements" in use)
    assert ("distillation" in config.model_fields_set) == ("targets" in use)


def test_a_trained_refiner_adds_rows_and_at_weight_0_nothing(tmp_path: Path) -> None:
    def run(name: str, **options: object) -> list[Tree]:
        told: Tree = {"rollout": {"temperature": 4.0}, "refinement": {"per_attempt": 4, **options}}
        trainers[name] = run_lab(lab_config(told), tmp_path / name)
        return steps(tmp_path / name)

    trainers: dict[str, Trainer] = {}
    plain, off, on = run("plain"), run("off", train_refiner=0.0), run("on", train_refiner=1.0)
    assert off == plain and same_weights(weights(trainers["off"]), weights(trainers["plain"]))
    assert not same_weights(weights(trainers["on"]), weights(trainers["plain"]))
    first = next(i for i, row in enumerate(plain) if row["refinement/verified"])
    assert float(str(on[first]["rows/trained"])) > float(str(plain[first]["rows/trained"]))
    assert on[first]["refinement/sampled"] == plain[first]["refinement/sampled"]

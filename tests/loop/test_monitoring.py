"""Monitors in whole runs of the lab's policy: they see all, change nothing, and go on alike after a kill."""

from __future__ import annotations

import json
from pathlib import Path
from typing import cast

import pytest

from critique_rl.loop.checkpoint import latest_checkpoint
from critique_rl.loop.monitoring import probe_tasks
from critique_rl.loop.train import Trainer
from critique_rl.types import Group
from tests.lab_runs import GRPO, Tree, lab_config, lab_trainer, lines, run_lab, same_weights, weights
from tests.loop.fakes import task

PLAIN: Tree = {"budget": {"max_steps": 5}, "checkpoint": {"every": 2, "keep": 9}}
WATCHED: Tree = PLAIN | {"monitors": {"probe_tasks": 4, "probe_samples": 2, "probe_every": 2}}


class PowerCut(BaseException):
    """Nothing catches this, and nothing is saved after it."""


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Trainer, Path]:
    run_dir = tmp_path_factory.mktemp("watched")
    return run_lab(lab_config(WATCHED, base=GRPO), run_dir), run_dir


def without_monitors(row: Tree) -> Tree:
    return {key: value for key, value in row.items() if not key.startswith("monitor/")}


def test_figures_of_batches_and_probes_are_logged(straight: tuple[Trainer, Path]) -> None:
    rows = lines(straight[1] / "metrics.jsonl")
    batches = [row["step"] for row in rows if "monitor/batch/pass@1" in row]
    probes = [row["step"] for row in rows if "monitor/probe/pass@1" in row]
    assert batches == [1, 2, 3, 4, 5]
    assert probes == [0, 2, 4, 5]  # before the first step, every second one, and at the end


def test_a_watched_run_trains_as_an_unwatched_one(straight: tuple[Trainer, Path], tmp_path: Path) -> None:
    plain = run_lab(lab_config(PLAIN, base=GRPO), tmp_path)
    assert same_weights(weights(plain), weights(straight[0]))
    told = [without_monitors(row) for row in lines(straight[1] / "metrics.jsonl")]
    assert [row for row in told if set(row) > {"step"}] == lines(tmp_path / "metrics.jsonl")
    assert plain.progress.generated_tokens == straight[0].progress.generated_tokens  # probes do not count


def test_a_resumed_run_has_equal_figures(straight: tuple[Trainer, Path], tmp_path: Path) -> None:
    killed = lab_trainer(lab_config(WATCHED, base=GRPO), tmp_path)
    real = killed.parts.policy.step

    def dies(samples: object, **options: object) -> object:
        if killed.progress.step == 3:
            raise PowerCut
        return real(samples, **options)  # pyright: ignore[reportArgumentType]

    killed.parts.policy.step = dies  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(PowerCut):
        killed.run()
    killed.parts.tracker.close()
    saved = latest_checkpoint(tmp_path / "checkpoints")
    assert saved is not None and saved.directory.name == "step-000002"
    assert "monitors" in saved.state

    resumed = lab_trainer(lab_config(WATCHED, base=GRPO), tmp_path, saved=saved)
    resumed.run()
    resumed.parts.tracker.close()
    for name in ("metrics.jsonl", "events.jsonl"):
        assert (tmp_path / name).read_bytes() == (straight[1] / name).read_bytes(), name
    assert resumed.parts.monitors is not None and straight[0].parts.monitors is not None
    assert resumed.parts.monitors.state_dict() == straight[0].parts.monitors.state_dict()
    last = (straight[1] / "checkpoints/step-000005/state.json").read_text()
    assert json.loads(last)["monitors"] == straight[0].parts.monitors.state_dict()


def test_every_sampled_group_is_seen_also_those_that_are_dropped(tmp_path: Path) -> None:
    """Shares of what a filter of zero-variance groups leaves would be biased."""
    sampling: Tree = {"dynamic": True, "max_rounds": 2, "recycle": False}
    changes: Tree = {"budget": {"max_steps": 1}, "monitors": {"metrics": ["zero_std"]}, "sampling": sampling}
    config = lab_config(changes | {"tasks": {"kind": "lab", "train_easy": 40, "train_hard": 40}}, base=GRPO)
    trainer = lab_trainer(config, tmp_path)
    monitors = trainer.parts.monitors
    assert monitors is not None
    seen: list[Group] = []
    real = monitors.observe

    def observe(step: int, groups: list[Group]) -> None:
        seen.extend(groups)
        real(step, groups)

    monitors.observe = observe  # pyright: ignore[reportAttributeAccessIssue]
    trainer.run()
    trainer.parts.tracker.close()
    assert len(seen) == 8  # both rounds of four
    (row,) = [row for row in lines(tmp_path / "metrics.jsonl") if "monitor/batch/frac_zero_std" in row]
    flat = [len({score.reward for score in group.scores}) == 1 for group in seen]
    assert row["monitor/batch/frac_zero_std"] == sum(flat) / 8 > 0


def test_alerts_are_events(tmp_path: Path) -> None:
    config = lab_config(PLAIN | {"monitors": {}}, base=GRPO)
    trainer = lab_trainer(config, tmp_path)
    monitors = trainer.parts.monitors
    assert monitors is not None
    told = iter([["the first"], [], ["another", "and one more"]])
    monitors.messages = lambda: next(told, [])  # pyright: ignore[reportAttributeAccessIssue]
    trainer.run()
    trainer.parts.tracker.close()
    events = [(e["step"], e["message"]) for e in lines(tmp_path / "events.jsonl") if e["kind"] == "monitors"]
    assert events == [(1, "the first"), (3, "another"), (3, "and one more")]


def test_evaluations_bare_or_with_skills_and_probes_may_be_longer_than_rollouts(tmp_path: Path) -> None:
    changes: Tree = {
        "budget": {"max_steps": 2},
        "rollout": {"max_tokens": 3},
        "evaluation": {"every": 1, "max_tokens": 7},
        "monitors": {"probe_tasks": 2, "probe_samples": 2, "probe_every": 2},
        "skills": {"prompt": "lab_skills", "match_kind": False, "evaluate_with_skills": True},
    }
    changes["skills"] |= {"source": "writer", "writer": {"kind": "lab_rules"}}  # pyright: ignore[reportOperatorIssue]
    trainer = lab_trainer(lab_config(changes, base=GRPO), tmp_path)
    longest: list[int] = []
    real = trainer.parts.engine.generate

    def generate(prompts: object, *, max_tokens: int, **options: object) -> object:
        longest.append(max_tokens)
        return real(prompts, max_tokens=max_tokens, **options)  # pyright: ignore[reportArgumentType]

    trainer.parts.engine.generate = generate  # pyright: ignore[reportAttributeAccessIssue]
    trainer.run()
    trainer.parts.tracker.close()
    # evaluation bare and with skills, probe; rollouts; the evaluation alone; rollouts; all three again
    assert longest == [7, 7, 7, 3, 7, 7, 3, 7, 7, 7]


def test_the_probes_tasks_are_fixed_and_evenly_spread() -> None:
    held_out = [task(str(i)) for i in range(10)]
    assert [t.id for t in probe_tasks(held_out, 4)] == ["0", "2", "5", "7"]
    assert probe_tasks(held_out, 99) == held_out
    assert probe_tasks(held_out, 1) == held_out[:1]


def test_probes_ask_the_same_tasks_all_through_the_run(tmp_path: Path) -> None:
    trainer = lab_trainer(lab_config(WATCHED, base=GRPO), tmp_path)
    monitors = trainer.parts.monitors
    assert monitors is not None
    asked: list[list[str]] = []
    sizes: set[int] = set()
    real = monitors.observe_probe

    def observe(step: int, groups: list[Group]) -> None:
        asked.append([group.task.id for group in groups])
        sizes.update(len(group.rollouts) for group in groups)
        real(step, groups)

    monitors.observe_probe = observe  # pyright: ignore[reportAttributeAccessIssue]
    trainer.run()
    trainer.parts.tracker.close()
    assert len(asked) == 4
    assert all(ids == asked[0] for ids in asked)
    assert sizes == {2}
    own = {t.id for t in trainer.parts.tasks.held_out()}
    assert set(asked[0]) <= own


def test_a_step_that_is_broken_off_leaves_no_reference(tmp_path: Path) -> None:
    trainer = lab_trainer(lab_config(PLAIN | {"monitors": {}}, base=GRPO), tmp_path)
    monitors = trainer.parts.monitors
    assert monitors is not None
    before = monitors.state_dict()

    def interrupted(samples: object, **_: object) -> object:
        raise KeyboardInterrupt

    trainer.parts.policy.step = interrupted  # pyright: ignore[reportAttributeAccessIssue]
    trainer.run()
    trainer.parts.tracker.close()
    assert trainer.stopped_because == "interrupted"
    assert cast("dict[str, object]", monitors.state_dict()) == before

"""The matrix that single-task runs make, and staged runs beside it; the runs themselves are given."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from critique_rl import curriculum
from critique_rl.config.load import read_run_file, resolve
from critique_rl.config.tasks import MixtureTasksConfig
from critique_rl.curriculum import measure, single_task_runs, staged_runs, train_alone
from critique_rl.errors import ConfigError, CritiqueRLError
from critique_rl.experiment import PlannedRun, plan
from critique_rl.schedule.transfer_file import read_transfer
from critique_rl.stats.intervals import wilson_interval

Json = dict[str, object]
RUN = """name = "mix"
seeds = [1, 2]
[policy]
model = "lab"
device = "cpu"
threads = 1
[tasks]
kind = "mixture"
of.math = { kind = "lab", hard_share = 0.0, train_easy = 6, train_hard = 0, held_out_easy = 4, held_out_hard = 0 }
of.write = { kind = "lab", hard_share = 0.0, train_easy = 6, train_hard = 0, held_out_easy = 4, held_out_hard = 2 }
[rollout]
prompts_per_step = 2
group_size = 2
max_tokens = 6
[budget]
max_steps = 1
"""
BASE, ACC = {"math": 0.4, "write": 0.5}, {"math": {"math": 0.7, "write": 0.4}, "write": {"math": 0.4, "write": 0.8}}


def run_file(tmp_path: Path, text: str = RUN) -> Path:
    path = tmp_path / "mix.toml"
    path.write_text(text)
    return path


def levels(**success: float) -> Json:
    found: Json = {}
    for kind, rate in success.items():
        low, high = wilson_interval(rate * 100, 100)
        found[kind] = {"successes": rate * 100, "trials": 100, "success": rate, "low": low, "high": high}
    return found


def given(
    runs: Sequence[PlannedRun], *, jobs: int, resume: bool
) -> Iterator[tuple[PlannedRun, Json | CritiqueRLError]]:
    """Seed 2 does .04 better on everything that is trained."""
    for planned in runs:
        end = {task: value + 0.04 * (planned.seed - 1) for task, value in ACC[planned.arm].items()}
        yield planned, {"start": levels(**BASE), "end": levels(**end)}


def test_single_task_runs_make_the_matrix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curriculum, "_train_all", given)
    said: list[str] = []
    matrix, failed = measure(read_run_file(run_file(tmp_path)), tmp_path / "out", command="x", say=said.append)
    assert matrix is not None
    assert failed == {}
    # The mean of two seeds that differ by .04, with standard error .04 / sqrt(2) / sqrt(2) = .02
    assert matrix.acc.tolist() == [pytest.approx([0.72, 0.42]), pytest.approx([0.42, 0.82])]
    assert matrix.se is not None and matrix.base_se is not None
    assert matrix.se.ravel().tolist() == pytest.approx([0.02] * 4)
    assert matrix.base.tolist() == pytest.approx([0.4, 0.5])
    assert matrix.base_se.tolist() == [0.0, 0.0]
    written = json.loads((tmp_path / "out" / "transfer.json").read_text())
    assert {row["name"]: row["value"] for row in written["rows"]}["math->write"] == pytest.approx(-0.08)
    assert written["seeds"] == [1, 2]
    assert {"command", "commit", "device", "versions", "wall_time_s", "run_file"} <= set(written)
    assert read_transfer(tmp_path / "out" / "transfer.json").acc.tolist() == matrix.acc.tolist()
    assert (tmp_path / "out" / "transfer.png").stat().st_size > 1000
    assert said[-1].startswith("4/4 after write/seed-2: math 44.0%")


def test_of_one_seed_the_errors_are_those_of_its_evaluation(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curriculum, "_train_all", given)
    matrix, _ = measure(read_run_file(run_file(tmp_path)), tmp_path / "out", seeds=[1])
    assert matrix is not None and matrix.se is not None
    low, high = wilson_interval(70, 100)
    assert matrix.se[0, 0] == pytest.approx((high - low) / (2 * 1.959964), rel=1e-6)


def test_a_run_that_fails_is_named_and_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(
        runs: Sequence[PlannedRun], *, jobs: int, resume: bool
    ) -> Iterator[tuple[PlannedRun, Json | CritiqueRLError]]:
        for planned, outcome in given(runs, jobs=jobs, resume=resume):
            yield planned, CritiqueRLError("no room") if planned.arm == "write" and planned.seed == 1 else outcome

    monkeypatch.setattr(curriculum, "_train_all", failing)
    matrix, failed = measure(read_run_file(run_file(tmp_path)), tmp_path / "out")
    assert failed == {"write/seed-1": "no room"}
    assert matrix is not None
    assert matrix.acc[1].tolist() == pytest.approx([0.44, 0.84])  # of seed 2 alone
    none, failed = measure(read_run_file(run_file(tmp_path)), tmp_path / "other", seeds=[1])
    assert (none, set(failed)) == (None, {"write/seed-1"})
    assert not (tmp_path / "other" / "transfer.json").exists()


def test_each_task_is_trained_alone_and_all_are_evaluated(tmp_path: Path) -> None:
    extra = '[forgetting]\naction = "warn"\n[arms.slow]\noptimizer.learning_rate = 1e-6\n[[stage]]\nname = "s"\n'
    alone = single_task_runs(read_run_file(run_file(tmp_path, RUN + extra)), arm="slow")
    configs = {arm: resolve(alone, arm=arm) for arm in alone.arms}
    assert list(configs) == ["math", "write"]
    for name, config in configs.items():
        assert isinstance(config.tasks, MixtureTasksConfig)
        assert (config.tasks.only, set(config.tasks.of)) == ((name,), {"math", "write"})
        assert config.optimizer.learning_rate == 1e-6
        assert config.forgetting is None


def test_bad_run_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"tasks\.kind = 'lab'; wanted \"mixture\""):
        single_task_runs(read_run_file(run_file(tmp_path, 'name = "x"\n')))
    with pytest.raises(ConfigError, match="there is no arm 'slow'"):
        single_task_runs(read_run_file(run_file(tmp_path)), arm="slow")


def test_a_real_run_of_one_task(tmp_path: Path) -> None:
    planned = plan(single_task_runs(read_run_file(run_file(tmp_path))), tmp_path / "out", seeds=[1])[0]
    row = train_alone(planned, False)
    assert not isinstance(row, CritiqueRLError)
    end = row["end"]
    assert isinstance(end, dict) and set(end) == {"math:easy", "write:easy", "write:hard"}
    assert train_alone(planned, True) == row  # finished: kept
    broken = PlannedRun(arm="x", seed=1, config=planned.config, directory=planned.directory / "config.json")
    assert isinstance(train_alone(broken, False), CritiqueRLError)


def stage(name: str, **success: float) -> Json:
    return {"name": name, "end": levels(**success)}


def test_staged_runs_are_read_as_means_over_seeds(tmp_path: Path) -> None:
    rows: list[Json] = [
        {
            "arm": "best",
            "start": levels(**BASE),
            "stages": [stage("write", math=0.4, write=0.6 + more), stage("math", math=0.7, write=0.5 + more)],
        }
        for more in (0.0, 0.2)
    ]
    joint: Json = {"arm": "joint", "start": levels(**BASE), "end": levels(**BASE)}
    (tmp_path / "summary.json").write_text(json.dumps({"results": [*rows, joint]}))
    found = staged_runs(tmp_path, ("math", "write"))
    assert [(run.arm, run.seeds, run.order) for run in found] == [("best", 2, ("write", "math"))]
    assert found[0].start == pytest.approx((0.5, 0.4))  # in the order of the stages
    assert found[0].results[0] == pytest.approx((0.7, 0.4))
    assert found[0].results[1] == pytest.approx((0.6, 0.7))
    (tmp_path / "ablation.json").write_text(json.dumps({"runs": rows[:1]}))
    assert staged_runs(tmp_path, ("math", "write"))[0].seeds == 1


def test_directories_without_a_staged_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no finished run with one stage for each of math, write"):
        staged_runs(tmp_path, ("math", "write"))
    (tmp_path / "summary.json").write_text("{}")
    with pytest.raises(ConfigError, match="cannot be read as the result of runs"):
        staged_runs(tmp_path, ("math", "write"))

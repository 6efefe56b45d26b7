"""A run in stages: where each begins, what is handed on, one course of them all, and a resume after a kill anywhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest
from safetensors.torch import load_file

from critique_rl.ablation import ablate
from critique_rl.config.load import load_resolved, read_run_file
from critique_rl.errors import ConfigError
from critique_rl.experiment import plan, run_all
from critique_rl.loop.checkpoint import latest_checkpoint
from critique_rl.loop.run_state import RunState
from critique_rl.loop.train import Trainer
from critique_rl.stages import SKIPPED, final_run, run_planned
from tests.lab_runs import Tree, lines
from tests.staged_runs import STAGES, written

NAMES = ("sft", "srl", "rlvr")
FOLDERS = tuple(f"stage-{n}-{name}" for n, name in enumerate(NAMES, start=1))


def train(path: Path, out: Path, *overrides: tuple[str, str], resume: bool = False) -> Tree:
    (planned,) = plan(read_run_file(path, overrides), out)
    return run_planned(planned, resume=resume, console=False)


def read(path: Path) -> Tree:
    return json.loads(path.read_text(encoding="utf-8"))


def timeless(row: Mapping[str, object]) -> Tree:
    return {key: value for key, value in row.items() if key != "train_wall_s"}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    run_file = read_run_file(written(folder))
    out = folder / "out"
    run_all(plan(run_file, out), out, title="Three stages", checks=[], command="", run=run_planned)
    return folder


def same_results(resumed: Path, straight: Path) -> None:
    """Everything that a run leaves, but for what a clock says."""
    for name in ("metrics.jsonl", "samples.jsonl", "events.jsonl"):
        for folder in ("", *FOLDERS):
            assert (resumed / folder / name).read_bytes() == (straight / folder / name).read_bytes(), (folder, name)
    for folder in FOLDERS:
        ours, theirs = (weights_of(out / folder) for out in (resumed, straight))
        assert ours == theirs, folder
    ours, theirs = (cast("list[Tree]", read(out / "summary.json")["results"]) for out in (resumed, straight))
    assert [timeless(row) for row in ours] == [timeless(row) for row in theirs]


def weights_of(stage: Path) -> bytes:
    saved = latest_checkpoint(stage / "checkpoints")
    assert saved is not None
    return (saved.directory / "policy" / "model.safetensors").read_bytes()


# -- what a run of stages is -------------------------------------------------------------------------------------------


def test_each_stage_begins_with_the_policy_of_the_one_before(unbroken: Path) -> None:
    out = unbroken / "out"
    for before, after in pairwise(FOLDERS):
        saved = latest_checkpoint(out / before / "checkpoints")
        config = load_resolved(out / after / "config.json")
        assert saved is not None and Path(config.policy.model) == (saved.directory / "policy").resolve()
        first = lines(out / after / "metrics.jsonl")[0]
        assert first["step"] == 0 and "eval/sum" in first
    assert load_resolved(out / FOLDERS[0] / "config.json").policy.model == "lab"
    seeds = [load_resolved(out / folder / "config.json").seed for folder in FOLDERS]
    assert seeds[0] == 0 and len(set(seeds)) == 3  # the first stage is what it would be alone


def test_a_stage_learned_something_of_its_own(unbroken: Path) -> None:
    out = unbroken / "out"
    sft, srl, rlvr = (
        [row for row in lines(out / folder / "metrics.jsonl") if "loss/total" in row] for folder in FOLDERS
    )
    assert [row["tokens/generated"] for row in sft] == [0.0, 0.0, 0.0]
    assert all(row["tokens/trained"] == 16.0 for row in sft)  # 4 demonstrations of 3 digits and the end token
    assert all("rollout/format_errors" in row for row in srl) and all("reward/sum step" in row for row in srl)
    assert all("reward/sum" in row for row in rlvr) and rlvr[-1]["critic/calls"] > 0  # pyright: ignore[reportOperatorIssue]
    assert all("ratio/mean" not in row and "reward/mean" not in row for row in sft)
    assert None not in {value for row in sft for value in row.values()}  # NaN is written as null


def test_the_whole_is_one_course(unbroken: Path) -> None:
    out = unbroken / "out"
    summary = read(out / "summary.json")
    (row,) = cast("list[Tree]", summary["results"])
    stages = cast("list[Tree]", row["stages"])
    assert [stage["name"] for stage in stages] == list(NAMES)
    assert row["algorithm"] == "sft > grpo > two_channel"
    assert row["steps"] == 9 and row["generated_tokens"] == sum(
        cast(int, stage["generated_tokens"]) for stage in stages
    )
    assert stages[0]["stopped_because"] == "epochs done: 1 of 3 steps" and stages[0]["generated_tokens"] == 0
    assert row["start"] == read_row(out / FOLDERS[0])["start"] and row["end"] == read_row(out / FOLDERS[2])["end"]
    metrics = lines(out / "metrics.jsonl")
    steps = [cast(int, m["step"]) for m in metrics]
    assert steps == sorted(steps) and steps[-1] == 9
    assert [m["step"] for m in metrics if "loss/total" in m] == list(range(1, 10))
    tokens = [cast(float, m["tokens/generated"]) for m in metrics]
    assert tokens == sorted(tokens) and tokens[-1] == row["generated_tokens"]
    marks = [cast(str, e["message"]) for e in lines(out / "events.jsonl") if e["kind"] == "stage"]
    assert marks[0] == "stage 1 of 3, sft (sft) begins" and len(marks) == 6
    assert marks[1] == "stage 1 of 3, sft (sft) ends: epochs done: 1 of 3 steps after 3 steps"
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "Three stages" in page and "stage 2 of 3, srl (grpo) begins" in page


def read_row(stage: Path) -> Tree:
    return cast("list[Tree]", read(stage / "summary.json")["results"])[0]


def test_the_final_policy_is_the_last_stages(unbroken: Path) -> None:
    (planned,) = plan(read_run_file(unbroken / "staged.toml"), unbroken / "out")
    found = final_run(planned)
    assert found.directory == unbroken / "out" / FOLDERS[2]
    assert found.config == load_resolved(found.directory / "config.json")


def test_no_tokens_left_skips_a_stage(tmp_path: Path) -> None:
    path = written(tmp_path, budget={"max_steps": 2, "max_generated_tokens": 60})
    row = train(path, tmp_path / "out")
    stages = cast("list[Tree]", row["stages"])
    reasons = [stage["stopped_because"] for stage in stages]
    assert reasons == ["step budget spent", "generated-token budget spent", SKIPPED]
    assert [stage["name"] for stage in stages] == list(NAMES)
    assert not (tmp_path / "out" / FOLDERS[2]).exists()
    assert cast(int, row["generated_tokens"]) >= 60


def test_a_stage_gets_what_the_others_leave(tmp_path: Path) -> None:
    path = written(tmp_path, budget={"max_steps": 2, "max_generated_tokens": 150})
    train(path, tmp_path / "out")
    used = cast(int, read_row(tmp_path / "out" / FOLDERS[1])["generated_tokens"])
    assert 0 < used < 150
    left = load_resolved(tmp_path / "out" / FOLDERS[2] / "config.json").budget.max_generated_tokens
    assert left == 150 - used


def test_adapters_are_merged_between_stages(tmp_path: Path) -> None:
    path = written(
        tmp_path,
        stages="[[stage]]\nname='a'\nalgorithm.name='sft'\n[[stage]]\nname='b'\nalgorithm.name='sft'\n",
        policy={"model": "lab", "device": "cpu", "threads": 1, "lora": {"rank": 2}},
        budget={"max_steps": 1},
    )
    pytest.importorskip("peft")
    train(path, tmp_path / "out")
    whole = tmp_path / "out/stage-1-a/policy"
    assert Path(load_resolved(tmp_path / "out/stage-2-b/config.json").policy.model) == whole.resolve()
    assert not any("lora" in name for name in load_file(whole / "model.safetensors"))


class Remembers:
    """A part with a memory."""

    def __init__(self, state: Tree) -> None:
        self.state = state

    def state_dict(self) -> Tree:
        return self.state

    def load_state_dict(self, state: Tree) -> None:
        self.state = state


def test_memories_are_handed_on_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Skills that both sides have are carried; what one side lacks, and what belongs to a stage, is not."""
    made: list[Remembers] = []

    def memories(self: RunState) -> dict[str, Remembers]:
        found = self.__dict__.setdefault("made", {})
        if not found:
            found |= {name: Remembers({"by": len(made)}) for name in ("skills", "guards")}
            made.extend(found.values())
        return found

    monkeypatch.setattr(RunState, "_memories", memories)
    path = written(tmp_path, stages=STAGES.split('[[stage]]\nname = "rlvr"')[0])
    train(path, tmp_path / "out", ("budget.max_steps", "1"))
    states = [read(next((tmp_path / "out" / folder / "checkpoints").glob("*/state.json"))) for folder in FOLDERS[:2]]
    assert [state["skills"] for state in states] == [{"by": 0}, {"by": 0}]
    assert [state["guards"] for state in states] == [{"by": 0}, {"by": 2}]


ARMS = """
[ablation]
reference = "scalar"
jobs = 2
[arms.scalar]
algorithm.name = "grpo"
[arms.staged]
[[arms.staged.stage]]
name = "sft"
algorithm.name = "sft"
[[arms.staged.stage]]
name = "critics"
"""


@pytest.mark.slow
def test_an_ablation_compares_an_arm_of_stages(tmp_path: Path) -> None:
    path = written(
        tmp_path, stages=ARMS, budget={"max_steps": 2, "max_generated_tokens": 9000, "count_critic_tokens": True}
    )
    found = ablate(read_run_file(path), tmp_path / "out")
    assert not found.failed
    runs = {run["arm"]: run for run in cast("list[Tree]", found.result["runs"])}
    assert runs["staged"]["algorithm"] == "sft > two_channel" and runs["staged"]["steps"] == 4
    assert runs["scalar"]["algorithm"] == "grpo" and found.result["budget_tokens"] == 9000
    assert (tmp_path / "out/staged/seed-0/stage-2-critics/checkpoints").is_dir()
    again = ablate(read_run_file(path), tmp_path / "out", resume=True)
    assert [timeless(run) for run in cast("list[Tree]", again.result["runs"])] == [
        timeless(run) for run in cast("list[Tree]", found.result["runs"])
    ]


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_a_new_run_never_writes_over_an_old_one(unbroken: Path) -> None:
    with pytest.raises(ConfigError, match="already holds an earlier run"):
        train(unbroken / "staged.toml", unbroken / "out")


def test_a_run_is_not_resumed_with_other_stages(unbroken: Path) -> None:
    (planned,) = plan(read_run_file(unbroken / "staged.toml", [("optimizer.learning_rate", "1e-3")]), unbroken / "out")
    with pytest.raises(ConfigError, match=r"stages.json: the run to resume was started with other stages"):
        run_planned(planned, resume=True, console=False)


# -- kills -------------------------------------------------------------------------------------------------------------


class PowerCut(BaseException):
    """Nothing catches this."""


@pytest.mark.parametrize("stage", [1, 2, 3], ids=NAMES)
@pytest.mark.parametrize("step", [0, 2], ids=["first step", "last step"])
def test_a_power_cut_in_any_stage_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Path, stage: int, step: int
) -> None:
    real = Trainer._record  # pyright: ignore[reportPrivateUsage]

    def record(self: Trainer, *arguments: object) -> None:
        real(self, *arguments)  # pyright: ignore[reportArgumentType]
        if self.progress.step == step and self.run_dir.name.startswith(f"stage-{stage}"):
            raise PowerCut

    path = unbroken / "staged.toml"
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_record", record)
        with pytest.raises(PowerCut):
            train(path, tmp_path / "out")
    train(path, tmp_path / "out", resume=True)
    same_results(tmp_path / "out", unbroken / "out")


def test_an_interrupted_stage_is_told_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unbroken: Path
) -> None:
    real = Trainer._record  # pyright: ignore[reportPrivateUsage]

    def record(self: Trainer, *arguments: object) -> None:
        real(self, *arguments)  # pyright: ignore[reportArgumentType]
        if self.progress.step == 1 and self.run_dir.name == FOLDERS[1]:
            raise KeyboardInterrupt

    path = unbroken / "staged.toml"
    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "_record", record)
        row = train(path, tmp_path / "out")
    assert row["stopped_because"] == "interrupted" and row["steps"] == 4
    assert not (tmp_path / "out" / FOLDERS[2]).exists()
    row = train(path, tmp_path / "out", resume=True)
    assert row["stopped_because"] == "step budget spent" and row["steps"] == 9
    assert weights_of(tmp_path / "out" / FOLDERS[2]) == weights_of(unbroken / "out" / FOLDERS[2])


@pytest.mark.slow
def test_a_process_killed_in_each_stage_ends_as_if_it_had_not_been(tmp_path: Path, unbroken: Path) -> None:
    """SIGKILL in stage 1, then in stage 2, then in stage 3; the fourth process brings it to its end."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "critique_rl", "train", str(unbroken / "staged.toml"), "--output", str(out)]
    for folder in FOLDERS:
        kill_within(command, out / folder / "metrics.jsonl")
        command = [*command, "--resume"] if "--resume" not in command else command
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, env=environment())
    assert done.returncode == 0, done.stderr
    same_results(out, unbroken / "out")


def kill_within(command: list[str], metrics: Path) -> None:
    """Kill the process as soon as this file has a line of a step."""
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, env=environment()
    )
    deadline = time.monotonic() + 120
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if metrics.exists() and metrics.read_bytes().count(b"\n") > 1:
                break
            time.sleep(0.002)
    finally:
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        _, said = process.communicate()
    assert process.returncode == -signal.SIGKILL, said.decode()


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}

"""Arms x seeds of one run file: where runs lie, what the summary holds, and what a resume keeps."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import cast

import pytest

from critique_rl import experiment
from critique_rl.config.load import RunFile, read_run_file
from critique_rl.errors import CheckpointError, ConfigError, ModelError
from critique_rl.experiment import PlannedRun, plan, run_all, run_one
from critique_rl.loop.train import Trainer
from tests.lab_runs import GRPO, LAB, Tree, lab_config, lines, toml

ARMS: Tree = {"scalar": {"algorithm": {"name": "grpo"}}, "both": {"algorithm": {"name": "two_channel"}}}


def run_file(tmp_path: Path, tree: Tree | None = None, *overrides: tuple[str, str]) -> RunFile:
    path = tmp_path / "run.toml"
    path.write_text(toml({**LAB, **(tree or {})}))
    return read_run_file(path, overrides)


def with_arms(tmp_path: Path, **changes: object) -> RunFile:
    arms = {name: arm for name, arm in ARMS.items()}
    path = tmp_path / "run.toml"
    checks = '[[checks]]\nname = "stuck"\narm = "scalar"\nclass = "hard"\nat_most = 0.0\n'
    text = toml({**LAB, **changes}) + "".join(
        f'\n[arms.{name}]\nalgorithm.name = "{cast(Tree, cast(Tree, arm)["algorithm"])["name"]}"\n'
        for name, arm in arms.items()
    )
    path.write_text(text + checks)
    return read_run_file(path)


def read(path: Path) -> Tree:
    return json.loads(path.read_text(encoding="utf-8"))


def files_under(path: Path) -> list[str]:
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.is_file() and "checkpoints" not in p.parts)


def one(config: object, directory: Path) -> PlannedRun:
    return PlannedRun(arm="small", seed=0, config=config, directory=directory)  # pyright: ignore[reportArgumentType]


# -- the plan ----------------------------------------------------------------------------------------------------------


def test_a_single_run_lies_in_the_output_itself(tmp_path: Path) -> None:
    (planned,) = plan(run_file(tmp_path), tmp_path / "out")
    assert (planned.arm, planned.seed, planned.directory) == ("small", 0, tmp_path / "out")
    (planned,) = plan(with_arms(tmp_path), tmp_path / "out", arms=["both"], seeds=[4])
    assert (planned.arm, planned.seed, planned.directory) == ("both", 4, tmp_path / "out")
    assert planned.config.seed == 4


def test_arms_and_seeds_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    out = tmp_path / "out"
    runs = plan(with_arms(tmp_path, seeds=[3, 1]), out)
    assert [(r.arm, r.seed) for r in runs] == [("scalar", 3), ("both", 3), ("scalar", 1), ("both", 1)]
    assert [r.directory for r in runs] == [out / arm / f"seed-{s}" for s in (3, 1) for arm in ("scalar", "both")]
    assert [r.config.algorithm.name for r in runs[:2]] == ["grpo", "two_channel"]
    several_seeds = plan(run_file(tmp_path), out, seeds=[1, 2])
    assert [r.directory for r in several_seeds] == [out / "small/seed-1", out / "small/seed-2"]


def test_what_is_asked_for_twice_is_run_once(tmp_path: Path) -> None:
    runs = plan(with_arms(tmp_path), tmp_path, arms=["both", "both"], seeds=[1, 1, 2])
    assert [(r.arm, r.seed) for r in runs] == [("both", 1), ("both", 2)]


def test_every_arm_is_validated_before_the_first_one_starts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no arm 'botch'"):
        plan(with_arms(tmp_path), tmp_path, arms=["scalar", "botch"])


# -- the summary -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def both_arms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arms")
    parsed = with_arms(folder)
    out = folder / "out"
    report = run_all(
        plan(parsed, out), out, title="Two arms", checks=parsed.checks, command="critique-rl train run.toml"
    )
    assert report == out / "report.html" and "Two arms" in report.read_text(encoding="utf-8")
    return out


def test_the_layout_of_several_runs(both_arms: Path) -> None:
    of_a_run = ["config.json", "events.jsonl", "metrics.jsonl", "samples.jsonl", "summary.json"]
    assert files_under(both_arms) == sorted(
        ["report.html", "summary.json", *(f"{arm}/seed-0/{f}" for arm in ("both", "scalar") for f in of_a_run)]
    )
    assert [p.name for p in sorted(both_arms.glob("*/seed-0/checkpoints/*"))] == ["step-000002"] * 2


def test_the_fields_of_a_summary(both_arms: Path) -> None:
    summary = read(both_arms / "summary.json")
    assert (summary["title"], summary["arms"], summary["seeds"]) == ("Two arms", ["scalar", "both"], [0])
    assert summary["runs"] == {"scalar/0": "scalar/seed-0", "both/0": "both/seed-0"}
    assert summary["command"] == "critique-rl train run.toml"
    assert cast(Tree, summary["versions"])["torch"] == version("torch")
    assert cast(float, summary["wall_time_s"]) > 0
    table = cast("list[Tree]", summary["table"])
    assert [(row["arm"], row["class"]) for row in table] == [
        (arm, kind) for arm in ("scalar", "both") for kind in ("easy", "hard")
    ]
    for row in table:
        assert row["success"] == cast(int, row["successes"]) / cast(int, row["trials"])
        assert row["trials"] == 4 and row["steps"] == 2
        assert cast(float, row["low"]) <= cast(float, row["success"]) <= cast(float, row["high"])
    scalar, both = cast("list[Tree]", summary["results"])
    assert scalar["critic_calls"] == 0 and scalar["first_critic_step"] is None
    assert cast(int, both["critic_calls"]) > 0 and both["critic_outcomes"] == {"ok": both["critic_calls"]}
    # steps are counted from 1, as in the metrics
    rows = [row for row in lines(both_arms / "both/seed-0/metrics.jsonl") if "loss/total" in row]
    assert both["first_critic_step"] == next(row["step"] for row in rows if row["critic/calls"])
    assert both["stall_step"] == next(row["step"] for row in rows if row["plateau/plateaued"])
    assert both["generated_tokens"] == rows[-1]["tokens/generated"]
    assert both["stopped_because"] == "step budget spent"
    assert cast(Tree, both["start"]).keys() == cast(Tree, both["end"]).keys() == {"easy", "hard"}


def test_a_run_has_the_summary_of_itself(both_arms: Path) -> None:
    alone = read(both_arms / "both/seed-0/summary.json")
    assert (alone["arms"], alone["runs"], alone["checks"]) == (["both"], {"both/0": "."}, [])
    assert alone["results"] == cast("list[Tree]", read(both_arms / "summary.json")["results"])[1:]


def test_what_else_an_evaluation_measures_is_in_the_summary(tmp_path: Path) -> None:
    weighted: Tree = {"algorithm": {"name": "weighted_reinforce", "preset": "nsr"}, "budget": {"max_steps": 1}}
    several: Tree = {"evaluation": {"every": 0, "samples_per_task": 3, "pass_at": [1, 3]}}
    run_one(one(lab_config(weighted | several, base=GRPO), tmp_path), console=False)
    summary = read(tmp_path / "summary.json")
    (result,) = cast("list[dict[str, dict[str, dict[str, Tree]]]]", summary["results"])
    rows = {cast(str, row["name"]): row for row in cast("list[Tree]", summary["rows"])}
    first, *_, last = lines(tmp_path / "metrics.jsonl")
    for when, logged in (("start", first), ("end", last)):
        for kind, success in result[when].items():
            assert list(success["rates"]) == ["pass@1", "pass@3", "pass^3", "majority_vote"]
            for name, rate in cast("dict[str, dict[str, float]]", success["rates"]).items():
                assert rate["low"] <= rate["value"] <= rate["high"]
                assert logged[f"eval/{kind}/{name}"] == rate["value"]
            assert cast(Tree, success["rates"]["pass@1"])["value"] == pytest.approx(success["success"])
    for kind in ("easy", "hard"):
        row = rows[f"small/seed-0/{kind}/pass@3"]
        assert row["value"] == last[f"eval/{kind}/pass@3"] and row["unit"] == "share of held-out tasks"
    step = lines(tmp_path / "metrics.jsonl")[1]
    assert step["reinforce/kept_share"] == pytest.approx(1 - cast(float, step["reinforce/right_share"]))


def test_checks_are_judged(both_arms: Path) -> None:
    (check,) = cast("list[Tree]", read(both_arms / "summary.json")["checks"])
    hard = cast("list[Tree]", read(both_arms / "summary.json")["table"])[1]
    assert (check["name"], check["target"], check["value"]) == ("stuck", "<= 0", hard["success"])
    assert check["holds"] is (hard["success"] == 0.0)


TABLE: list[Tree] = [
    {"arm": "a", "class": "hard", "success": 0.75},
    {"arm": "a", "class": "hard", "success": 0.8},
    {"arm": "a", "class": "easy", "success": 0.1},
    {"arm": "b", "class": "hard", "success": 0.04},
]


@pytest.mark.parametrize(
    ("check", "value", "target", "holds"),
    [
        ({"arm": "a", "class": "hard", "at_least": 0.75}, 0.75, ">= 0.75", True),
        ({"arm": "a", "class": "hard", "at_least": 0.76}, 0.75, ">= 0.76", False),  # the worst seed decides
        ({"arm": "a", "class": "hard", "at_most": 0.8}, 0.8, "<= 0.8", True),
        ({"arm": "a", "class": "hard", "at_most": 0.79}, 0.8, "<= 0.79", False),
        ({"arm": "b", "class": "hard", "at_most": 0.05}, 0.04, "<= 0.05", True),
        ({"arm": "b", "class": "hard", "at_least": 0}, 0.04, ">= 0", True),
        ({"arm": "c", "class": "hard", "at_most": 0.5}, None, "<= 0.5", None),
    ],
)
def test_bounds_by_hand(check: Tree, value: float | None, target: str, holds: bool | None) -> None:
    judged = experiment._judged({"name": "n", **check}, TABLE)  # pyright: ignore[reportPrivateUsage]
    assert judged == {"name": "n", "value": value, "unit": "success", "target": target, "holds": holds}


def test_a_check_without_a_bound_stops_before_the_first_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="'n': give exactly one of at_most and at_least"):
        run_all(
            plan(run_file(tmp_path), tmp_path / "out"), tmp_path / "out", title="", checks=[{"name": "n"}], command=""
        )
    assert not (tmp_path / "out").exists()


# -- resuming ----------------------------------------------------------------------------------------------------------


class PowerCut(BaseException):
    """Nothing catches this."""


def stop_at(
    monkeypatch: pytest.MonkeyPatch, step: int, error: type[BaseException], *, arm: str = "two_channel"
) -> None:
    """The named arm's run is stopped in the middle of that step (counted from 0)."""
    real = Trainer._record  # pyright: ignore[reportPrivateUsage]

    def record(self: Trainer, *arguments: object) -> None:
        real(self, *arguments)  # pyright: ignore[reportArgumentType]
        if self.progress.step == step and self.config.algorithm.name == arm:
            raise error

    monkeypatch.setattr(Trainer, "_record", record)


def test_an_interrupted_arm_goes_on_and_finished_arms_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, both_arms: Path
) -> None:
    parsed, out = with_arms(tmp_path), tmp_path / "out"
    runs = plan(parsed, out)
    with monkeypatch.context() as patched:
        stop_at(patched, 1, KeyboardInterrupt)
        run_all(runs, out, title="", checks=[], command="")
    summary = read(out / "summary.json")
    assert [row["stopped_because"] for row in cast("list[Tree]", summary["results"])] == [
        "step budget spent",
        "interrupted",
    ]
    assert read(out / "both/seed-0/checkpoints/step-000001/state.json")
    untouched = {path: path.stat().st_mtime_ns for path in (out / "scalar").rglob("*")}

    run_all(runs, out, title="", checks=[], command="", resume=True)
    assert {path: path.stat().st_mtime_ns for path in (out / "scalar").rglob("*")} == untouched
    resumed = cast("list[Tree]", read(out / "summary.json")["results"])
    straight = cast("list[Tree]", read(both_arms / "summary.json")["results"])
    assert [timeless(row) for row in resumed] == [timeless(row) for row in straight]
    for name in ("metrics.jsonl", "samples.jsonl"):
        assert (out / "both/seed-0" / name).read_bytes() == (both_arms / "both/seed-0" / name).read_bytes()
    weights = "both/seed-0/checkpoints/step-000002/policy/model.safetensors"
    assert (out / weights).read_bytes() == (both_arms / weights).read_bytes()


def timeless(row: Tree) -> Tree:
    return {key: value for key, value in row.items() if key != "train_wall_s"}


def test_an_interruption_ends_the_whole_experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_at(monkeypatch, 0, KeyboardInterrupt, arm="grpo")
    parsed, out = with_arms(tmp_path), tmp_path / "out"
    run_all(plan(parsed, out), out, title="", checks=[], command="")
    assert not (out / "both").exists()
    assert read(out / "summary.json")["runs"] == {"scalar/0": "scalar/seed-0"}
    assert (out / "report.html").exists()


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        stop_at(patched, 1, PowerCut)
        with pytest.raises(PowerCut):
            run_one(one(lab_config(), tmp_path / "a"))
    assert len(lines(tmp_path / "a/metrics.jsonl")) == 2  # the first evaluation and one step
    run_one(one(lab_config(), tmp_path / "a"), resume=True)
    run_one(one(lab_config(), tmp_path / "b"))
    for name in ("metrics.jsonl", "events.jsonl", "samples.jsonl"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def not_built(*_: object, **__: object) -> object:
    raise AssertionError("a finished run was built again")


@pytest.mark.parametrize("single", [False, True], ids=["of several", "single"])
def test_a_finished_run_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, single: bool) -> None:
    out = tmp_path / "out"
    runs = plan(run_file(tmp_path), out, seeds=[0] if single else [0, 1])
    run_all(runs, out, title="", checks=[], command="")
    before = read(out / "summary.json")
    monkeypatch.setattr(experiment, "build", not_built)
    run_all(runs, out, title="", checks=[], command="", resume=True)
    assert read(out / "summary.json")["results"] == before["results"]


def test_a_finished_run_whose_summary_is_lost_gets_it_back(tmp_path: Path) -> None:
    first = run_one(one(lab_config(), tmp_path))
    metrics = (tmp_path / "metrics.jsonl").read_bytes()
    for broken in ("", "{", "[]", '{"results": []}', '{"results": [{"arm": "other", "seed": 0}]}'):
        (tmp_path / "summary.json").write_text(broken)
        assert run_one(one(lab_config(), tmp_path), resume=True) == first
        assert read(tmp_path / "summary.json")["results"] == [first]
    assert (tmp_path / "metrics.jsonl").read_bytes() == metrics


def test_a_finished_run_goes_on_if_its_budget_was_extended(tmp_path: Path) -> None:
    longer = lab_config({"budget": {"max_steps": 4}, "evaluation": {"every": 2}})
    run_one(one(lab_config({"evaluation": {"every": 2}}), tmp_path / "a"))
    extended = run_one(one(longer, tmp_path / "a"), resume=True)
    straight = run_one(one(longer, tmp_path / "b"))
    assert extended["steps"] == 4 and timeless(extended) == timeless(straight)
    assert read(tmp_path / "a/config.json")["budget"]["max_steps"] == 4
    weights = "checkpoints/step-000004/policy/model.safetensors"
    assert (tmp_path / "a" / weights).read_bytes() == (tmp_path / "b" / weights).read_bytes()
    # and what says how long the run is differs, nothing else
    rows = [
        [{k: v for k, v in row.items() if k != "steps/total"} for row in lines(tmp_path / d / "metrics.jsonl")]
        for d in "ab"
    ]
    assert rows[0] == rows[1]


def test_a_run_is_not_resumed_with_another_config(tmp_path: Path) -> None:
    run_one(one(lab_config(), tmp_path))
    other = lab_config({"optimizer": {"learning_rate": 1e-3}, "seed": 1, "budget": {"max_steps": 3}})
    with pytest.raises(
        ConfigError, match=r"another config: seed, optimizer, budget differ from its config.json; resume"
    ):
        run_one(one(other, tmp_path), resume=True)


def test_a_new_run_never_writes_over_an_old_one(tmp_path: Path) -> None:
    run_one(one(lab_config(), tmp_path))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(ConfigError, match="already holds an earlier run"):
        run_one(one(lab_config(), tmp_path))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


# -- faults ------------------------------------------------------------------------------------------------------------


class Closes:
    """A critic that remembers whether it was closed."""

    name = "closes"
    closed = 0

    def review(self, requests: Sequence[object]) -> list[object]:
        raise ModelError("in the middle of the run")

    def close(self) -> None:
        self.closed += 1


def test_a_critic_is_closed_however_the_run_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    critic = Closes()
    monkeypatch.setattr("critique_rl.build.build_critic", lambda *_, **__: critic)
    with pytest.raises(ModelError, match="in the middle"):
        run_one(one(lab_config(), tmp_path))
    assert critic.closed == 1


def full_disk(real: Callable[..., int], name: str) -> Callable[..., int]:
    def write_text(self: Path, *arguments: object, **options: object) -> int:
        if name in self.name:
            real(self, "{", encoding="utf-8")  # half of it is written
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(self, *arguments, **options)

    return write_text


def test_a_full_disk_leaves_the_old_summary_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = plan(run_file(tmp_path), tmp_path / "out")
    run_all(runs, tmp_path / "out", title="", checks=[], command="")
    before = read(tmp_path / "out/summary.json")
    monkeypatch.setattr(Path, "write_text", full_disk(Path.write_text, "summary.json"))
    with pytest.raises(CheckpointError, match=r"summary.json could not be written: No space left on device"):
        run_all(runs, tmp_path / "out", title="", checks=[], command="", resume=True)
    assert read(tmp_path / "out/summary.json") == before
    assert not list((tmp_path / "out").glob(".*.new"))


def test_a_run_on_the_cpu_says_so_on_a_machine_with_a_gpu(both_arms: Path) -> None:
    assert "CPU" in str(read(both_arms / "summary.json")["device"])

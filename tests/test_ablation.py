"""Arms x seeds at equal compute: what is refused, what the table says, what a resume keeps."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import pytest

from critique_rl import ablation
from critique_rl.ablation import ablate, ablation_table, judge_anew
from critique_rl.cli.main import main
from critique_rl.config.ablation import AblationConfig
from critique_rl.config.load import RunFile, read_run_file
from critique_rl.errors import ConfigError
from critique_rl.experiment import PlannedRun
from tests.decisions.test_held_out import GUESS
from tests.lab_runs import LAB, Tree, toml

BUDGET: Tree = {"max_steps": 50, "max_generated_tokens": 600, "count_critic_tokens": True}
SPEC = """
[ablation]
reference = "scalar"
jobs = 2

[[ablation.claims]]
name = "both channels are no worse"
arm = "both"
class = "hard"
not_below = ["scalar"]

[arms.scalar]
algorithm.name = "grpo"

[arms.both]
algorithm.name = "two_channel"
"""


def run_file(tmp_path: Path, *, budget: Tree | None = None, spec: str = SPEC, **changes: object) -> RunFile:
    path = tmp_path / "run.toml"
    path.write_text(toml({**LAB, "seeds": [1, 2], "budget": budget or BUDGET, **changes}) + spec)
    return read_run_file(path)


def result(arm: str, seed: int, *, easy: int, hard: int) -> ablation.Json:
    ends = {kind: {"successes": n, "trials": 100, "success": n / 100} for kind, n in (("easy", easy), ("hard", hard))}
    return {
        "arm": arm,
        "seed": seed,
        "end": ends,
        "steps": 10 * seed,
        "generated_tokens": 600,
        "critic_completion_tokens": 40,
        "critic_calls": 4,
        "train_wall_s": 1.0,
        "stopped_because": "generated-token budget spent",
    }


class FakeRuns:
    """Stands in for the pool: each run's hard success by arm, or an error."""

    def __init__(self, hard: Mapping[str, int | str]) -> None:
        self.hard = hard
        self.started: list[str] = []

    def __call__(self, planned: PlannedRun, resume: bool) -> ablation.Json | ablation.CritiqueRLError:
        self.started.append(f"{planned.arm}/{planned.seed}")
        found = self.hard[planned.arm]
        if isinstance(found, str):
            return ablation.CritiqueRLError(found)
        return result(planned.arm, planned.seed, easy=100, hard=found + planned.seed)


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch):
    def put(hard: Mapping[str, int | str]) -> FakeRuns:
        runs = FakeRuns(hard)

        def train_all(planned: list[PlannedRun], spec: AblationConfig, *, jobs: int, resume: bool):
            for one in planned:
                yield one, runs(one, resume)

        monkeypatch.setattr(ablation, "_train_all", train_all)
        return runs

    return put


def test_the_table_has_means_and_intervals_over_seeds_and_judges_the_claims(tmp_path: Path, fake) -> None:
    fake({"scalar": 0, "both": 90})
    spec = SPEC.replace("not_below", "above")
    said: list[str] = []
    found, failed = ablate(run_file(tmp_path, spec=spec), tmp_path / "out", command="x", say=said.append)
    assert failed == {}
    rows = {(r["arm"], r["class"]): r for r in cast("list[Tree]", found["table"])}
    assert rows["both", "hard"]["mean"] == pytest.approx(0.915)
    assert cast(float, rows["both", "hard"]["low"]) < 0.91 < 0.92 < cast(float, rows["both", "hard"]["high"])
    assert rows["both", "hard"]["critic_tokens"] == 40
    (claim,) = cast("list[Tree]", found["claims"])
    assert claim["holds"] is True
    assert claim["value"] == pytest.approx(
        cast(float, rows["both", "hard"]["low"]) - cast(float, rows["scalar", "hard"]["high"])
    )
    saved = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert saved["rows"][0] == claim
    assert (tmp_path / "out" / "ablation.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "| both | 100.0% (" in ablation_table(found)
    assert "both channels are no worse: holds" in ablation_table(found)
    assert (tmp_path / "out" / "ablation.md").read_text() == ablation_table(found)
    assert not (tmp_path / "out" / "ablation_curves.png").exists()
    assert len(said) == 4


@pytest.mark.parametrize(("hard", "holds"), [(0, False), (40, True), (80, True)])
def test_not_below_refuses_only_what_is_clearly_worse(tmp_path: Path, fake, hard: int, holds: bool) -> None:
    fake({"scalar": 40, "both": hard})
    found, _ = ablate(run_file(tmp_path), tmp_path / "out")
    assert cast("list[Tree]", found["claims"])[0]["holds"] is holds


BY_SEEDS = SPEC.replace('not_below = ["scalar"]', 'above = ["scalar"]\nby = "seeds"')


def test_arms_are_compared_seed_by_seed(tmp_path: Path, fake) -> None:
    fake({"scalar": 40, "both": 60})
    found, _ = ablate(run_file(tmp_path, spec=BY_SEEDS), tmp_path / "out")
    rows = {(r["arm"], r["class"]): r for r in cast("list[Tree]", found["table"])}
    assert "difference" not in rows["scalar", "hard"]
    hard = cast(Tree, rows["both", "hard"]["difference"])
    # 61 and 62 of 100 minus 41 and 42 of 100
    assert hard["values"] == pytest.approx([0.2, 0.2])
    (claim,) = cast("list[Tree]", found["claims"])
    assert (claim["holds"], claim["verdict"], claim["value"]) == (True, "holds", hard["low"])
    assert json.loads((tmp_path / "out" / "ablation.json").read_text())["table"] == found["table"]
    assert "| hard: to scalar |" in (tmp_path / "out" / "ablation.md").read_text()


def test_a_finished_ablation_is_judged_anew_without_training(
    tmp_path: Path, fake, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = fake({"scalar": 40, "both": 41})
    out = tmp_path / "out"
    made, _ = ablate(run_file(tmp_path), out, command="made by this")
    before = len(runs.started)
    run_file(tmp_path, spec=BY_SEEDS.replace("are no worse", "are better"))
    asked = ["ablate", str(tmp_path / "run.toml"), "--output", str(out), "--judge"]
    assert main(asked) == 0  # 1 point of 200 tries is not decided, and no refusal
    printed = capsys.readouterr().out
    assert "- both channels are better: not decided; +1.0 points (" in printed
    found = json.loads((out / "ablation.json").read_text())
    assert len(runs.started) == before
    kept = ("command", "commit", "runs", "table", "seeds", "wall_time_s", "versions")
    assert {key: found[key] for key in kept} == {key: made[key] for key in kept}
    assert found["judged"]["command"].startswith("critique-rl")
    assert found["rows"][0] == found["claims"][0]
    assert len(found["rows"]) == len(cast("list[Tree]", made["rows"]))
    assert (out / "ablation.md").read_text() == ablation_table(found)


@pytest.mark.parametrize("flags", [["--resume"], ["--seeds", "1"], ["--arms", "both"], ["--jobs", "1"]])
def test_what_judging_cannot_heed_is_refused(
    tmp_path: Path, flags: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    run_file(tmp_path)
    assert main(["ablate", str(tmp_path / "run.toml"), "--output", str(tmp_path / "out"), "--judge", *flags]) == 2
    assert "have no effect with --judge; remove them" in capfd.readouterr().err


def test_only_a_result_with_the_same_reference_is_judged(tmp_path: Path, fake) -> None:
    fake({"scalar": 40, "both": 41})
    out = tmp_path / "out"
    with pytest.raises(ConfigError, match=r"ablation\.json is no result to judge: .*; run the ablation first"):
        judge_anew(run_file(tmp_path), out)
    ablate(run_file(tmp_path), out)
    other = run_file(tmp_path, spec=SPEC.replace('reference = "scalar"', 'reference = "both"'))
    with pytest.raises(ConfigError, match=r"has the reference arm 'scalar', .* has 'both'; judge with the run file"):
        judge_anew(other, out)
    (out / "ablation.json").write_text("{")
    with pytest.raises(ConfigError, match="is no result to judge"):
        judge_anew(run_file(tmp_path), out)


def test_a_run_that_fails_is_named_and_the_others_go_on(tmp_path: Path, fake) -> None:
    fake({"scalar": 0, "both": "no key"})
    found, failed = ablate(run_file(tmp_path), tmp_path / "out")
    assert failed == {"both/seed-1": "no key", "both/seed-2": "no key"}
    assert [r["arm"] for r in cast("list[Tree]", found["runs"])] == ["scalar", "scalar"]
    assert cast("list[Tree]", found["claims"])[0]["holds"] is None
    assert "both channels are no worse: not measured" in ablation_table(found)


def test_the_reference_is_always_among_the_arms(tmp_path: Path, fake) -> None:
    runs = fake({"scalar": 0, "both": 90})
    ablate(run_file(tmp_path), tmp_path / "out", arms=["both"], seeds=[7])
    assert runs.started == ["scalar/7", "both/7"]


@pytest.mark.parametrize(
    ("budget", "spec", "complaint"),
    [
        ({"max_steps": 2}, SPEC, "no budget.max_generated_tokens"),
        ({"max_steps": 2, "max_generated_tokens": 600}, SPEC, "count_critic_tokens = true"),
        (BUDGET, SPEC + "budget.max_generated_tokens = 700\n", "differs between arms"),
        (BUDGET, SPEC.replace('[ablation]\nreference = "scalar"\njobs = 2', ""), "reference"),
        (BUDGET, SPEC.replace('reference = "scalar"', 'reference = "nobody"'), "no arm 'nobody'"),
        (BUDGET, SPEC.replace('not_below = ["scalar"]', ""), "exactly one of above"),
        (BUDGET, SPEC.replace("not_below", "floor_above = 0.5\nnot_below"), "exactly one of above"),
        (BUDGET, SPEC.replace('not_below = ["scalar"]', "floor_above = 1.0"), "floor_above"),
        (BUDGET, SPEC.replace('not_below = ["scalar"]', "floor_above = 0.5"), "is not evaluated on the way"),
        (
            BUDGET,
            SPEC.replace('not_below = ["scalar"]', "floor_above = 0.5") + "evaluation.every = 50\n",
            "evaluation.every = 50, budget.max_steps = 50",
        ),
        (BUDGET, SPEC.replace("jobs = 2", "jobs = 0"), "jobs"),
    ],
)
def test_what_cannot_be_compared_is_refused(tmp_path: Path, budget: Tree, spec: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        ablate(run_file(tmp_path, budget=budget, spec=spec), tmp_path / "out")


def test_a_file_without_the_section_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(toml({**LAB, "budget": BUDGET}))
    with pytest.raises(ConfigError, match=r"no \[ablation\] section"):
        ablate(read_run_file(path), tmp_path / "out")


def test_real_runs_in_processes_of_their_own_spend_the_same_and_a_resume_repeats_none(tmp_path: Path) -> None:
    spec = SPEC.replace('class = "hard"\nnot_below = ["scalar"]', 'class = "easy"\nfloor_above = 0.01')
    file = run_file(tmp_path, spec=spec, seeds=[1], evaluation={"every": 5})
    found, failed = ablate(file, tmp_path / "out")
    assert failed == {}
    for run in cast("list[Tree]", found["runs"]):
        spent = cast(int, run["generated_tokens"]) + cast(int, run["critic_completion_tokens"])
        assert run["stopped_because"] == "generated-token budget spent"
        assert spent >= 600
        evaluated = cast("list[Tree]", cast(Tree, run["course"])["evaluations"])
        steps = cast(int, run["steps"])
        assert [e["step"] for e in evaluated] == [*range(0, steps, 5), steps]
        assert evaluated[-1]["tokens"] == spent
        assert evaluated[-1]["success"] == {k: e["success"] for k, e in cast("Mapping[str, Tree]", run["end"]).items()}
    both = next(r for r in cast("list[Tree]", found["runs"]) if r["arm"] == "both")
    assert cast(int, both["critic_completion_tokens"]) > 0
    (claim,) = cast("list[Tree]", found["claims"])
    easy = next(r for r in cast("list[Tree]", found["table"]) if (r["arm"], r["class"]) == ("both", "easy"))
    assert claim["value"] == easy["floor"]
    assert claim["holds"] is (cast(float, easy["floor"]) > 0.01)
    assert "easy: floor" in (tmp_path / "out" / "ablation.md").read_text()
    assert (tmp_path / "out" / "ablation_curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    before = (tmp_path / "out" / "both" / "seed-1" / "metrics.jsonl").stat().st_mtime_ns
    again, _ = ablate(file, tmp_path / "out", resume=True)
    assert (tmp_path / "out" / "both" / "seed-1" / "metrics.jsonl").stat().st_mtime_ns == before
    assert again["table"] == found["table"]


@pytest.mark.parametrize(
    ("column", "complaint"),
    [
        ("pass@4", "add 4 to evaluation.pass_at"),
        ("pass^2", "add 2 to evaluation.pass_at"),
        ("majority_vote", "set evaluation.samples_per_task above 1"),
        ("confidence/ece", 'kind = "with_confidence"'),
    ],
)
def test_a_column_that_no_run_would_measure_is_refused_before_the_first(
    tmp_path: Path, column: str, complaint: str
) -> None:
    spec = SPEC.replace("jobs = 2", f'columns = ["{column}"]')
    with pytest.raises(ConfigError, match=complaint):
        ablate(run_file(tmp_path, spec=spec), tmp_path / "out")


@pytest.mark.parametrize("column", ["monitor/probe/format/entropy", "monitor/batch/token_entropy"])
def test_a_figure_of_monitors_that_are_off_is_refused_before_the_first(tmp_path: Path, column: str) -> None:
    spec = SPEC.replace("jobs = 2", f'columns = ["{column}"]\nclasses = ["all", "hard", "easy"]')
    with pytest.raises(ConfigError, match=r"set monitors\.probe_tasks, or monitors\.batch"):
        ablate(run_file(tmp_path, spec=spec), tmp_path / "out")


DECISIONS = """
[ablation]
reference = "scalar"
jobs = 2
classes = ["all", "n1"]
columns = ["confidence/ece", "pass@2", "utility@1", "coverage@1"]
decisions = { penalties = [1], by_confidence = ["rlcr"] }

[[ablation.claims]]
name = "worth no less"
arm = "rlcr"
class = "all"
metric = "utility@1"
not_below = ["scalar"]

[arms.scalar]
algorithm.name = "grpo"

[arms.rlcr.objectives]
combine = "sum_unscaled"
of.accuracy = { source = "verifier" }
of.confidence = { source = "confidence" }
"""


def test_decisions_and_calibration_are_of_all_classes_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def here(planned: list[PlannedRun], spec: AblationConfig, *, jobs: int, resume: bool):
        for one in planned:
            yield one, ablation._train(one, resume, spec)  # pyright: ignore[reportPrivateUsage]

    monkeypatch.setattr(ablation, "_train_all", here)
    evaluation: Tree = {"every": 0, "samples_per_task": 2, "pass_at": [2]}
    budget: Tree = {"max_steps": 1, "max_generated_tokens": 5000}
    path = tmp_path / "run.toml"
    path.write_text(toml({**GUESS, "seeds": [1, 2], "evaluation": evaluation, "budget": budget}) + DECISIONS)
    found, failed = ablate(read_run_file(path), tmp_path / "out")
    assert failed == {}
    rows = {(row["arm"], row["class"]): row for row in cast("list[Tree]", found["table"])}
    assert list(rows) == [("scalar", "all"), ("scalar", "n1"), ("rlcr", "all"), ("rlcr", "n1")]
    for run in cast("list[Tree]", found["runs"]):
        answers = tmp_path / "out" / str(run["arm"]) / f"seed-{run['seed']}" / "held_out.jsonl"
        assert len(answers.read_text().splitlines()) == 5 * 6 * 2
        pooled, metrics = cast(Tree, run["pooled"]), cast(Tree, rows[run["arm"], "all"]["metrics"])
        place = cast("list[int]", rows[run["arm"], "all"]["seeds"]).index(cast(int, run["seed"]))
        for name in ("confidence/ece", "utility@1", "coverage@1"):
            assert cast("Mapping[str, list[float]]", metrics[name])["values"][place] == pooled[name]
    one = cast("Mapping[str, Tree]", rows["rlcr", "n1"]["metrics"])
    assert one["utility@1"]["mean"] is None and one["confidence/ece"]["mean"] is not None
    (claim,) = cast("list[Tree]", found["claims"])
    assert claim["holds"] in (True, False)
    assert {"name": "rlcr/all/pass@2", "unit": "held out, mean over seeds"}.items() <= next(
        row for row in cast("list[Tree]", found["rows"]) if row["name"] == "rlcr/all/pass@2"
    ).items()
    assert "all: utility@1" in (tmp_path / "out" / "ablation.md").read_text()


EXAMPLES = sorted(Path(__file__).parents[1].glob("examples/*_lab.toml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_the_examples_ask_only_for_what_their_runs_measure(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "_train_all", lambda *_, **__: iter(()))  # pyright: ignore
    assert ablate(read_run_file(path), tmp_path / "out") == ({}, {})


def test_there_are_examples_of_several_objectives() -> None:
    names = {path.stem for path in EXAMPLES}
    assert names >= {"objectives_lab", "calibration_lab", "negative_reinforcement_lab", "decisions_lab"}

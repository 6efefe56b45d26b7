"""Reading a run directory: complete, partly broken, and hostile."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from critique_rl.errors import DataError
from critique_rl.report.load import load_run_set

MakeRun = Callable[..., Path]


def test_arms_and_seeds_come_in_the_order_of_the_summary(tmp_path: Path, make_run: MakeRun) -> None:
    run_set = load_run_set(make_run(tmp_path))
    assert run_set.arms == ("grpo", "critique_grpo", "two_channel")
    assert [(run.arm, run.seed) for run in run_set.of_arm("two_channel")] == [
        ("two_channel", "1"),
        ("two_channel", "2"),
    ]
    assert run_set.missing == ()
    run = run_set.of_arm("two_channel")[0]
    assert (run.stall_step, run.first_critic_step) == (14, 14)
    assert run.last("critic/calls") == 3 * 146
    assert run_set.of_arm("grpo")[0].first_critic_step is None


def test_folders_are_found_without_a_summary(tmp_path: Path, make_run: MakeRun) -> None:
    (make_run(tmp_path, ("grpo", "two_channel"), (1,)) / "summary.json").unlink()
    run_set = load_run_set(tmp_path)
    assert [(run.arm, run.seed) for run in run_set.runs] == [("grpo", "1"), ("two_channel", "1")]
    assert run_set.missing == ("summary.json is missing: no table of results (the run may not have ended).",)


def test_a_single_run_is_one_arm(tmp_path: Path, make_run: MakeRun) -> None:
    run_set = load_run_set(make_run(tmp_path, ("two_channel",), (1,)))
    assert [(run.arm, run.seed) for run in run_set.runs] == [("two_channel", "1")]
    assert run_set.label("two_channel") == "both channels"
    assert run_set.label("my_method") == "my method"


def test_no_directory_is_an_error_and_an_empty_one_is_not(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such run directory"):
        load_run_set(tmp_path / "nowhere")
    run_set = load_run_set(tmp_path)
    assert len(run_set.runs) == 1
    assert len(run_set.missing) == 4


def test_broken_lines_and_fields_are_named_and_left_out(tmp_path: Path, make_run: MakeRun) -> None:
    make_run(tmp_path, ("grpo",), (1,))
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "a": NaN, "b": 2}\nhalf a li\n{"a": 1}\n')
    (tmp_path / "samples.jsonl").write_text('{"step": 1, "attempts": 7}\n{"step": 2, "task_id": 5, "new_field": 1}\n')
    summary = json.loads((tmp_path / "summary.json").read_text()) | {"wall_time_s": "long", "arms": 3}
    (tmp_path / "summary.json").write_text(json.dumps(summary))
    run_set = load_run_set(tmp_path)
    run = run_set.runs[0]
    assert [(row.step, dict(row.values)) for row in run.metrics] == [(0, {"step": 0.0, "b": 2.0})]
    assert [(sample.step, sample.task_id) for sample in run.samples] == [(2, "5")]
    assert run_set.summary.title == "Column sums with dropped carries"
    notes = "\n".join(run_set.missing)
    for part in (
        "field wall_time_s",
        "field arms",
        "metrics.jsonl:2 is not a JSON object",
        "samples.jsonl:1, field attempts",
    ):
        assert part in notes


@pytest.mark.parametrize("text", ["{", "[]", "null"])
def test_a_summary_that_is_no_object_leaves_the_rest(tmp_path: Path, make_run: MakeRun, text: str) -> None:
    (make_run(tmp_path, ("grpo",), (1,)) / "summary.json").write_text(text)
    assert len(load_run_set(tmp_path).runs[0].metrics) > 100


def test_a_summary_cannot_point_outside_of_its_directory(tmp_path: Path, make_run: MakeRun) -> None:
    inside = tmp_path / "inside"
    make_run(tmp_path / "secret", ("grpo",), (1,))
    inside.mkdir()
    runs = {"a/1": "../secret", "b/1": "gone"}
    (inside / "summary.json").write_text(json.dumps({"runs": runs}))
    run_set = load_run_set(inside)
    assert run_set.runs == ()
    assert "lies outside of the run directory" in run_set.missing[0]
    assert run_set.missing[1] == "gone is missing: no curves and stories of b/1."


@pytest.mark.parametrize(("count", "colours"), [(1, [2]), (2, [0, 2]), (3, [0, 1, 2]), (8, [0, 1, 2, 3, 4, 5, 0, 1])])
def test_the_last_of_few_arms_is_the_strongest(tmp_path: Path, count: int, colours: list[int]) -> None:
    arms = [f"arm{i}" for i in range(count)]
    (tmp_path / "summary.json").write_text(json.dumps({"arms": arms}))
    run_set = load_run_set(tmp_path)
    assert [run_set.colour(arm) for arm in arms] == colours


def test_a_resolved_config_may_be_json_and_the_commit_unknown(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"name": "x"}')
    (tmp_path / "summary.json").write_text('{"title": "t", "commit": null}')
    run_set = load_run_set(tmp_path)
    assert run_set.runs[0].config == '{"name": "x"}'
    assert not [note for note in run_set.missing if "summary" in note]

"""Corpus and questions of examples/smollm2_search.toml: made by their script, and true to the run's own tool."""

from __future__ import annotations

import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from critique_rl.build_tasks import build_environment, build_tasks
from critique_rl.config.load import read_run_file, resolve, resolve_stages
from critique_rl.config.search import SearchTasksConfig
from critique_rl.tasks.search import SearchEnvironment, SearchTasks
from critique_rl.types import Turn

ROOT = Path(__file__).parents[2]
DATA = ROOT / "examples" / "data"
NAMES = ("search_corpus", "search_questions", "search_questions_held_out")
pytest.importorskip("bm25s")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> SearchTasksConfig:
    monkeypatch.chdir(ROOT)  # run files name their data from there
    tasks = resolve(read_run_file(Path("examples/smollm2_search.toml"))).tasks
    assert isinstance(tasks, SearchTasksConfig)
    return tasks


def built(run: SearchTasksConfig) -> tuple[SearchTasks, SearchEnvironment]:
    source, tool = build_tasks(run), build_environment(run)
    assert isinstance(source, SearchTasks) and tool is not None
    return source, tool


def test_the_files_are_what_their_script_makes() -> None:
    rows = cast(
        "Callable[[], dict[str, list[object]]]", runpy.run_path(str(ROOT / "examples/make_search_data.py"))["rows"]
    )
    made = rows()
    assert tuple(made) == NAMES
    for name in NAMES:
        lines = (DATA / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
        assert [json.loads(line) for line in lines] == made[name]
    assert sum((DATA / f"{name}.jsonl").stat().st_size for name in NAMES) < 400_000


def test_worked_episodes_say_what_the_tool_says(run: SearchTasksConfig) -> None:
    source, tool = built(run)
    for task in source.training():
        for episode in json.loads(task.metadata["episodes"]):
            turns: list[Turn] = []
            for said in episode:
                turns.append(tool.answer(task, [*turns, Turn(start=0, end=1, text=said["text"])]))
                assert turns[-1].observation == said["observation"]
            assert turns[-1].action == "answer" and turns[-1].argument == task.answer
            assert len(turns) <= run.max_turns
            assert len(turns) == (2 if task.kind == "one search" else 3)


def test_nobody_is_asked_about_on_both_sides(run: SearchTasksConfig) -> None:
    source, _ = built(run)
    people = [row["text"] for row in map(json.loads, (DATA / "search_corpus.jsonl").read_text().splitlines())]
    names = {" ".join(text.split()[:2]) for text in people}

    def asked(questions: list[str]) -> set[str]:
        return {name for name in names if any(f" {name} " in question for question in questions)}

    trained = asked([task.question for task in source.training()])
    held_out = asked([task.question for task in source.held_out()])
    assert (len(trained), len(held_out)) == (40, 12) and not trained & held_out
    assert all(task.answer not in task.question for task in (*source.training(), *source.held_out()))


def test_stages_first_show_calls_and_then_let_the_policy_search() -> None:
    stages = resolve_stages(read_run_file(ROOT / "examples/smollm2_search.toml"))
    assert [stage.config.algorithm.name for stage in stages] == ["sft", "grpo"]

"""Every run file in examples/ is one that `critique-rl train` accepts, with all of its arms."""

from __future__ import annotations

from pathlib import Path

import pytest

from critique_rl.config.load import load_run, read_run_file, resolve
from critique_rl.config.run import RunConfig
from critique_rl.config.search import SearchTasksConfig
from critique_rl.config.tasks import JsonlTasksConfig

ROOT = Path(__file__).parents[2]
RUN_FILES = sorted((ROOT / "examples").rglob("*.toml"))


def test_there_are_examples() -> None:
    assert RUN_FILES


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_run_file_loads(path: Path) -> None:
    assert isinstance(load_run(path), RunConfig)
    run_file = read_run_file(path)
    for arm in run_file.arms:
        assert isinstance(resolve(run_file, arm=arm), RunConfig)


@pytest.mark.parametrize("path", RUN_FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_run_file_names_data_that_exists(path: Path) -> None:
    tasks = load_run(path).tasks
    if isinstance(tasks, JsonlTasksConfig | SearchTasksConfig):
        assert (ROOT / tasks.path).is_file()
        assert tasks.held_out_path is None or (ROOT / tasks.held_out_path).is_file()

"""The run file of an order: what stands behind the file, and what cannot be put there."""

from __future__ import annotations

from pathlib import Path

import pytest

from critique_rl.config.curriculum import with_stages
from critique_rl.config.load import read_run_file, resolve_stages
from critique_rl.config.stages import StageConfig
from critique_rl.config.tasks import MixtureTasksConfig
from critique_rl.errors import ConfigError

PLAIN = """name = "mix"
[tasks]
kind = "mixture"
of.a = { kind = "lab", share = 3 }
of.b = { kind = "lab" }
of."c.d" = { kind = "lab" }
"""


def stages(text: str, tmp_path: Path) -> tuple[StageConfig, ...]:
    path = tmp_path / "run.toml"
    path.write_text(text)
    return resolve_stages(read_run_file(path))


def trained(stage: StageConfig) -> dict[str, float]:
    assert isinstance(stage.config.tasks, MixtureTasksConfig)
    return stage.config.tasks.trained


def test_one_stage_a_task_in_the_order(tmp_path: Path) -> None:
    found = stages(with_stages(PLAIN, ["b", "c.d", "a"], note="why"), tmp_path)
    assert [stage.name for stage in found] == ["b", "c.d", "a"]
    assert [list(trained(stage)) for stage in found] == [["b"], ["c.d"], ["a"]]
    assert with_stages(PLAIN, ["b", "c.d", "a"], note="why").startswith(PLAIN.rstrip("\n") + "\n\n# why\n")


def test_earlier_tasks_are_replayed_in_equal_parts(tmp_path: Path) -> None:
    found = stages(with_stages(PLAIN, ["b", "c.d", "a"], replay_fraction=0.2), tmp_path)
    assert [trained(stage) for stage in found] == [
        {"b": 1.0},
        {"b": 0.2, "c.d": 0.8},
        {"a": 0.8, "b": 0.1, "c.d": 0.1},
    ]


def test_shares_stay_where_the_file_has_them(tmp_path: Path) -> None:
    text = PLAIN.replace(", share = 3", "") + "shares = { a = 3, b = 1 }\n"
    found = stages(with_stages(text, ["b", "c.d", "a"], replay_fraction=0.5), tmp_path)
    assert trained(found[1]) == {"b": 0.5, "c.d": 0.5}


def test_the_token_budget_is_shared_out(tmp_path: Path) -> None:
    found = stages(with_stages(PLAIN + "[budget]\nmax_generated_tokens = 1000\n", ["a", "b", "c.d"]), tmp_path)
    assert [stage.config.budget.max_generated_tokens for stage in found] == [333, 333, 333]


@pytest.mark.parametrize(
    ("text", "order", "fraction", "wanted"),
    [
        (PLAIN, ["a", "b"], 0.0, "the order has a, b, and the run file's mixture a, b, c.d"),
        ('name = "x"\n', ["a"], 0.0, "mixture none"),
        ("tasks = 3\n", ["a"], 0.0, "mixture none"),
        (PLAIN + '[[stage]]\nname = "s"\n', ["a", "b", "c.d"], 0.0, "has stages already"),
        (PLAIN, ["a", "b", "c.d"], 1.0, "from 0 to below 1"),
    ],
)
def test_what_cannot_be_staged(text: str, order: list[str], fraction: float, wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        with_stages(text, order, replay_fraction=fraction)

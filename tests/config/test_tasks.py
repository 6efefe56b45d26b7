"""The [tasks] section."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter, ValidationError

from critique_rl.config.tasks import (
    GuessTasksConfig,
    JsonlTasksConfig,
    LabTasksConfig,
    ReasoningGymTasksConfig,
    TasksConfig,
)

TASKS: TypeAdapter[LabTasksConfig | GuessTasksConfig | JsonlTasksConfig | ReasoningGymTasksConfig] = TypeAdapter(
    TasksConfig
)


@pytest.mark.parametrize(
    ("section", "kind"),
    [
        ({"kind": "lab", "digits": 3}, LabTasksConfig),
        ({"kind": "lab_guess", "known_share": 0.5, "verifier": "honest"}, GuessTasksConfig),
        ({"kind": "jsonl", "path": "a.jsonl", "held_out_fraction": 0.1}, JsonlTasksConfig),
        ({"kind": "reasoning_gym", "dataset": "chain_sum", "params": {"min_terms": 2}}, ReasoningGymTasksConfig),
    ],
)
def test_kind_chooses_the_class(section: dict[str, object], kind: type) -> None:
    assert type(TASKS.validate_python(section)) is kind


def test_a_section_survives_json() -> None:
    config = JsonlTasksConfig(kind="jsonl", path=Path("a.jsonl"), held_out_path=Path("b.jsonl"))
    assert TASKS.validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("section", "complaint"),
    [
        ({"kind": "hub"}, "kind"),
        ({"kind": "lab", "digit": 2}, "digit"),
        ({"kind": "lab", "train_hard": 0}, "hard_share is 0.5 but train_hard is 0"),
        ({"kind": "lab", "train_easy": 0}, "hard_share is 0.5 but train_easy is 0"),
        ({"kind": "lab_guess", "train_easy": 2}, "train_easy"),
        ({"kind": "lab_guess", "verifier": ""}, "verifier"),
        ({"kind": "lab_guess", "train_known": 0}, r"known_share is 0\.2 but train_known is 0"),
        ({"kind": "lab_guess", "train_guessed": 0}, r"known_share is 0\.2 but train_guessed is 0"),
        ({"kind": "jsonl", "path": "a"}, "exactly one of held_out_path and held_out_fraction"),
        ({"kind": "jsonl", "path": "a", "held_out_path": "b", "held_out_fraction": 0.1}, "exactly one of"),
        ({"kind": "jsonl", "path": "a", "held_out_fraction": 1.0}, "less than 1"),
        ({"kind": "reasoning_gym"}, "dataset"),
    ],
)
def test_what_is_refused(section: dict[str, object], complaint: str) -> None:
    with pytest.raises(ValidationError, match=complaint):
        TASKS.validate_python(section)

"""The sections of a mixture: shares, what is trained on, and that a written config reads back as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from critique_rl.config.load import dump, validate
from critique_rl.config.mixture import in_part, part_of
from critique_rl.config.tasks import MixtureTasksConfig, TasksConfig, parts_of

TASKS: TypeAdapter[Any] = TypeAdapter(TasksConfig)
OF = {"sums": {"kind": "lab", "share": 3}, "guess": {"kind": "lab_guess"}}


def mixture(**more: object) -> MixtureTasksConfig:
    return TASKS.validate_python({"kind": "mixture", "of": OF, **more})


def test_shares_are_read_from_each_section() -> None:
    assert mixture().trained == {"sums": 3.0, "guess": 1.0}
    assert mixture(shares={"guess": 2}).trained == {"sums": 3.0, "guess": 2.0}
    assert mixture(shares={"sums": 3}).trained == {"sums": 3.0, "guess": 1.0}
    assert [part.kind for part in parts_of(mixture())] == ["lab", "lab_guess"]
    assert [part.kind for part in parts_of(TASKS.validate_python({"kind": "lab"}))] == ["lab"]


def test_only_some_are_trained_on() -> None:
    assert mixture(only=["guess"]).trained == {"guess": 1.0}
    assert mixture(only=["guess", "sums"]).trained == {"sums": 3.0, "guess": 1.0}


def test_a_written_config_reads_back_as_it_was() -> None:
    config = validate({"tasks": {"kind": "mixture", "of": OF, "only": ["sums"]}}, source="test")
    assert validate(json.loads(dump(config)), source="test") == config


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        ({"of": {"sums": {"kind": "lab"}}}, "at least 2"),
        ({"of": {"a:b": {"kind": "lab"}, "c": {"kind": "lab"}}}, "pattern"),
        ({"of": {"a": {"kind": "mixture"}, "c": {"kind": "lab"}}}, "mixture"),
        ({"of": {"a": {"kind": "lab", "share": 0}, "c": {"kind": "lab"}}}, "greater than 0"),
        ({"of": {"a": {"kind": "lab", "weight": 1}, "c": {"kind": "lab"}}}, "weight"),
        ({"of": {"a": "lab", "c": {"kind": "lab"}}}, "dict"),
        ({"of": "lab"}, "of"),
        ({"shares": {"sums": 1}}, r"of.sums.share = 3 and shares.sums = 1; set one"),
        ({"shares": {"art": 1}}, "shares names 'art'; the sources are sums, guess"),
        ({"only": ["art"]}, "only names 'art'"),
        ({"only": ["sums", "sums"]}, "names one twice"),
    ],
)
def test_bad_mixtures(more: dict[str, object], wanted: str) -> None:
    with pytest.raises(ValidationError, match=wanted):
        mixture(**more)


def test_names_of_parts() -> None:
    assert in_part("math", "easy") == "math:easy"
    assert in_part("sort", "sort") == in_part("sort", "") == "sort"
    assert part_of("math:easy") == part_of("math") == "math"

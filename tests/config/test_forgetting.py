"""The [forgetting] section: what it may watch, and keys without effect."""

from __future__ import annotations

import pytest

from critique_rl.config.forgetting import main_sources
from critique_rl.config.load import validate
from critique_rl.errors import ConfigError

MIXTURE: dict[str, object] = {"kind": "mixture", "of": {"a": {"kind": "lab"}, "b": {"kind": "lab"}}}


def test_a_section_for_a_mixture() -> None:
    tree: dict[str, object] = {"tasks": {**MIXTURE, "only": ["a"]}, "forgetting": {"finished": ["b"]}}
    config = validate(tree, source="test")
    assert config.forgetting is not None
    assert (config.forgetting.action, config.forgetting.replay_share) == ("replay", None)
    assert validate({"tasks": MIXTURE}, source="test").forgetting is None


@pytest.mark.parametrize(
    ("section", "tasks", "wanted"),
    [
        ({}, {"kind": "lab"}, "no effect with tasks.kind = 'lab'"),
        ({"finished": ["c"]}, MIXTURE, "finished names 'c'; the sources are a, b"),
        ({"finished": ["a"]}, MIXTURE, "finished names 'a', which this run trains on"),
        ({"action": "stop", "replay_share": 0.1}, MIXTURE, "no effect with action = 'stop'"),
        ({"replay_share": 1.0}, MIXTURE, "less than 1"),
        ({"standard_errors": 0}, MIXTURE, "greater than 0"),
    ],
)
def test_bad_sections(section: dict[str, object], tasks: dict[str, object], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        validate({"tasks": tasks, "forgetting": section}, source="test")


def test_the_largest_share_says_what_a_run_is_for() -> None:
    assert main_sources({"a": 0.8, "b": 0.1, "c": 0.1}) == ("a",)
    assert main_sources({"a": 1.0, "b": 1.0}) == ("a", "b")

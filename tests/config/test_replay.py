"""Where [replay] is read, and where it could do nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from critique_rl.config.load import dump, load_resolved, validate
from critique_rl.config.replay import ReplayConfig
from critique_rl.errors import ConfigError

CRITIC: dict[str, object] = {"critic": {"kind": "lab_rules"}}


@pytest.mark.parametrize("name", ["critique_grpo", "two_channel"])
def test_naming_the_section_turns_it_on(name: str, tmp_path: Path) -> None:
    config = validate({"algorithm": {"name": name}, **CRITIC, "replay": {}}, source="test")
    assert config.replay == ReplayConfig(instead_of_critic=True, revisit_share=0.0)
    assert validate({"algorithm": {"name": name}, **CRITIC}, source="test").replay is None
    (tmp_path / "run.json").write_text(dump(config))
    assert load_resolved(tmp_path / "run.json") == config


@pytest.mark.parametrize(
    ("tree", "fault"),
    [
        ({"algorithm": {"name": "grpo"}}, r"\[replay\] would have no effect under algorithm.name = 'grpo'"),
        ({"algorithm": {"name": "directive_distillation"}, **CRITIC}, r"\[replay\] would have no effect under"),
        (
            {"algorithm": {"name": "two_channel", "use": ["scores", "targets"]}, **CRITIC},
            r"no effect under .* with use",
        ),
        (
            {"algorithm": {"name": "two_channel"}, "feedback": {"path": "x"}},
            r"\[replay\] would have no effect with \[f",
        ),
    ],
)
def test_where_nothing_is_refined_or_sampled_it_is_refused(tree: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        validate({**tree, "replay": {}}, source="test")


@pytest.mark.parametrize(
    "options", [{"capacity": 0}, {"max_age_steps": 0}, {"revisit_share": 1.0}, {"revisit_share": -0.1}]
)
def test_limits(options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        validate({"algorithm": {"name": "two_channel"}, **CRITIC, "replay": options}, source="test")

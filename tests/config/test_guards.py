"""The [guards] section: where it is read, and that every limit says where it comes from."""

from __future__ import annotations

import pytest

from critique_rl.config.guards import GuardsConfig
from critique_rl.config.load import dump, validate
from critique_rl.errors import ConfigError

CRITIC = {"critic": {"kind": "lab_rules"}}


@pytest.mark.parametrize("name", ["critique_grpo", "directive_distillation", "two_channel"])
def test_it_is_taken_where_something_is_injected(name: str) -> None:
    config = validate({"algorithm": {"name": name}, **CRITIC, "guards": {"mode": "warn"}}, source="test")
    assert config.guards.mode == "warn"


def test_it_is_refused_where_nothing_is_injected() -> None:
    with pytest.raises(ConfigError, match=r"\[guards\] would have no effect under algorithm.name = 'grpo'"):
        validate({"guards": {}}, source="test")


def test_it_is_refused_with_recalled_rollouts_unless_it_says_nothing() -> None:
    tree: dict[str, object] = {"algorithm": {"name": "two_channel"}, "feedback": {"path": "rows.jsonl"}}
    config = validate(tree, source="test")
    assert '"guards"' in dump(config)  # the resolved run, which is read back when a run is resumed, names every section
    assert validate({**tree, "guards": {}}, source="test").guards == GuardsConfig()
    with pytest.raises(ConfigError, match=r"\[guards\] would have no effect with \[feedback\]"):
        validate({**tree, "guards": {"mode": "off"}}, source="test")


ALONE: list[dict[str, object]] = [
    {"algorithm": {"name": "directive_distillation"}},
    {"algorithm": {"name": "two_channel", "use": ["scores"]}},
    {"algorithm": {"name": "two_channel", "use": ["targets"]}, "distillation": {"join": "sequential"}},
]


@pytest.mark.parametrize("alone", ALONE, ids=["targets without rewards", "scores", "one source a step"])
@pytest.mark.parametrize(("key", "value"), [("conflict_every", 5), ("max_conflict", 0.4)])
def test_a_conflict_that_no_step_can_have_is_refused(alone: dict[str, object], key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"guards\.{key} = {value} has no effect here: no step of .* both"):
        validate({**alone, **CRITIC, "guards": {key: value}}, source="test")
    assert validate({**alone, **CRITIC, "guards": {"conflict_every": 0}}, source="test").guards.conflict_every == 0
    assert validate({**alone, **CRITIC, "guards": {"mode": "warn"}}, source="test").guards.mode == "warn"


def test_every_number_says_where_it_comes_from() -> None:
    for name, field in GuardsConfig.model_fields.items():
        if name != "mode":
            assert any(words in (field.description or "") for words in ("no published evidence", "usual")), name


@pytest.mark.parametrize(
    "change", [{"min_entropy": 1.0}, {"max_entropy": 1.0}, {"min_length": 0.0}, {"max_length": 0.5}, {"cosine": -0.3}]
)
def test_limits_that_could_never_or_always_be_passed_are_refused(change: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        GuardsConfig.model_validate(change)

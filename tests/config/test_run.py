"""Which sections each algorithm reads, and defaults that the specs fix."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError

from critique_rl.config.algorithm import AlgorithmConfig
from critique_rl.config.load import validate
from critique_rl.config.run import NEEDS, RunConfig
from critique_rl.errors import ConfigError

SECTIONS = {"critic": {"kind": "lab_rules"}, "refinement": {}, "distillation": {}}


def test_every_algorithm_says_what_it_reads() -> None:
    configs = get_args(get_args(AlgorithmConfig)[0])
    assert {config().name for config in configs} == NEEDS.keys()


@pytest.mark.parametrize("name", NEEDS)
@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_is_taken_exactly_where_it_is_read(name: str, section: str) -> None:
    tree: dict[str, object] = {"algorithm": {"name": name}, section: SECTIONS[section]}
    if "critic" in NEEDS[name]:
        tree["critic"] = SECTIONS["critic"]
    if section in NEEDS[name]:
        assert section in validate(tree, source="test").model_fields_set
    else:
        with pytest.raises(ConfigError, match=rf"\[{section}\] would have no effect under"):
            validate(tree, source="test")


def test_no_critic_is_the_same_as_none() -> None:
    assert validate({"critic": {"kind": "none"}}, source="test").critic is None


def test_a_config_is_frozen() -> None:
    config = RunConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 3  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(ValidationError, match="frozen"):
        config.rollout.group_size = 3  # pyright: ignore[reportAttributeAccessIssue]


def test_defaults_that_the_methods_rest_on() -> None:
    config = RunConfig()
    assert config.algorithm.name == "grpo" and config.algorithm.scale == "none"  # Dr.GRPO: no std
    assert config.loss.normalizer == "constant" and config.loss.clip_low == config.loss.clip_high == 0.2
    assert config.refinement.gamma == 0.1 and config.refinement.ratio_mode == "shaped"
    assert config.distillation.divergence == "forward" and config.distillation.tail
    assert config.policy.model == "lab" and config.tasks.kind == "lab"

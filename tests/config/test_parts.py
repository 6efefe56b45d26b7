"""What is learned from a critique: which sections and keys that leaves to read."""

from __future__ import annotations

from typing import cast

import pytest

from critique_rl.config.algorithm import PARTS, TwoChannelConfig
from critique_rl.config.load import validate
from critique_rl.config.reads import NEEDS, sections_read
from critique_rl.config.run import RunConfig
from critique_rl.errors import ConfigError

CRITIC: dict[str, object] = {"critic": {"kind": "lab_rules"}}


def read(use: object, algorithm: dict[str, object] | None = None, **sections: object) -> RunConfig:
    tree = {"algorithm": {"name": "two_channel", "use": use, **(algorithm or {})}, **CRITIC, **sections}
    return validate(tree, source="test")


@pytest.mark.parametrize(
    ("use", "sections"),
    [
        (["scores"], {"trust", "guards"}),
        (["targets"], {"distillation", "guards"}),
        (["refinements"], {"refinement", "trust", "guards"}),
        (["scores", "targets"], {"distillation", "trust", "guards"}),
        (["refinements", "targets"], {"refinement", "distillation", "trust", "guards"}),
    ],
)
def test_a_section_is_taken_exactly_where_a_part_reads_it(use: list[str], sections: set[str]) -> None:
    for section in ("refinement", "distillation", "trust", "guards"):
        if section in sections:
            assert section in read(use, **{section: {}}).reads
        else:
            with pytest.raises(
                ConfigError, match=rf"\[{section}\] would have no effect under .* with use = \[.{use[0]}"
            ):
                read(use, **{section: {}})
    assert read(use).reads & {"refinement", "distillation"} == sections & {"refinement", "distillation"}


def test_all_parts_read_all_that_the_method_needs() -> None:
    assert sections_read("two_channel") == NEEDS["two_channel"] == read(list(PARTS)).reads
    assert sections_read("critique_grpo", ()) == NEEDS["critique_grpo"]  # no other method has the key
    assert sections_read("nobody") == frozenset()


@pytest.mark.parametrize(
    ("use", "algorithm", "fault"),
    [
        ([], {}, 'learns nothing from a critique: that is GRPO; name some of .* or set algorithm.name = "grpo"'),
        (["scores"], {"critic_score_weight": 0.0}, "learns nothing from a critique: that is GRPO"),
        (["targets", "targets"], {}, "names a part twice"),
        (
            ["targets"],
            {"critic_score_weight": 0.2},
            r"critic_score_weight = 0\.2 has no effect with use = \['targets'\]",
        ),
        (
            ["targets"],
            {"baseline": "first_turn"},
            "baseline = 'first_turn' has no effect with use .* since no refinement",
        ),
        (["rewards"], {}, "Input should be 'scores', 'targets' or 'refinements'"),
        ("targets", {}, "use: Input should be a valid tuple"),
        (3, {}, "use: Input should be a valid tuple"),
    ],
)
def test_what_is_refused(use: object, algorithm: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        read(use, algorithm)


def test_a_critic_is_asked_for_by_every_part() -> None:
    for part in PARTS:
        with pytest.raises(ConfigError, match=r"needs a \[critic\] section"):
            validate({"algorithm": {"name": "two_channel", "use": [part]}}, source="test")


def test_parts_without_scores_weigh_none_and_read_back() -> None:
    for use in (["targets"], ["refinements", "targets"], ["scores"], list(PARTS)):
        config = cast(TwoChannelConfig, read(use).algorithm)
        assert config.critic_score_weight == (0.1 if "scores" in use else 0.0)
        assert TwoChannelConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("join", ["signed", "routed", "sequential"])
def test_a_join_with_rewards_needs_rewards(join: str) -> None:
    sampled = {"support": "sampled"} if join == "signed" else {}
    alone = {"algorithm": {"name": "directive_distillation"}, **CRITIC, "distillation": {"join": join, **sampled}}
    with pytest.raises(ConfigError, match=f"distillation.join = '{join}' has no effect under .* choose two_channel"):
        validate(alone, source="test")
    assert read(["targets"], distillation={"join": join, **sampled}).distillation.join == join


def test_an_anchor_is_not_routed() -> None:
    tree: dict[str, object] = {
        "algorithm": {"name": "two_channel"},
        "feedback": {"path": "rows.jsonl", "anchor": True},
        "distillation": {"join": "routed"},
    }
    with pytest.raises(ConfigError, match=r"feedback\.anchor has no effect with distillation\.join"):
        validate(tree, source="test")


SCORES_ONLY = {"kind": "openai", "model": "m", "base_url": "http://127.0.0.1:1/v1", "max_directives": 0}


def test_a_critic_of_scores_alone_serves_a_run_that_reads_them() -> None:
    assert read(["scores"], critic=SCORES_ONLY).reads_scores
    for use, left in ((["targets"], r"\[distillation\]"), (["scores", "refinements"], r"\[refinement\]")):
        with pytest.raises(ConfigError, match=rf"max_directives = 0 leaves {left} without a word; raise it"):
            read(use, critic=SCORES_ONLY)

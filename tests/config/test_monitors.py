"""`[monitors]`: defaults, what has no effect is refused, own formats must be usable."""

from __future__ import annotations

from typing import get_args

import pytest

from critique_rl.config.load import validate
from critique_rl.config.monitors import DEFAULT, Metric, MonitorsConfig
from critique_rl.config.run import RunConfig
from critique_rl.errors import ConfigError


def monitors(**options: object) -> MonitorsConfig:
    return MonitorsConfig.model_validate(options)


def test_nothing_is_watched_unless_asked_for() -> None:
    assert RunConfig().monitors is None


def test_the_section_alone_watches_batches_with_all_that_needs_no_extra() -> None:
    config = validate({"monitors": {}}, source="test").monitors
    assert config is not None and config.batch and config.probe_tasks == 0
    assert set(config.measured) == set(get_args(Metric)) - {"self_bleu", "trajectory_clusters"}
    assert config.measured == DEFAULT


@pytest.mark.parametrize("metric", get_args(Metric))
def test_each_metric_has_a_switch(metric: Metric) -> None:
    every = list(get_args(Metric))
    assert metric not in monitors(metrics=every, without=[metric]).measured
    assert monitors(metrics=[metric]).measured == (metric,)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"metrics": []}, "would watch nothing"),
        ({"metrics": ["vendi"], "without": ["vendi"]}, "would watch nothing"),
        ({"batch": False}, "would watch nothing"),
        ({"without": ["self_bleu"]}, "only what is in metrics"),
        ({"metrics": ["vendi", "vendi"]}, "each metric once"),
        ({"metrics": ["entropy"]}, "metrics"),
        ({"batch": False, "probe_tasks": 4, "every": 2}, "every would have no effect"),
        ({"probe_samples": 4}, "probe_samples would have no effect"),
        ({"probe_every": 5}, "probe_every would have no effect"),
        ({"metrics": ["vendi"], "formats": {"a": "^A"}}, "formats would have no effect"),
        ({"metrics": ["vendi"], "early_steps": 9}, "early_steps would have no effect"),
        ({"formats": {"a": "^A"}, "format_detectors": "clusters"}, "format_detectors would have no effect"),
        ({"format_clusters": 3}, "format_clusters would have no effect"),
        ({"metrics": ["formats"], "max_samples": 9}, "max_samples would have no effect"),
        ({"formats": {"other": "x"}}, "formats.other"),
        ({"formats": {"a b": "x"}}, "wanted a name"),
        ({"formats": {"a": "("}}, "no regular expression"),
        ({"formats": {"a": "x*"}}, "found in an empty text"),
        ({"probe": 3}, "probe"),
    ],
)
def test_what_has_no_effect_or_cannot_be(options: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        validate({"monitors": options}, source="test")


def test_formats_keep_their_order() -> None:
    assert list(monitors(formats={"z": "^Z", "a": "^A"}).formats) == ["z", "a"]


def test_a_dumped_config_is_read_back() -> None:
    config = monitors(probe_tasks=4, formats={"a": "^A"}, without=["vendi"])
    assert MonitorsConfig.model_validate(config.model_dump(mode="json")) == config


def test_recalled_rollouts_are_not_watched() -> None:
    tree: dict[str, object] = {
        "algorithm": {"name": "critique_grpo"},
        "feedback": {"path": "rows.jsonl"},
        "monitors": {},
    }
    with pytest.raises(ConfigError, match=r"\[monitors\] would watch nothing with \[feedback\]"):
        validate(tree, source="test")
    validate({**tree, "monitors": {"probe_tasks": 4}}, source="test")

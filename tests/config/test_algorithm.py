"""Options of a method that contradict each other, do nothing, or are a name for others."""

from __future__ import annotations

from pathlib import Path

import pytest

from critique_rl.config.algorithm import SIGN_WEIGHTS, WeightedReinforceConfig
from critique_rl.config.load import dump, load_resolved, read_run_file, resolve, validate
from critique_rl.errors import ConfigError


def weighted(**options: object) -> WeightedReinforceConfig:
    config = validate({"algorithm": {"name": "weighted_reinforce", **options}}, source="test").algorithm
    assert isinstance(config, WeightedReinforceConfig)
    return config


def test_weights_by_name_and_by_number() -> None:
    assert (weighted().positive_weight, weighted().negative_weight) == SIGN_WEIGHTS["w_reinforce"] == (0.1, 1.0)
    for preset, weights in SIGN_WEIGHTS.items():
        named = weighted(preset=preset)
        assert (named.positive_weight, named.negative_weight) == weights
        assert WeightedReinforceConfig(preset=preset) == named
    assert weighted(positive_weight=0.4).negative_weight == 1.0
    assert weighted(preset="nsr", negative_weight=1.0) == weighted(preset="nsr")


def test_a_resolved_run_reads_its_preset_back(tmp_path: Path) -> None:
    config = validate({"algorithm": {"name": "weighted_reinforce", "preset": "nsr"}}, source="test")
    path = tmp_path / "config.json"
    path.write_text(dump(config), encoding="utf-8")
    assert load_resolved(path) == config


def test_arms_name_their_presets(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text(
        "algorithm.name = 'weighted_reinforce'\n[arms.a]\nalgorithm.preset = 'psr'\n[arms.b]\n"
        "algorithm.positive_weight = 0.2\n",
        encoding="utf-8",
    )
    found = [resolve(read_run_file(path), arm=arm).algorithm for arm in "ab"]
    assert found == [WeightedReinforceConfig(preset="psr"), WeightedReinforceConfig(positive_weight=0.2)]


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"preset": "npr"}, "preset: Input should be 'psr', 'nsr', 'w_reinforce' or 'reinforce'"),
        ({"preset": "nsr", "positive_weight": 0.1}, r"positive_weight = 0.1 .* contradict preset = 'nsr', which means"),
        ({"positive_weight": 0, "negative_weight": 0}, "both 0, which learns nothing; give one of them a number above"),
        ({"denominator": "all"}, "denominator = 'all' has no effect where both weights are above 0"),
        ({"preset": "nsr", "denominator": "full"}, "denominator: Input should be 'kept' or 'all'"),
        ({"positive_weight": -1}, "positive_weight: Input should be greater than or equal to 0"),
        ({"negative_weight": float("inf")}, "negative_weight: Input should be a finite number"),
        ({"threshold": 0}, "threshold: Input should be greater than 0"),
        ({"threshold": 1.5}, "threshold: Input should be less than or equal to 1"),
        ({"scale": "std"}, "scale is not a known key"),
    ],
)
def test_weights_that_mean_nothing(options: dict[str, object], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        weighted(**options)


def test_all_is_read_where_a_weight_is_0() -> None:
    assert weighted(preset="psr", denominator="all").denominator == "all"
    assert weighted(positive_weight=0.0, negative_weight=0.5, denominator="all").denominator == "all"
